"""The size of an image, from its header."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from PIL import Image

_HEAD = 4096  # bytes of a file that are looked at first
_ORIENTATION = 0x0112  # of EXIF: 5 to 8 turn the image by 90 degrees, where OpenCV goes by it
Size = tuple[int, int]  # height, width


def image_size(source: str | Path | bytes) -> Size | None:
    """The height and width that OpenCV decodes an image to, in pixels; ``None`` where it is none.

    Of a PNG a few bytes are read, since a training set has up to 130,000 to look at: Pillow takes 82 us for one, this
    14. Others are left to Pillow. What it does not know is decoded, and so is what says that it is turned: OpenCV 4.11
    leaves a WebP as it lies, 5 turns it.

    Args:
        source: A file, or its bytes.

    Raises:
        OSError: If the file cannot be read.
    """
    if isinstance(source, bytes):
        return _png_size(source[:_HEAD]) or _pillow_size(io.BytesIO(source)) or _decoded_size(source)
    with open(source, 'rb') as file:
        size = _png_size(file.read(_HEAD))
        return size or _pillow_size(file) or _decoded_size(Path(source).read_bytes())


def png_size(encoded: bytes | memoryview) -> Size:
    """The height and width in a PNG's header."""
    width, height = struct.unpack('>II', encoded[16:24])
    return height, width


def _png_size(head: bytes) -> Size | None:
    """The size of a PNG, unless it may say that the image is turned."""
    is_png = head[:8] == b'\x89PNG\r\n\x1a\n' and head[12:16] == b'IHDR' and len(head) >= 33
    return png_size(head) if is_png and b'eXIf' not in head else None


def _pillow_size(file: IO[bytes]) -> Size | None:
    """The size of an image that is not turned."""
    try:
        file.seek(0)
        with Image.open(file) as image:
            return None if image.getexif().get(_ORIENTATION, 1) >= 5 else image.size[::-1]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _decoded_size(encoded: bytes) -> Size | None:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR) if encoded else None
    return None if image is None else image.shape[:2]

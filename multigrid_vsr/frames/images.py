"""Images in files: their size by the header, their pixels, and the first rows of a PNG without the others."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from isal import isal_zlib
from PIL import Image, UnidentifiedImageError

from multigrid_vsr.core.errors import OptionError

_HEAD = 4096  # bytes of a file that are looked at first
_READABLE = ('AVIF', 'BMP', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP')  # by Pillow and by OpenCV
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


def png_size(encoded: bytes) -> Size:
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
    image = decode_image(encoded)
    return None if image is None else image.shape[:2]


def decode_image(encoded: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """The pixels of an encoded image, uint8 (h, w, 3), BGR; ``None`` where it is none.

    Files are read by Python everywhere: OpenCV crashes on a name that is no UTF-8.
    """
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if len(encoded) else None


def is_image(path: Path) -> bool:
    """Whether a file of any name is an image that OpenCV reads, by its header.

    Raises:
        OSError: If the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.format in _READABLE
    except (SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return False


def check_images(option: str, files: Sequence[Path]) -> None:
    """Refuses images that would lose nearly all without a word.

    Args:
        option: Which option names them.
        files: The frames of a clip. The first one is looked at; where it is deep, the middle and the last one too.

    Raises:
        OptionError: If a file holds several frames, or 16 bits hold values of 10 or 12 bits, which 8 bits leave black.
    """
    number, may_be_deep = _frames_and_depth(files[0])
    if number > 1:
        raise OptionError(option, 'hold a frame a file', f'{files[0]} with {number}', 'Write each frame as a file.')
    largest = 0
    for path in [files[place] for place in sorted({0, len(files) // 2, len(files) - 1})] if may_be_deep else []:
        encoded = path.read_bytes()
        deep, image = (decode_image(encoded, flags) for flags in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR))
        if deep is None or image is None or deep.dtype != np.uint16 or image.max() > 16:
            return
        largest = max(largest, int(deep.max()))
    if largest:
        value = f'no value above {largest} of 65535 in {files[0]}, which 8 bits leave black'
        raise OptionError(option, 'use all bits', value, 'Multiply the values, by 64 where they have 10 bits.')


def _frames_and_depth(path: Path) -> tuple[int, bool]:
    """How many frames a file holds, and whether it may have more than 8 bits a channel."""
    with open(path, 'rb') as file:
        head = file.read(_HEAD)
        if _png_size(head) is not None and b'acTL' not in head:
            return 1, head[24] > 8
        try:
            file.seek(0)
            with Image.open(file) as image:
                number, is_jpeg = getattr(image, 'n_frames', 1), image.format in ('JPEG', 'MPO')
                return 1 if is_jpeg else number, not is_jpeg and image.format not in ('BMP', 'WEBP')
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return 1, False


_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Of IHDR: 8 bits a channel, RGB, deflate, the standard filters, not interlaced.
_PLAIN_RGB = bytes([8, 2, 0, 0, 0])


def first_rows(encoded: bytes, rows: int) -> bytes:
    """A PNG of the first rows alone, as libpng would decode them; the file itself where it is of another kind.

    Inflating is most of the cost of decoding, and a row depends on those above alone (PNG specification, 9.2). So the
    stream is inflated as far as needed, by a faster library than libpng's, and wrapped anew, uncompressed; libpng
    undoes the row filters.

    Args:
        encoded: A PNG file.
        rows: Number of rows to keep.

    Returns:
        The smaller file; an empty one where it is damaged before the end of these rows.
    """
    if encoded[:8] != _SIGNATURE or encoded[24:29] != _PLAIN_RGB:
        return encoded
    height, width = png_size(encoded)
    size = rows * (1 + 3 * width)
    if rows >= height:
        return encoded
    inflater = isal_zlib.decompressobj()
    filtered = bytearray()
    position = 33
    while len(filtered) < size and position + 12 <= len(encoded):
        (length,) = struct.unpack_from('>I', encoded, position)
        end = position + 8 + length
        if encoded[position + 4 : position + 8] == b'eXIf':  # which may say that the image is turned
            return encoded
        if encoded[position + 4 : position + 8] == b'IDAT':
            if isal_zlib.crc32(encoded[position + 4 : end]) != int.from_bytes(encoded[end : end + 4], 'big'):
                return b''
            try:
                filtered += inflater.decompress(encoded[position + 8 : end], size - len(filtered))
            except isal_zlib.error:  # type: ignore[misc]
                return b''
        position = end + 4
    if len(filtered) < size:
        return b''
    header = _chunk(b'IHDR', struct.pack('>II', width, rows) + _PLAIN_RGB)
    return _SIGNATURE + header + _chunk(b'IDAT', _stored(filtered)) + _chunk(b'IEND', b'')


def _stored(data: bytes | bytearray) -> bytes:
    """A zlib stream of blocks that are not compressed (RFC 1950, RFC 1951 section 3.2.4)."""
    view = memoryview(data)
    parts: list[bytes | memoryview] = [b'\x78\x01']
    for start in range(0, len(view), 0xFFFF):
        block = view[start : start + 0xFFFF]
        is_last = start + 0xFFFF >= len(view)
        parts += [struct.pack('<BHH', is_last, len(block), len(block) ^ 0xFFFF), block]
    return b''.join([*parts, struct.pack('>I', isal_zlib.adler32(data))])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', isal_zlib.crc32(data, isal_zlib.crc32(kind)))

"""The first rows of a PNG file, without decoding the others."""

from __future__ import annotations

import struct

from isal import isal_zlib

from multigrid_vsr.frames.image_size import png_size

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

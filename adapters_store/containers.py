"""How the file of a picture is put together: what would cost a decoder too much is refused.

Knows bytes, neither Pillow nor pixels, and judges no picture: whatever it cannot follow it leaves
to the decoder. It exists because a small file can ask for a lot without having many pixels: a
JPEG whose thousand scans each pass over all of it, a PNG with thousands of deflated profiles, a
TIFF that lies in millions of tiles.
"""

import re
import struct
from typing import Final

SEGMENTS_MAX: Final = 1000  # of a JPEG, where a large profile and extended XMP take 500
CHUNKS_MAX: Final = 300  # of a PNG, image data not counted; each may inflate to a mebibyte
SCANS_MAX: Final = 100  # of a JPEG; encoders write about ten
VALUES_MAX: Final = 250_000  # numbers in the directory of a TIFF: offsets of strips, a palette, …
_FILL_MAX: Final = 4096  # bytes between the segments of a JPEG, where there should be none

_MARKER: Final = re.compile(rb"\xff+[^\x00\xff]")
_SCAN_END: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_BARE: Final = frozenset((0x01, *range(0xD0, 0xD9)))  # markers that no length follows
_SOS, _EOI = 0xDA, 0xD9
_DRAWN: Final = (b"IDAT", b"fdAT", b"fcTL")
_BYTE_TYPES: Final = (1, 2, 6, 7)  # of TIFF fields that are read as one piece


def fault(data: bytes) -> str:
    """Why this file is not given to a decoder, or nothing."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data[:2] in (b"II", b"MM"):
        return _tiff(data)
    return ""


def _jpeg(data: bytes) -> str:
    """Walks the segments as libjpeg does, up to the end of the first picture."""
    at, parts, scans, fill, pattern = 2, 0, 0, 0, _MARKER
    while found := pattern.search(data, at):
        fill += found.end() - at - 2 if pattern is _MARKER else 0
        code, at, pattern = data[found.end() - 1], found.end(), _MARKER
        if code == _EOI:
            break
        if code in _BARE:
            continue
        at += int.from_bytes(data[at : at + 2], "big")
        if code == _SOS:
            scans, pattern = scans + 1, _SCAN_END
        else:
            parts += 1
        if scans > SCANS_MAX:
            return f"the image has more than {SCANS_MAX} scans"
        if parts > SEGMENTS_MAX + 10 * scans:  # tables may stand before each scan
            return f"the image has more than {SEGMENTS_MAX} segments"
        if fill > _FILL_MAX:
            return "the image is damaged: bytes between its segments"
    return ""


def _png(data: bytes) -> str:
    at, parts = 8, 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            break
        parts += kind not in _DRAWN
        if parts > CHUNKS_MAX:
            return f"the image has more than {CHUNKS_MAX} chunks of metadata"
        at += length + 12
    return ""


def _tiff(data: bytes) -> str:
    """Adds up the values of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"\0+", b"+\0")
    try:
        if big:
            (at,) = struct.unpack_from(f"{order}Q", data, 8)
            (fields,) = struct.unpack_from(f"{order}Q", data, at)
        else:
            (at,) = struct.unpack_from(f"{order}I", data, 4)
            (fields,) = struct.unpack_from(f"{order}H", data, at)
        at, step, field = (at + 8, 20, f"{order}HHQ") if big else (at + 2, 12, f"{order}HHI")
        values = fields
        for _ in range(min(fields, VALUES_MAX + 1)):
            _, kind, count = struct.unpack_from(field, data, at)
            values += 0 if kind in _BYTE_TYPES else count
            at += step
    except (struct.error, OverflowError):
        return ""  # cut off: the decoder will say so
    if values > VALUES_MAX:
        return f"the image's directory holds more than {VALUES_MAX} values"
    return ""

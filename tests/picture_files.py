"""Picture files written by hand, where Pillow writes no such file, and what a case of one is."""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.uint8]  # [H, W, 3], or [H, W] where it is grey
Y, X = np.mgrid[:32, :48]
SCENE: Pixels = np.stack([X * 5, Y * 8, 255 - (X + Y) * 3], axis=2).astype(np.uint8)
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
ADAM7 = (*_PASSES, (0, 1, 1, 2))  # first column and row, and the steps between them

II_HEADER = b"II*\0\x08\0\0\0"


@dataclass(frozen=True, slots=True)
class Case:
    """One file."""

    name: str
    data: bytes
    kind: str  # content type it is sent with
    picture: Pixels | None = None  # what it decodes to, uint8 [H, W, 3]; None: refused
    within: int = 0
    says: str = ""  # words of the refusal

    def __str__(self) -> str:
        """For pytest."""
        return self.name


def saved(picture: Pixels | Image.Image, kind: str, mode: str = "", **how: object) -> bytes:
    """As Pillow writes it."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **how)
    return file.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    """One chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    depth: int,
    colour: int,
    rows: bytes,
    *,
    before: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A PNG of rows that are packed already, each with its filter byte in front."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND")
    )


def png_of(values: NDArray[np.integer], depth: int, colour: int, before: bytes = b"") -> bytes:
    """A PNG of values [H, W, channels], whatever the depth."""
    height, width = values.shape[:2]
    return png((width, height), depth, colour, _packed(values, depth), before=before)


def png_interlaced(picture: Pixels) -> bytes:
    """An RGB PNG in the seven passes of Adam7."""
    height, width = picture.shape[:2]
    passes = b"".join(_packed(picture[y::dy, x::dx], 8) for x, y, dx, dy in ADAM7)
    return png((width, height), 8, 2, passes, interlaced=True)


def png_blank(size: tuple[int, int], depth: int = 1, colour: int = 0, before: bytes = b"") -> bytes:
    """A PNG of zeros, of any size in few bytes."""
    row = bytes(1 + (size[0] * depth * _CHANNELS[colour] + 7) // 8)
    return png(size, depth, colour, row * size[1], before=before)


def _packed(values: NDArray[np.integer], depth: int) -> bytes:
    rows = values.reshape(values.shape[0], -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(rows.shape[0], -1)
    elif depth == 8:
        packed = rows.astype(np.uint8)
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(rows.shape[0], -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def tiff(
    fields: Sequence[tuple[int, int, int, bytes]], data: bytes, *, offsets: int = 273
) -> bytes:
    """A little-endian TIFF: (tag, type, count, value) and one strip, or tile (offsets=324)."""
    entries = [
        *fields,
        (offsets, 4, 1, b"\0\0\0\0"),
        (offsets + (6 if offsets == 273 else 1), 4, 1, long(len(data))),
    ]
    start = len(II_HEADER) + 2 + 12 * len(entries) + 4
    start += sum(len(value) for *_, value in entries if len(value) > 4)
    entries = [(t, k, c, long(start) if t == offsets else v) for t, k, c, v in entries]
    at = len(II_HEADER) + 2 + 12 * len(entries) + 4
    table, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, count, value in sorted(entries):
        table += struct.pack("<HHI", tag, kind, count)
        table += long(at + len(tail)) if len(value) > 4 else value.ljust(4, b"\0")
        tail += value if len(value) > 4 else b""
    return II_HEADER + table + b"\0\0\0\0" + tail + data


def long(value: int) -> bytes:
    """32 bits, little-endian."""
    return struct.pack("<I", value)


def tiff_fields(
    size: tuple[int, int],
    bits: int = 8,
    *,
    samples: int = 1,
    photometric: int = 1,
    compression: int = 1,
) -> list[tuple[int, int, int, bytes]]:
    """What every TIFF says of itself."""
    return [
        (256, 4, 1, long(size[0])),
        (257, 4, 1, long(size[1])),
        (258, 3, samples, struct.pack("<H", bits) * samples),
        (259, 3, 1, struct.pack("<H", compression)),
        (262, 3, 1, struct.pack("<H", photometric)),
        (277, 3, 1, struct.pack("<H", samples)),
    ]


def gif(
    screen: tuple[int, int], frame: tuple[int, int, int, int], codes: bytes, extension: bytes = b""
) -> bytes:
    """A GIF of two colours, (16, 32, 48) and white, with one frame."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x80, 0, 0)
        + bytes((16, 32, 48, 255, 255, 255))
        + extension
        + b","
        + struct.pack("<HHHHB", *frame, 0)
        + b"\x02"
        + bytes((len(codes),))
        + codes
        + b"\0;"
    )


def bmp(width: int, height: int, compression: int, data: bytes) -> bytes:
    """An 8-bit BMP with a palette of greens."""
    palette = b"".join(bytes((0, i, 0, 0)) for i in range(256))
    start = 14 + 40 + len(palette)
    header = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 256, 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def webp_canvas(width: int, height: int) -> bytes:
    """The header of an extended WEBP, and an animation without frames."""
    sides = long(width - 1)[:3] + long(height - 1)[:3]
    body = b"VP8X" + long(10) + b"\x02\0\0\0" + sides + b"ANIM" + long(6) + bytes(6)
    return b"RIFF" + long(4 + len(body)) + b"WEBP" + body


def ycck(picture: Pixels) -> bytes:
    """A JPEG in YCCK, as Adobe writes it: Pillow's CMYK with its channels and its mark changed."""
    turned = np.asarray(Image.fromarray(255 - picture).convert("YCbCr"))
    stored = np.dstack([255 - turned, np.zeros(picture.shape[:2], np.uint8)])
    data = bytearray(
        saved(Image.frombytes("CMYK", picture.shape[1::-1], stored.tobytes()), "JPEG", quality=98)
    )
    data[data.index(b"Adobe") + 11] = 2  # the transform: 0 is CMYK, 2 is YCCK
    return bytes(data)


def scans(picture: Pixels, number: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more."""
    whole = saved(picture, "JPEG", progressive=True, quality=90)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * number + whole[-2:]


def profile(*, swapped: bool) -> bytes:
    """An sRGB profile; or one in which red and blue have changed places."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if swapped:
        data = data.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1)
        data = data.replace(b"????", b"bXYZ", 1)
    return data


def oriented(picture: Pixels, orientation: int) -> tuple[Pixels, Image.Exif]:
    """The picture as a camera stores it that was held so, and what it says of it."""
    flipped = picture[::-1, ::-1]
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: flipped,
        4: picture[::-1],
        5: picture.transpose(1, 0, 2),
        6: np.rot90(picture),
        7: flipped.transpose(1, 0, 2),
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return np.ascontiguousarray(stored), exif

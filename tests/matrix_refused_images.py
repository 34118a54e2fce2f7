"""Every kind of file that is refused: its bytes, and words of the refusal. See `matrix_images`."""

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

from tests import picture_files
from tests.picture_files import (
    SCENE,
    Case,
    bmp,
    chunk,
    gif,
    long,
    png,
    png_blank,
    png_of,
    saved,
    tiff,
    tiff_fields,
)

UNKNOWN = "the bytes are no image of a known format"
DAMAGED = "the image is damaged"
MANY = "at most 50000000 are decoded"
_NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def cases() -> tuple[Case, ...]:
    """All of them, each small."""
    return (*_strangers(), *_damaged(), *_bombs(), *_unread())


def _bad(name: str, data: bytes, says: str, kind: str = "image/jpeg") -> Case:
    return Case(name, data, kind, says=says)


def _strangers() -> list[Case]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(zipfile.ZipInfo("rose.jpg"), saved(SCENE, "JPEG"))
    noise = np.random.default_rng(1).bytes(5000)
    files = {
        "text": b"a rose is a rose is a rose",
        "HTML": b"<!DOCTYPE html><html><img src=rose.jpg></html>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
        "PDF": b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n%%EOF",
        "zip with a JPEG": archive.getvalue(),
        "gzip of a JPEG": gzip.compress(saved(SCENE, "JPEG"), mtime=0),
        "JSON": b'{"image": ""}',
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        "AVIF": saved(SCENE, "AVIF"),
        "JPEG 2000": saved(SCENE, "JPEG2000"),
        "icon": saved(SCENE, "ICO"),
        "film (MP4)": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(99),
        "random bytes": noise,
        "zeros": bytes(5000),
    }
    return [
        _bad("nothing", b"", "the image is empty"),
        *(_bad(name, data, UNKNOWN) for name, data in files.items()),
    ]


def _damaged() -> list[Case]:
    sound = saved(SCENE, "PNG")
    profile_at = saved(SCENE, "PNG", icc_profile=picture_files.profile(swapped=False))
    spoilt = bytearray(profile_at)
    spoilt[profile_at.index(b"iCCP") + 30] ^= 1
    found = []
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "PPM", "TIFF"):
        data = saved(_NOISE, kind)
        found.append(_bad(f"{kind}, half of it", data[: len(data) // 2], DAMAGED))
        found.append(_bad(f"{kind}, its first 12 bytes", data[:12], "image"))
    return [
        *found,
        _bad("JPEG, without its end mark", saved(SCENE, "JPEG")[:-2], DAMAGED),
        _bad("PNG, checksum of the header", sound[:29] + b"????" + sound[33:], UNKNOWN),
        _bad("PNG, checksum of the profile", bytes(spoilt), UNKNOWN),
        _bad("PNG, pixels that do not inflate", sound.replace(b"IDATx", b"IDAT?"), DAMAGED),
        _bad(
            "PNG, no width",
            png_of(SCENE, 8, 2).replace(struct.pack(">II", 48, 32), bytes(8)),
            UNKNOWN,
        ),
        _bad(
            "JPEG, 20 kB between its segments",
            b"\xff\xd8" + b"\xff" * 20_000 + saved(SCENE, "JPEG")[2:],
            DAMAGED,
        ),
    ]


def _bombs() -> list[Case]:
    """Small files that ask for a lot."""
    zeros = zlib.compress(bytes(2 * 2**20), 9)
    tiny = b"\0\0"
    restore = b"!\xf9\x04\x09\0\0\0\0"  # the frame's place is cleared after it was shown
    claimed = bytearray(saved(SCENE, "JPEG"))
    at = claimed.index(b"\xff\xc0")
    claimed[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    tiles = [(322, 4, 1, long(1)), (323, 4, 1, long(1))]
    great = [(322, 4, 1, long(32768)), (323, 4, 1, long(32768))]
    deflated = tiff_fields((8, 8), compression=8)
    return [
        _bad("JPEG that claims 65500x65500", bytes(claimed), MANY),
        _bad("JPEG of 101 scans", picture_files.scans(SCENE, 101), "more than 100 scans"),
        _bad(
            "JPEG of 2000 comments",
            saved(SCENE, "JPEG")[:2] + b"\xff\xfe\0\4ab" * 2000 + saved(SCENE, "JPEG")[2:],
            "more than 1000 segments",
        ),
        _bad("PNG that claims 65000x65000", png((65000, 65000), 8, 2, tiny), MANY),
        _bad("PNG of one pixel too many", png((7143, 7001), 1, 0, tiny), MANY),
        _bad("PNG of a line too long", png_blank((65_536, 1)), "no side may have more"),
        _bad(
            "PNG, text that inflates to 2 MiB",
            png_of(SCENE, 8, 2, chunk(b"zTXt", b"a\0\0" + zeros)),
            DAMAGED,
        ),
        _bad(
            "PNG, profile that inflates to 2 MiB",
            png_of(SCENE, 8, 2, chunk(b"iCCP", b"a\0\0" + zeros)),
            DAMAGED,
        ),
        _bad(
            "PNG of 2000 texts",
            png_of(SCENE, 8, 2, chunk(b"tEXt", b"a\0b") * 2000),
            "more than 300 chunks",
        ),
        _bad("GIF of 65535x65535", gif((65535, 65535), (0, 0, 1, 1), b"\x4c\1"), MANY),
        _bad(
            "GIF whose frame is larger than its screen",
            gif((1, 1), (0, 0, 65535, 65535), b"\x4c\1"),
            MANY,
        ),
        _bad(
            "GIF that clears 65535x65535",
            gif((1, 1), (0, 0, 65535, 65535), b"\x4c\1", restore),
            MANY,
        ),
        _bad("WEBP canvas of 65536x61696", picture_files.webp_canvas(65536, 61696), MANY),
        _bad("BMP of 2147483647x2", bmp(2**31 - 1, 2, 0, tiny), MANY),
        _bad(
            "BMP in run lengths that skip",
            bmp(60_000, 1, 1, b"\0\2\0\xff\0\1"),
            "encoding (bmp_rle)",
        ),
        _bad("PPM that claims 60000x60000", b"P6 60000 60000 255 ", MANY),
        _bad("TIFF that claims 65500x65500", tiff(tiff_fields((65500, 65500)), tiny), MANY),
        _bad(
            "TIFF whose tile is 32768x32768",
            tiff([*deflated, *great], zlib.compress(tiny), offsets=324),
            "tiles have too many pixels",
        ),
        _bad(
            "TIFF in 300000 tiles",
            tiff(
                [*tiff_fields((600, 500)), *tiles, (325, 4, 300_000, long(1) * 300_000)],
                tiny,
                offsets=324,
            ),
            "more than 250000 values",
        ),
    ]


def _unread() -> list[Case]:
    """Sound pictures of kinds that are not answered."""
    deep = SCENE[:, :, 0].astype(np.int32)
    twelve = tiff_fields((48, 32), 12)
    negative = tiff_fields((48, 32), 16, photometric=0)
    return [
        _bad(
            "TIFF in floating point",
            saved(Image.fromarray(deep.astype(np.float32)), "TIFF"),
            "samples (mode F)",
        ),
        _bad("TIFF in 32 bits", saved(Image.fromarray(deep), "TIFF"), "samples (mode I)"),
        _bad("TIFF in 12 bits", tiff(twelve, bytes(48 * 32 * 3 // 2)), "samples (12 bits)"),
        _bad("TIFF in 16 bits, white is zero", tiff(negative, bytes(48 * 32 * 2)), "white is zero"),
        _bad("TIFF in CIELAB", saved(Image.new("LAB", (8, 8)), "TIFF"), "samples (mode LAB)"),
        _bad(
            "TIFF, fax",
            saved(SCENE, "TIFF", mode="1", compression="group4"),
            "compression (group4)",
        ),
        _bad("TIFF, LZMA", saved(SCENE, "TIFF", compression="lzma"), "compression (lzma)"),
        _bad(
            "PPM in floating point",
            saved(Image.fromarray(deep.astype(np.float32)), "PPM"),
            "samples (mode F)",
        ),
        _bad("PPM in plain text", b"P3 1 1 255 9 9 9 ", "encoding (ppm_plain)"),
        _bad("PPM of 255 shades", b"P6 1 1 254 " + bytes(3), "encoding (ppm)"),
    ]

"""Every kind of picture: its bytes, and what must come of it.

Read by the unit tests and by `tests.bench.hardening.images`. All files are made here, the same
each time. Whoever answers a picture must have decoded it to `picture`, up to `within`; whoever
refuses it must say `says`.
"""

import functools
import struct

import numpy as np
from PIL import Image

from tests import matrix_refused_images, picture_files
from tests.picture_files import SCENE, Case, Pixels, X, chunk, oriented, png_of, saved, tiff

GREY: Pixels = SCENE[:, :, 0]
GREYS: Pixels = np.repeat(GREY[:, :, None], 3, axis=2)
WHITE: Pixels = np.full_like(SCENE, 255)
HALF = X >= 24  # the right half is transparent where something is
ON_WHITE: Pixels = np.where(HALF[:, :, None], 255, SCENE).astype(np.uint8)
GREY_ON_WHITE: Pixels = np.where(HALF[:, :, None], 255, GREYS).astype(np.uint8)
LOSSY = 10  # of 255, at the edges of JPEG's blocks and of halved colour


def _good(kind: str, name: str, data: bytes, picture: Pixels = SCENE, within: int = 0) -> Case:
    return Case(f"{kind}, {name}", data, f"image/{kind.lower()}", picture, within)


@functools.cache
def cases() -> tuple[Case, ...]:
    """All of them, small enough for every test."""
    answered = (*_jpegs(), *_pngs(), *_others(), *_tiffs(), *_shapes())
    return (*answered, *matrix_refused_images.cases())


def _jpegs() -> list[Case]:
    made = functools.partial(saved, kind="JPEG", quality=95)
    found = [
        _good("JPEG", "4:2:0", made(SCENE, subsampling=2), SCENE, LOSSY),
        _good("JPEG", "4:4:4", made(SCENE, subsampling=0), SCENE, LOSSY),
        _good("JPEG", "progressive", made(SCENE, progressive=True), SCENE, LOSSY),
        _good("JPEG", "greyscale", made(GREY), GREYS, LOSSY),
        _good("JPEG", "CMYK, as Adobe writes it", made(SCENE, mode="CMYK"), SCENE, LOSSY),
        _good("JPEG", "YCCK", picture_files.ycck(SCENE), SCENE, LOSSY),
        _good(
            "JPEG",
            "CMYK with a profile",
            made(SCENE, mode="CMYK", icc_profile=picture_files.profile(swapped=True)),
            SCENE,
            LOSSY,
        ),
        _good(
            "JPEG",
            "sRGB profile",
            made(SCENE, icc_profile=picture_files.profile(swapped=False)),
            SCENE,
            LOSSY,
        ),
        _good(
            "JPEG",
            "profile that swaps red and blue",
            made(SCENE, icc_profile=picture_files.profile(swapped=True)),
            SCENE,
            LOSSY,
        ),
        _good(
            "JPEG", "EXIF that is garbage", made(SCENE, exif=b"Exif\0\0garbage" * 9), SCENE, LOSSY
        ),
        _good("JPEG", "orientation 9", made(SCENE, exif=_orientation(9)), SCENE, LOSSY),
        _good(
            "JPEG",
            "two pictures (MPO)",
            saved(SCENE, "MPO", save_all=True, append_images=[Image.fromarray(WHITE)], quality=95),
            SCENE,
            LOSSY,
        ),
    ]
    for orientation in range(1, 9):
        stored, exif = oriented(SCENE, orientation)
        data = made(stored, exif=exif)
        found.append(_good("JPEG", f"orientation {orientation}", data, SCENE, LOSSY))
    return found


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def _pngs() -> list[Case]:
    wide = SCENE.astype(np.uint16) * 257
    alpha = np.where(HALF, 0, 255)
    key = tuple(int(v) for v in SCENE[0, 0])
    keyed = SCENE.copy()
    keyed[0, 0] = 255
    two, four = GREY // 64, GREY // 16
    grey_key = struct.pack(">H", 1)
    palette = Image.fromarray(SCENE).quantize(64)
    colours = np.asarray(palette.convert("RGB"))
    indices = np.asarray(palette)
    part = np.where((indices < 32)[:, :, None], 255, colours).astype(np.uint8)
    stored, exif = oriented(SCENE, 6)
    animated = {"save_all": True, "append_images": [Image.fromarray(WHITE)], "duration": 50}
    return [
        _good("PNG", "RGB", saved(SCENE, "PNG")),
        _good("PNG", "greyscale", saved(GREY, "PNG"), GREYS),
        _good("PNG", "interlaced", picture_files.png_interlaced(SCENE)),
        _good("PNG", "RGBA on white", png_of(np.dstack([SCENE, alpha]), 8, 6), ON_WHITE),
        _good(
            "PNG", "grey and alpha on white", png_of(np.dstack([GREY, alpha]), 8, 4), GREY_ON_WHITE
        ),
        _good("PNG", "palette", saved(palette, "PNG"), colours),
        _good(
            "PNG",
            "palette, one clear entry",
            saved(palette, "PNG", transparency=63),
            _cleared(colours, indices == 63),
        ),
        _good("PNG", "palette with alphas", saved(palette, "PNG", transparency=bytes(32)), part),
        _good("PNG", "1 bit", png_of(two // 2, 1, 0), _greys(two // 2 * 255)),
        _good("PNG", "2 bits", png_of(two, 2, 0), _greys(two * 85)),
        _good("PNG", "4 bits", png_of(four, 4, 0), _greys(four * 17)),
        _good(
            "PNG",
            "2 bits, one grey clear",
            png_of(two, 2, 0, chunk(b"tRNS", grey_key)),
            _cleared(_greys(two * 85), two == 1),
        ),
        _good(
            "PNG",
            "4 bits, one grey clear",
            png_of(four, 4, 0, chunk(b"tRNS", grey_key)),
            _cleared(_greys(four * 17), four == 1),
        ),
        _good(
            "PNG",
            "one colour clear",
            png_of(SCENE, 8, 2, chunk(b"tRNS", struct.pack(">HHH", *key))),
            keyed,
        ),
        _good("PNG", "16-bit greyscale", png_of(wide[:, :, 0], 16, 0), GREYS),
        _good(
            "PNG",
            "16-bit greyscale, one grey clear",
            png_of(wide[:, :, 0], 16, 0, chunk(b"tRNS", struct.pack(">H", 5 * 257))),
            _cleared(GREYS, GREY == 5),
        ),
        _good("PNG", "16-bit RGB", png_of(wide, 16, 2)),
        _good(
            "PNG",
            "16-bit RGB, one colour clear",
            png_of(wide, 16, 2, chunk(b"tRNS", struct.pack(">HHH", *(257 * v for v in key)))),
            keyed,
        ),
        _good("PNG", "16-bit RGBA", png_of(np.dstack([wide, alpha * 257]), 16, 6), ON_WHITE),
        _good(
            "PNG",
            "16-bit grey and alpha",
            png_of(np.dstack([wide[:, :, 0], alpha * 257]), 16, 4),
            GREY_ON_WHITE,
        ),
        _good("PNG", "animated", saved(SCENE, "PNG", **animated)),
        _good(
            "PNG",
            "animated, with a default image",
            saved(SCENE, "PNG", default_image=True, **animated),
        ),
        _good("PNG", "orientation 6", saved(stored, "PNG", exif=exif)),
        _good(
            "PNG", "profile", saved(SCENE, "PNG", icc_profile=picture_files.profile(swapped=True))
        ),
        _good("PNG", "gamma 1.0", png_of(SCENE, 8, 2, chunk(b"gAMA", struct.pack(">I", 100_000)))),
        _good("PNG", "without its end mark", saved(SCENE, "PNG")[:-12]),
    ]


def _greys(values: np.ndarray) -> Pixels:
    return np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)


def _cleared(picture: Pixels, where: np.ndarray) -> Pixels:
    return np.where(where[:, :, None], 255, picture).astype(np.uint8)


def _others() -> list[Case]:
    """GIF, WEBP, BMP and PPM."""
    palette = Image.fromarray(SCENE).quantize(64)
    colours = np.asarray(palette.convert("RGB"))
    clear = Image.fromarray(np.dstack([SCENE, np.where(HALF, 0, 255).astype(np.uint8)]))
    stored, exif = oriented(SCENE, 6)
    more = {"save_all": True, "append_images": [Image.fromarray(WHITE)]}
    open_frame = np.full((4, 4, 3), (16, 32, 48), np.uint8)
    open_frame[0, 0] = 255
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    return [
        _good("GIF", "plain", saved(palette, "GIF"), colours),
        _good("GIF", "interlaced", saved(palette, "GIF", interlace=True), colours),
        _good(
            "GIF",
            "clear colour",
            saved(palette, "GIF", transparency=9, optimize=False),
            _cleared(colours, np.asarray(palette) == 9),
        ),
        _good("GIF", "animated", saved(palette, "GIF", **more), colours),
        _good(
            "GIF",
            "first frame smaller than the screen",
            picture_files.gif((4, 4), (0, 0, 1, 1), b"\x4c\x01"),
            open_frame,
        ),
        _good("WEBP", "lossy", saved(SCENE, "WEBP", quality=95), SCENE, LOSSY),
        _good("WEBP", "lossless", saved(SCENE, "WEBP", lossless=True)),
        _good("WEBP", "alpha on white", saved(clear, "WEBP", lossless=True, exact=True), ON_WHITE),
        _good("WEBP", "animated", saved(SCENE, "WEBP", lossless=True, **more)),
        _good("WEBP", "orientation 6", saved(stored, "WEBP", lossless=True, exif=exif)),
        _good(
            "WEBP",
            "profile",
            saved(SCENE, "WEBP", lossless=True, icc_profile=picture_files.profile(swapped=True)),
        ),
        _good("BMP", "24 bits", saved(SCENE, "BMP")),
        _good("BMP", "palette", saved(palette, "BMP"), colours),
        _good("BMP", "1 bit", saved(GREY > 100, "BMP"), _greys((GREY > 100) * 255)),
        _good("BMP", "32 bits, alpha not used", saved(clear, "BMP")),
        _good("PPM", "colour", saved(SCENE, "PPM")),
        _good("PPM", "greyscale", saved(GREY, "PPM"), GREYS),
        _good("PPM", "16-bit greyscale", saved(wide, "PPM"), GREYS),
        _good("PPM", "1 bit", saved(GREY > 100, "PPM"), _greys((GREY > 100) * 255)),
    ]


def _tiffs() -> list[Case]:
    alpha = np.where(HALF, 0, 255).astype(np.uint8)
    clear = Image.fromarray(np.dstack([SCENE, alpha]))
    wide = GREY.astype("<u2") * 257
    palette = Image.fromarray(SCENE).quantize(64)
    stored, exif = oriented(SCENE, 6)
    fields = picture_files.tiff_fields((48, 32), 16, photometric=1)
    premultiplied = picture_files.tiff_fields((48, 32), samples=2)
    grey_alpha = np.dstack([np.where(HALF, 0, GREY), alpha]).astype(np.uint8)
    own = picture_files.long(len(picture_files.II_HEADER))
    circle = [*picture_files.tiff_fields((48, 32)), (0x8769, 4, 1, own), (330, 4, 1, own)]
    tile = np.zeros((32, 64), np.uint8)
    tile[:, :48] = GREY
    tiles = [*picture_files.tiff_fields((48, 32)), (322, 3, 1, b"\x40\0"), (323, 3, 1, b"\x20\0")]
    pages = {"save_all": True, "append_images": [Image.fromarray(WHITE)]}
    found = [
        _good("TIFF", kind, saved(SCENE, "TIFF", compression=kind))
        for kind in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate")
    ]
    return [
        *found,
        _good(
            "TIFF",
            "JPEG inside",
            saved(SCENE, "TIFF", compression="jpeg", quality=95),
            SCENE,
            LOSSY,
        ),
        _good("TIFF", "several pages", saved(SCENE, "TIFF", **pages)),
        _good("TIFF", "big (64-bit offsets)", saved(SCENE, "TIFF", big_tiff=True)),
        _good("TIFF", "RGBA on white", saved(clear, "TIFF"), ON_WHITE),
        _good(
            "TIFF",
            "grey, multiplied with its alpha",
            tiff([*premultiplied, (338, 3, 1, b"\1\0")], grey_alpha.tobytes()),
            GREY_ON_WHITE,
        ),
        _good("TIFF", "palette", saved(palette, "TIFF"), np.asarray(palette.convert("RGB"))),
        _good("TIFF", "CMYK", saved(SCENE, "TIFF", mode="CMYK"), SCENE, 1),
        _good("TIFF", "YCbCr", saved(SCENE, "TIFF", mode="YCbCr"), SCENE, 3),
        _good("TIFF", "16-bit greyscale", tiff(fields, wide.tobytes()), GREYS),
        _good(
            "TIFF",
            "white is zero",
            tiff(picture_files.tiff_fields((48, 32), photometric=0), (255 - GREY).tobytes()),
            GREYS,
        ),
        _good(
            "TIFF",
            "one tile, wider than the picture",
            tiff(tiles, tile.tobytes(), offsets=324),
            GREYS,
        ),
        _good("TIFF", "orientation 6", saved(stored, "TIFF", exif=exif)),
        _good(
            "TIFF",
            "orientation 6, compressed",
            saved(stored, "TIFF", exif=exif, compression="tiff_lzw"),
        ),
        _good("TIFF", "directories that point at themselves", tiff(circle, GREY.tobytes()), GREYS),
    ]


def _shapes() -> list[Case]:
    line = np.repeat(np.arange(20_000, dtype=np.uint32)[None, :, None] // 79, 3, axis=2).astype(
        np.uint8
    )
    return [
        _good("PNG", "1x1", saved(SCENE[:1, :1], "PNG"), SCENE[:1, :1]),
        _good("PNG", "20000x1", saved(line, "PNG"), line),
        _good("PNG", "1x20000", saved(line.transpose(1, 0, 2), "PNG"), line.transpose(1, 0, 2)),
        _good("JPEG", "1x1", saved(SCENE[:1, :1], "JPEG", quality=95), SCENE[:1, :1], LOSSY),
    ]

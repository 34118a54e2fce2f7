"""How much memory costly pictures take above what is promised. Run as a process of its own.

Prints one line a picture: its name, and the MiB above PEAK_BYTES a pixel, an allowance a byte of
the file and one for the noise of allocators. Linux only.
"""

import sys
from pathlib import Path

from PIL import Image

from adapters_store.manifest import Preprocess
from adapters_store.pixels import PEAK_BYTES, pixels
from tests.picture_files import png_blank, saved

SIDE = 2500
FILE_BYTES = 32  # a byte of the file: what Pillow makes of metadata
NOISE_BYTES = 24 * 2**20


def main() -> None:
    """Decode and measure one after the other."""
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=(64, 64), mean=half, std=half)
    pixels(saved(Image.new("RGB", (8, 8)), "PNG"), preprocess)
    for name, data in pictures().items():
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
        pixels(data, preprocess)
        promised = PEAK_BYTES * SIDE**2 + FILE_BYTES * len(data) + NOISE_BYTES
        above = (_memory("VmHWM") - before - promised) / 2**20
        sys.stdout.write(f"{name} {above:.0f}\n")


def pictures() -> dict[str, bytes]:
    """Of six million pixels each, and small as files."""
    colour = Image.new("RGB", (SIDE, SIDE), (9, 99, 200))
    clear = Image.new("RGBA", (SIDE, SIDE), (9, 99, 200, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "JPEG": saved(colour, "JPEG", exif=exif),
        "JPEG progressive": saved(colour, "JPEG", progressive=True, subsampling=0, exif=exif),
        "JPEG CMYK": saved(colour, "JPEG", mode="CMYK", progressive=True, exif=exif),
        "PNG RGBA": png_blank((SIDE, SIDE), 8, 6),
        "PNG RGBA 16": png_blank((SIDE, SIDE), 16, 6),
        "PNG grey 16": png_blank((SIDE, SIDE), 16, 0),
        "GIF": saved(Image.new("P", (SIDE, SIDE)), "GIF"),
        "WEBP": saved(colour, "WEBP", method=0),
        "WEBP lossless": saved(clear, "WEBP", lossless=True, method=0, quality=0),
        "BMP": saved(Image.new("1", (SIDE, SIDE)), "BMP"),
        "TIFF": saved(clear, "TIFF", compression="tiff_adobe_deflate", exif=exif),
        "TIFF JPEG": saved(colour, "TIFF", compression="jpeg"),
    }


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise LookupError(field)


if __name__ == "__main__":
    main()

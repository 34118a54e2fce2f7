"""Bytes of a picture to uint8 pixels: the one decoding and geometry of training and serving.

Knows no network. What it promises, whatever the format: the first frame, turned upright as its
EXIF says, on white where it was transparent, in sRGB order, 8 bits a channel; colour profiles
are passed over, as the transforms pass over them that backbones are trained with. A picture costs
at most `PEAK_BYTES` of memory for each pixel of the limit. docs/images.md says it kind by kind.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor
from torch.nn import functional as F

from adapters_store import containers
from adapters_store.errors import ImageInvalidError
from adapters_store.geometry import Geometry, geometry
from adapters_store.manifest import Preprocess

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
PIXELS_MAX: Final = 50_000_000  # a caller may ask for a lower limit; a higher one has no effect
SIDE_MAX: Final = 65_535  # as in JPEG; the tables of a resize grow with the longer side
PEAK_BYTES: Final = 16  # for each pixel, where it costs most (WEBP): two canvases and two copies

# Some decoders take memory for what a header claims before our own limit can be checked; at twice
# this Pillow itself refuses, and between the two it warns.
Image.MAX_IMAGE_PIXELS = PIXELS_MAX
# Odd metadata is no reason to fail, nor to write to a server's log. (Filters are per process, so
# this is not done around each picture: decoders run in many threads.)
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)
_FILTERS: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
# Only decoders written in C: those in Python hold up every other thread for seconds.
_DECODERS: Final = {"jpeg", "zip", "raw", "gif", "libtiff"}
# Of TIFF. Not fax: libtiff writes a line to the server's log for every damaged row of it.
_COMPRESSIONS: Final = {
    *("raw", "packbits", "jpeg", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate"),
}
_MODES: Final = {
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B"),
}
_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = {5, 6, 7, 8}  # of these, width and height change places
_SPARE: Final = 2  # times the size that is wanted: what a scaled decode has at least
_STRIP_PIXELS: Final = 2**20


def pixels(data: bytes, preprocess: Preprocess, pixels_max: int = PIXELS_MAX) -> NDArray[np.uint8]:
    """Decode and arrange in one go: uint8 [3, H, W]. What training and serving call.

    Half to two thirds of the time of `decode` and `arrange`, whose pixels it gives up to rounding:
    the resize is torch's, and of a JPEG far larger than the network reads libjpeg decodes a half,
    a quarter or an eighth of each side, though never less than twice the size that is wanted.

    Raises:
        ImageInvalidError: see `decode` and `geometry`.
    """
    with _named(pixels_max):
        image = _opened(data, pixels_max)
        if not isinstance(image, JpegImageFile):
            upright = _loaded(image)
            return _resized(upright, geometry(*upright.size, preprocess, pixels_max))
        sideways = _orientation(image) in _SIDEWAYS
        width, height = image.size
        upright_size = (height, width) if sideways else (width, height)
        shape = geometry(*upright_size, preprocess, pixels_max)
        width, height = shape.size[::-1] if sideways else shape.size
        image.draft(None, (_SPARE * width, _SPARE * height))
        return _resized(_loaded(image), shape)


def decode(data: bytes, pixels_max: int = PIXELS_MAX) -> Image.Image:
    """The picture in these bytes as an RGB image, whole, by Pillow alone: the reference.

    Raises:
        ImageInvalidError: empty, not a picture, of a format that is not read, truncated, damaged,
            or too costly to decode.
    """
    with _named(pixels_max):
        return _loaded(_opened(data, pixels_max))


@contextmanager
def _named(pixels_max: int) -> Iterator[None]:
    """Whatever a decoder raises leaves as an ImageInvalidError."""
    try:
        yield
    except UnidentifiedImageError:
        reason = f"the bytes are no image of a known format ({', '.join(FORMATS)})"
        raise ImageInvalidError(reason) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = min(pixels_max, PIXELS_MAX)
        reason = f"the image has too many pixels; at most {most} are decoded"
        raise ImageInvalidError(reason) from None
    except ImageInvalidError:
        raise
    except Exception as error:  # noqa: BLE001 (decoders raise OSError, SyntaxError, EOFError, …)
        raise ImageInvalidError(f"the image is damaged{_said(error)}") from None


def _opened(data: bytes, pixels_max: int) -> ImageFile.ImageFile:
    """The picture with its header read and found sound, and nothing decoded."""
    if not data:
        raise ImageInvalidError("the image is empty")
    if fault := containers.fault(data):
        raise ImageInvalidError(fault)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if fault := _fault(image, min(pixels_max, PIXELS_MAX)):
        raise ImageInvalidError(fault)
    return image


def _loaded(image: ImageFile.ImageFile) -> Image.Image:
    """The pixels of an opened picture, upright and RGB."""
    _mend_key(image)
    image.load()
    orientation = _orientation(image)
    # WEBP's decoder keeps two canvases and the raw bytes for frames that nobody asks for.
    image.fp = None
    vars(image).pop("_decoder", None)
    return _rgb(image.transpose(_TURNS[orientation]) if orientation in _TURNS else image)


def _fault(image: ImageFile.ImageFile, pixels_max: int) -> str:
    """Why an opened picture is not decoded, or nothing."""
    width, height = image.size
    if width * height > pixels_max:
        return f"the image has {width}x{height} pixels; at most {pixels_max} are decoded"
    if max(width, height) > SIDE_MAX:
        return f"the image has {width}x{height} pixels; no side may have more than {SIDE_MAX}"
    if strange := {tile.codec_name for tile in image.tile} - _DECODERS:
        return f"the image's encoding ({min(strange)}) is not read"
    # Whole numbers that Pillow keeps in 32 bits are 0 … 65535 in a PPM, and may be anything else
    # in a TIFF: no brightness can be said to be white there, as little as in floating point.
    if image.mode not in _MODES and not (image.mode == "I" and image.format == "PPM"):
        return f"the image's samples (mode {image.mode}) are not read"
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff_fault(image, pixels_max)
    return ""


def _tiff_fault(image: TiffImagePlugin.TiffImageFile, pixels_max: int) -> str:
    tags, tile = image.tag_v2, image.tile[0]
    if (compression := str(image.info["compression"])) not in _COMPRESSIONS:
        return f"the image's compression ({compression}) is not read"
    rawmode = tile.args[0] if isinstance(tile.args, tuple) else tile.args
    if rawmode == "I;12":
        return "the image's samples (12 bits) are not read"
    white_is_zero = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0
    if image.mode.startswith("I;16") and white_is_zero:
        return "the image's samples (16 bits, white is zero) are not read"
    if (
        tags.get(TiffImagePlugin.TILEWIDTH, 0) * tags.get(TiffImagePlugin.TILELENGTH, 0)
        > pixels_max
    ):
        return f"the image's tiles have too many pixels; at most {pixels_max} are decoded"
    return ""


def _mend_key(image: ImageFile.ImageFile) -> None:
    """Bring the transparent colour of a PNG to the 8 bits that its pixels are brought to.

    Pillow leaves it as it stands in the file, so that it would match no pixel, or the wrong ones.
    """
    key = image.info.get("transparency")
    rawmode = image.tile[0].args if image.format == "PNG" and image.tile else None
    if rawmode in ("L;2", "L;4") and isinstance(key, int):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[rawmode]
    elif rawmode == "RGB;16B" and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _orientation(image: Image.Image) -> Any:
    """What EXIF says; an unreadable record says nothing, and TIFF is upright once it is loaded."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (as many kinds as there are ways to write nonsense)
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB; in strips, so that never more than one other picture is in memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        whole.paste(_strip(image.crop(box)), box)
    return whole


def _strip(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit greyscale: the high byte, as Pillow does with 16-bit colour; its own conversion
        # of greyscale clips instead.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _said(error: Exception) -> str:
    """What a decoder says on one line, where it is meant to be read and fit for the sender."""
    if not isinstance(error, OSError | SyntaxError | EOFError):
        return ""
    text = " ".join(str(error).split())[:100]
    return f": {text}" if text and text.isprintable() and " at 0x" not in text else ""


def arrange(
    image: Image.Image, preprocess: Preprocess, pixels_max: int = PIXELS_MAX
) -> NDArray[np.uint8]:
    """The RGB image in the network's geometry, by Pillow alone: uint8 [3, H, W].

    Raises:
        ImageInvalidError: see `geometry`.
    """
    shape = geometry(*image.size, preprocess, pixels_max)
    image = image.resize(shape.size, _FILTERS[shape.interpolation]).crop(shape.box)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def _resized(image: Image.Image, shape: Geometry) -> NDArray[np.uint8]:
    width, height = shape.size
    left, top, right, bottom = shape.box
    whole = F.interpolate(
        torch.from_numpy(np.array(image)).permute(2, 0, 1)[None],
        size=(height, width),
        mode=shape.interpolation,
        antialias=True,
        align_corners=False,
    )[0]
    cut: NDArray[np.uint8] = whole[:, top:bottom, left:right].contiguous().numpy()
    return cut


def normalise(batch: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] → float32, with mean and std of values in [0, 1], each [3] or [B, 3]."""
    shape = (-1, 3, 1, 1)
    scale = (1.0 / (255.0 * std)).reshape(shape)
    return batch.to(torch.float32) * scale - (mean / std).reshape(shape)

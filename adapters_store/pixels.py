"""Bytes of a picture to uint8 pixels: the one decoding and geometry of training and serving.

Knows no network. What it promises, whatever the format: the first frame, turned upright as its
EXIF says, on white where it was transparent, in sRGB order, 8 bits a channel.
"""

import io
import math
import warnings
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from adapters_store.errors import ImageInvalidError
from adapters_store.manifest import Preprocess

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
PIXELS_MAX: Final = 50_000_000

# Our own limit is checked from the header, before anything is decoded; Pillow's only warns.
Image.MAX_IMAGE_PIXELS = None
# Odd metadata is no reason to fail, nor to write to a server's log. (Filters are per process, so
# this is not done around each picture: decoders run in many threads.)
warnings.filterwarnings("ignore", module="PIL")
_FILTERS: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


def decode(data: bytes, pixels_max: int = PIXELS_MAX) -> Image.Image:
    """The picture in these bytes as an RGB image.

    Raises:
        ImageInvalidError: empty, not a picture, of a format that is not read, truncated, damaged,
            or of more pixels than are decoded.
    """
    if not data:
        raise ImageInvalidError("the image is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > pixels_max:
                raise ImageInvalidError(  # noqa: TRY301
                    f"the image has {width}x{height} pixels; at most {pixels_max} are decoded"
                )
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        reason = f"the bytes are no image of a known format ({', '.join(FORMATS)})"
        raise ImageInvalidError(reason) from None
    except ImageInvalidError:
        raise
    except Exception as error:  # noqa: BLE001 (decoders raise OSError, SyntaxError, EOFError, …)
        raise ImageInvalidError(f"the image is damaged: {str(error)[:100]}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # 16-bit greyscale: keep the high byte; Pillow's own conversion clips instead.
        values = np.asarray(image, dtype=np.float64)
        scaled = values / 257.0 if image.mode != "F" else values
        return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def arrange(
    image: Image.Image, preprocess: Preprocess, pixels_max: int = PIXELS_MAX
) -> NDArray[np.uint8]:
    """The RGB image in the network's geometry: uint8 [3, H, W].

    `squash` resizes straight to the input size (the VTAB protocol); `timm` resizes the short side
    to size / crop_pct and cuts the centre.

    Raises:
        ImageInvalidError: so long and thin that `timm` would have to enlarge it beyond the limit.
    """
    height, width = preprocess.size
    resample = _FILTERS[preprocess.interpolation]
    if preprocess.geometry == "squash":
        image = image.resize((width, height), resample)
    else:
        # Rounding as torchvision's Resize and CenterCrop do, so that timm's own transform agrees.
        short = math.floor(max(height, width) / preprocess.crop_pct)
        if image.width <= image.height:
            size = (short, int(short * image.height / image.width))
        else:
            size = (int(short * image.width / image.height), short)
        if size[0] * size[1] > pixels_max:
            shape = f"{image.width}x{image.height}"
            raise ImageInvalidError(f"the image is too long and thin to be resized: {shape}")
        image = image.resize(size, resample)
        left, top = round((image.width - width) / 2.0), round((image.height - height) / 2.0)
        image = image.crop((left, top, left + width, top + height))
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def pixels(data: bytes, preprocess: Preprocess, pixels_max: int = PIXELS_MAX) -> NDArray[np.uint8]:
    """Decode and arrange in one go: uint8 [3, H, W].

    Raises:
        ImageInvalidError: see `decode`.
    """
    return arrange(decode(data, pixels_max), preprocess, pixels_max)


def normalise(batch: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] → float32, with mean and std of values in [0, 1], each [3] or [B, 3]."""
    shape = (-1, 3, 1, 1)
    scale = (1.0 / (255.0 * std)).reshape(shape)
    return batch.to(torch.float32) * scale - (mean / std).reshape(shape)

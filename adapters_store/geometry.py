"""How a picture of some size is brought to the size that a network reads. Knows no pixel."""

import math
from dataclasses import dataclass

from adapters_store.errors import ImageInvalidError
from adapters_store.manifest import Preprocess


@dataclass(frozen=True, slots=True)
class Geometry:
    """Resize to `size`, then cut out `box`."""

    size: tuple[int, int]  # width, height
    box: tuple[int, int, int, int]  # left, top, right, bottom; may reach beyond the picture
    interpolation: str


def geometry(width: int, height: int, preprocess: Preprocess, pixels_max: int) -> Geometry:
    """What a preprocess means for a picture of this size.

    `squash` resizes straight to the input size (the VTAB protocol); `timm` resizes the short side
    to size / crop_pct and cuts the centre.

    Raises:
        ImageInvalidError: so long and thin that `timm` would have to enlarge it beyond the limit.
    """
    down, across = preprocess.size
    if preprocess.geometry == "squash":
        return Geometry((across, down), (0, 0, across, down), preprocess.interpolation)
    # Rounding as torchvision's Resize and CenterCrop do, so that timm's own transform agrees.
    short = math.floor(max(down, across) / preprocess.crop_pct)
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    if size[0] * size[1] > pixels_max:
        raise ImageInvalidError(f"the image is too long and thin to be resized: {width}x{height}")
    left, top = round((size[0] - across) / 2.0), round((size[1] - down) / 2.0)
    return Geometry(size, (left, top, left + across, top + down), preprocess.interpolation)

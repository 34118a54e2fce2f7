"""What is sent: a pool of encoded pictures. Knows no network. Pictures of others are only read.

Bad ones come last: a file that ends too early, noise behind the first bytes of a format, and text.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from loadtest.errors import ScenarioError
from loadtest.scenario import Images, Size

CORRUPT: Final = 6
_MEDIA: Final = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "bmp": "image/bmp"}
_SUFFIXES: Final = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp", ".bmp": "bmp"}
_DRAWN: Final = (Size(width=224, height=224),)


@dataclass(frozen=True, slots=True)
class Picture:
    """One encoded image."""

    name: str
    data: bytes
    media: str
    good: bool = True


def pool(images: Images, seed: np.random.SeedSequence) -> tuple[Picture, ...]:
    """The good ones, then the bad ones if any are wanted.

    Raises:
        ScenarioError: the folder has no picture, or one that cannot be re-encoded.
        OSError
    """
    rng = np.random.default_rng(seed)
    good = _folder(images, rng) if images.folder is not None else _drawn(images, rng)
    return (*good, *(_corrupt(good, rng) if images.corrupt_share else ()))


def pixels(picture: Picture, size: int, mean: Sequence[float], std: Sequence[float]) -> bytes:
    """The picture as float32 [1, 3, size, size], little-endian, mean and std taken off."""
    with Image.open(io.BytesIO(picture.data)) as image:
        small = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    values = np.asarray(small, np.float32) / 255.0
    normal = (values - np.array(mean, np.float32)) / np.array(std, np.float32)
    return normal.transpose(2, 0, 1).astype("<f4").tobytes()


def _folder(images: Images, rng: np.random.Generator) -> list[Picture]:
    root = Path(str(images.folder))
    if not root.is_dir():
        raise ScenarioError(str(root), ("there is no such folder",))
    files = sorted(f for f in root.rglob("*") if f.suffix.lower() in _SUFFIXES and f.is_file())
    if not files:
        raise ScenarioError(str(root), ("the folder holds no .jpg, .png, .webp or .bmp",))
    if len(files) > images.count:
        chosen = rng.choice(len(files), images.count, replace=False)
        files = [files[i] for i in sorted(chosen)]
    if not images.sizes and not images.formats:
        return [
            Picture(
                f.relative_to(root).as_posix(), f.read_bytes(), _MEDIA[_SUFFIXES[f.suffix.lower()]]
            )
            for f in files
        ]
    found = []
    for i, file in enumerate(files):
        picture = _opened(file)
        if images.sizes:
            size = _mixed(images.sizes, i, len(files))
            picture = picture.resize((size.width, size.height), Image.Resampling.BICUBIC)
        name = file.relative_to(root).as_posix()
        found.append(_encoded(name, picture, images, i))
    return found


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (ValueError, SyntaxError, Image.DecompressionBombError, UnidentifiedImageError):
        raise ScenarioError(str(file), ("it cannot be re-encoded: it is no picture",)) from None


def _drawn(images: Images, rng: np.random.Generator) -> list[Picture]:
    found = []
    for i in range(images.count):
        size = _mixed(images.sizes or _DRAWN, i, images.count)
        picture = Image.fromarray(_scene(size, rng))
        found.append(_encoded(f"drawn-{i:03d}", picture, images, i))
    return found


def _scene(size: Size, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Soft colours with some grain, so that a JPEG of it is as large as a photograph's."""
    coarse = rng.integers(0, 256, (7, 7, 3), np.uint8)
    soft = Image.fromarray(coarse).resize((size.width, size.height), Image.Resampling.BICUBIC)
    grain = rng.normal(0.0, 12.0, (size.height, size.width, 1))
    return np.clip(np.asarray(soft, np.float32) + grain, 0, 255).astype(np.uint8)


def _encoded(name: str, picture: Image.Image, images: Images, i: int) -> Picture:
    kind = "jpeg"
    if images.formats:
        kinds = list(images.formats)
        # Another stride than the sizes', so that every format comes in every size.
        at = (i * 0.6180339887) % 1.0
        kind = kinds[_place([images.formats[k] for k in kinds], at)]
    file = io.BytesIO()
    picture.save(file, kind.upper(), quality=images.quality)
    return Picture(f"{name}.{kind}" if "." not in name else name, file.getvalue(), _MEDIA[kind])


def _mixed(sizes: Sequence[Size], i: int, count: int) -> Size:
    return sizes[_place([size.weight for size in sizes], (i + 0.5) / count)]


def _place(weights: Sequence[float], at: float) -> int:
    """Which of them holds the point `at` of [0, 1), side by side by weight."""
    edges = np.cumsum(weights) / np.sum(weights)
    return min(int(np.searchsorted(edges, at, side="right")), len(weights) - 1)


def _corrupt(good: Sequence[Picture], rng: np.random.Generator) -> list[Picture]:
    found = []
    for i in range(CORRUPT):
        of = good[int(rng.integers(len(good)))]
        cut = of.data[: max(len(of.data) // 3, 16)]
        noise = of.data[:12] + rng.bytes(2000)
        data = (cut, noise, b"this is no picture")[i % 3]
        found.append(Picture(f"corrupt-{i}", data, of.media, good=False))
    return found

"""What all peers compute: the same pictures, network and answers. Knows timm, and no server.

A script of another environment beside scripts of others, and no part of the package: it has what
its requirements bring, so nothing of ours. Pixels are made as Rootstock makes them (a JPEG is
decoded at the least scale that still has twice the size, and torch resizes), which is faster than
the transform of timm, and the same to rounding: what differs is how requests are served.
"""

import argparse
import io
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_SPARE = 2  # times the size that is wanted: what a scaled decode has at least


@dataclass(frozen=True)
class Order:
    """What a peer is started with."""

    card: dict[str, Any]  # of the network, as it lies beside the tasks
    folder: Path
    live: Path  # the tasks that there are: a file or a folder each
    port: int
    settings: dict[str, Any]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that there are now."""
        return sorted(path.stem for path in self.live.iterdir())


def order() -> Order:
    """From the command line."""
    parser = argparse.ArgumentParser()
    for name in ("folder", "live", "port", "settings"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    folder = Path(given.folder)
    card = json.loads((folder / "card.json").read_text())
    return Order(card, folder, Path(given.live), int(given.port), json.loads(given.settings))


@dataclass(frozen=True)
class Model:
    """A network and the dtype of all its parameters, which answers tell."""

    net: nn.Module
    dtype: str  # looked up once: a batch is not to wait for it

    @classmethod
    def of(cls, net: nn.Module) -> "Model":
        """'bf16', 'fp32', or whatever there is, joined."""
        names = {value: name for name, value in DTYPES.items()}
        kinds = {p.dtype for p in net.parameters() if p.is_floating_point()}
        return cls(net, "+".join(sorted(names.get(kind, str(kind)) for kind in kinds)))


class Network:
    """A network of one card, and what goes in and comes out."""

    def __init__(self, card: dict[str, Any]) -> None:
        self.card, self.dtype = card, DTYPES[card["dtype"]]
        std, mean = torch.tensor(card["std"]), torch.tensor(card["mean"])
        self._scale = (1.0 / (255.0 * std)).reshape(1, 3, 1, 1)
        self._shift = (mean / std).reshape(1, 3, 1, 1)

    def load(self, file: Path, *, bare: bool = False) -> Model:
        """A whole model of one task, or the backbone without classifier; in the card's dtype."""
        classes = 0 if bare else len(self.card["labels"])
        net = timm.create_model(self.card["model"], **self.card["kwargs"], num_classes=classes)
        net.load_state_dict(load_file(file), strict=True)
        return Model.of(net.to(self.dtype).eval().requires_grad_(requires_grad=False))

    def pixels(self, data: bytes) -> Tensor:
        """Of the bytes of a JPEG: uint8 [3, H, W]."""
        return self.arranged(Image.open(io.BytesIO(data)))

    def arranged(self, image: Image.Image) -> Tensor:
        """Of a JPEG that is opened, and not decoded yet: uint8 [3, H, W]."""
        height, width = self.card["size"]
        short = math.floor(max(height, width) / self.card["crop_pct"])
        across, down = self._resized(image.size, short)
        image.draft(None, (_SPARE * across, _SPARE * down))
        image = ImageOps.exif_transpose(image).convert("RGB")
        across, down = self._resized(image.size, short)
        whole = F.interpolate(
            torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
            .reshape(image.height, image.width, 3)
            .permute(2, 0, 1)[None],
            size=(down, across),
            mode=self.card["interpolation"],
            antialias=True,
            align_corners=False,
        )[0]
        left, top = round((across - width) / 2.0), round((down - height) / 2.0)
        return whole[:, top : top + height, left : left + width]

    def images(self, pictures: Sequence[Tensor]) -> Tensor:
        """What the network reads: uint8 [3, H, W] each → [B, 3, H, W] in its dtype."""
        batch = torch.stack(list(pictures)).to(torch.float32)
        return (batch * self._scale - self._shift).to(self.dtype)

    def computed(self, model: Model, pictures: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Answers of a whole model, in order."""
        with torch.inference_mode():
            return self.answers(model.net(self.images(pictures)), model.dtype)

    def by_task(
        self, models: dict[str, Model], wanted: Sequence[str], pictures: Sequence[Tensor]
    ) -> list[dict[str, Any]]:
        """Answers in order, each task's pictures through its own model together."""
        found: list[dict[str, Any]] = [{}] * len(wanted)
        for task in dict.fromkeys(wanted):
            mine = [i for i, one in enumerate(wanted) if one == task]
            rows = self.computed(models[task], [pictures[i] for i in mine])
            for i, row in zip(mine, rows, strict=True):
                found[i] = row
        return found

    def answers(self, logits: Tensor, computed: str) -> list[dict[str, Any]]:
        """The five best of each row, and the dtype that they were computed in."""
        odds = logits.to(torch.float32).softmax(-1)
        best = odds.topk(min(5, odds.shape[-1]))
        labels = self.card["labels"]
        return [
            {
                "predictions": [
                    {"label": labels[i], "index": i, "probability": p}
                    for p, i in zip(row, places, strict=True)
                ],
                "dtype": computed,
            }
            for row, places in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    @staticmethod
    def _resized(size: tuple[int, int], short: int) -> tuple[int, int]:
        """Width and height with the shorter at this length."""
        width, height = size
        if width <= height:
            return short, int(short * height / width)
        return int(short * width / height), short


def computers(count: int, threads: int) -> ThreadPoolExecutor:
    """Threads in which networks run, each on so many: torch's count is one of the caller."""
    return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads,))


def decoders(count: int) -> ThreadPoolExecutor:
    """Threads that make pixels, each alone."""
    return computers(count, 1)

"""The decoding that is served beside Pillow alone: time, and how many answers it changes.

    python -m tests.bench.decoding --photographs DIR --weights deit_tiny.safetensors
                                   [--adapter FILE --images DIR]… [--json]

Photographs are answered by the backbone's own 1000 classes; the images of an adapter by it.
Time is a ratio of medians, turn by turn in one run, one thread; answers are those of the plain
path in fp32.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adapters_store.threads import wait_passively

wait_passively()

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from adapters_store import artifact, backbone  # noqa: E402
from adapters_store.adapter import Adapter  # noqa: E402
from adapters_store.manifest import Preprocess  # noqa: E402
from adapters_store.pixels import arrange, decode, normalise, pixels  # noqa: E402
from training.evaluate import logits  # noqa: E402

Decode = Callable[[bytes, Preprocess], NDArray[np.uint8]]
ROUNDS = 5
TIMED = 200  # files of a turn, at most


def reference(data: bytes, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Pillow alone."""
    return arrange(decode(data), preprocess)


WAYS: dict[str, Decode] = {"served": pixels, "reference": reference}


def main() -> None:
    """Print a row for the photographs and one for every adapter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backbone", default="deit_tiny_patch16_224")
    parser.add_argument("--adapter", type=Path, action="append", default=[])
    parser.add_argument("--images", type=Path, action="append", default=[])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    frozen = backbone.load(given.backbone, given.weights)
    rows = []
    for geometry in ("squash", "timm"):
        files = read(given.photographs)
        preprocess = frozen.spec.preprocess(geometry)
        answers = whole(given.backbone, given.weights, preprocess)
        rows.append(
            {"images": "photographs", "geometry": geometry} | row(files, preprocess, answers)
        )
    for file, folder in zip(given.adapter, given.images, strict=True):
        adapter = artifact.read(file.read_bytes(), file.name)
        preprocess = adapter.manifest.preprocess
        found = row(read(folder), preprocess, by_adapter(frozen, adapter))
        rows.append({"images": adapter.manifest.task, "geometry": preprocess.geometry} | found)
    print(json.dumps(rows, indent=2) if given.json else "\n".join(map(str, rows)))


def read(folder: Path) -> list[bytes]:
    """Every picture under a folder."""
    kinds = {".jpg", ".jpeg", ".png"}
    return [p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix.lower() in kinds]


def row(
    files: list[bytes],
    preprocess: Preprocess,
    answers: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
) -> dict[str, Any]:
    """Time and agreement of the two ways."""
    took = dict(turns(files, preprocess))
    pictures = {n: np.stack([way(d, preprocess) for d in files]) for n, way in WAYS.items()}
    far = np.abs(pictures["served"].astype(int) - pictures["reference"])
    labels = {name: answers(seen).argmax(1) for name, seen in pictures.items()}
    return {
        "number": len(files),
        "time_ratio": round(
            statistics.median(took["served"]) / statistics.median(took["reference"]), 3
        ),
        "top1_agreement": float((labels["served"] == labels["reference"]).mean()),
        "mean_difference": round(float(far.mean()), 4),
        "largest_difference": int(far.max()),
        "rounds": ROUNDS,
    }


def turns(files: list[bytes], preprocess: Preprocess) -> Iterator[tuple[str, list[float]]]:
    """CPU seconds of every turn, the two ways in turn."""
    took: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            began = time.process_time()
            for data in files[:TIMED]:
                way(data, preprocess)
            took[name].append(time.process_time() - began)
    yield from took.items()


def whole(
    name: str, weights: Path, preprocess: Preprocess
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The published network with its own classifier."""
    net = timm.create_model(name).eval()
    net.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)

    def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = net(normalise(torch.from_numpy(images), mean, std)).numpy()
        return found

    return answer


def by_adapter(
    frozen: backbone.Backbone, adapter: Adapter
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The adapter on its backbone."""
    return lambda images: logits(frozen, adapter, images, device=torch.device("cpu"))


if __name__ == "__main__":
    main()

"""The main job on real tasks: what HTTP answers, and whether every path says the same.

    python tests/bench/corridor.py --data DIR --artifacts DIR --weights FILE --out FILE.json

DIR of data holds image folders `<task>/test/<class>/*`; DIR of artifacts holds files
`<task>_<method>.safetensors`, each published as task `<task>-<method>` to one server.
"""

import argparse
import asyncio
import json
import platform
import random
import tempfile
from pathlib import Path
from typing import Any

from adapters_store.threads import wait_passively

wait_passively()

import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402

from adapters_store import admission, artifact, plain  # noqa: E402
from adapters_store import backbone as backbones  # noqa: E402
from adapters_store.adapter import Adapter  # noqa: E402
from adapters_store.backbone import Backbone  # noqa: E402
from adapters_store.pixels import normalise, pixels  # noqa: E402
from adapters_store.store import AdapterStore  # noqa: E402
from rootstock.demo.traffic import Stream, drive  # noqa: E402
from serving.config import Settings  # noqa: E402
from serving.engine.engine import Engine  # noqa: E402
from serving.launch import free_port, run  # noqa: E402

BATCH = 16
AGREEMENT_IMAGES = 1200


def main() -> None:
    """Measure everything, write one JSON file, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "artifacts", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--backbone", default="deit_tiny_patch16_224")
    parser.add_argument("--dtype", default="fp32")
    given = parser.parse_args()
    backbone = backbones.load(given.backbone, given.weights)
    adapters = {
        "-".join(f.stem.rsplit("_", 1)): f.read_bytes()
        for f in sorted(given.artifacts.glob("*_*.safetensors"))
    }
    read = {name: admission.admit(data, backbone.spec) for name, data in adapters.items()}
    pictures = {task: held_out(given.data / task) for task in {_task(n) for n in read}}
    answers = over_http(given, backbone, adapters, read, pictures)
    result = {
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "backbone": {"name": given.backbone, "digest": backbone.spec.ref.digest},
        "dtype": given.dtype,
        "http": [score(n, read[n], pictures, answers[n]) for n in read],
        "merged_against_http": {
            n: parity(n, read[n], backbone, pictures, answers[n]) for n in read
        },
        "mixed_against_solo": {
            dtype: mixed_against_solo(backbone, read, pictures, dtype) for dtype in ("fp32", "bf16")
        },
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    for row in result["http"]:
        print(
            "{task:<12} {method:<8} {accuracy:6.2f} %  of {images}, failed {failed}".format(**row)
        )
    for key in ("merged_against_http", "mixed_against_solo"):
        print(key, json.dumps(result[key]))


def _task(name: str) -> str:
    """signdigits-alore → signdigits."""
    return name.rpartition("-")[0]


def held_out(folder: Path) -> list[tuple[str, bytes]]:
    """(class, file) of every test image."""
    files = sorted((folder / "test").glob("*/*"))
    return [(f.parent.name, f.read_bytes()) for f in files]


def over_http(
    given: argparse.Namespace,
    backbone: Backbone,
    adapters: dict[str, bytes],
    read: dict[str, Adapter],
    pictures: dict[str, list[tuple[str, bytes]]],
) -> dict[str, list[str]]:
    """The label that one server gives to every test image, all tasks mixed at random."""
    with tempfile.TemporaryDirectory() as folder:
        store = AdapterStore.open(f"file://{folder}/store", backbone.spec.ref.digest)
        for name, data in adapters.items():
            adapter = read[name]
            manifest = adapter.manifest.model_copy(update={"task": name})
            renamed = artifact.write(Adapter(manifest=manifest, tensors=adapter.tensors))
            store.publish(renamed, name, by="bench")
            assert len(renamed) - len(data) < 64
        settings = Settings(
            store=store.uri,
            backbone=given.backbone,
            weights=given.weights,
            dtype=given.dtype,
            port=free_port(),
        )
        requests = [
            (name, i, body) for name in read for i, (_, body) in enumerate(pictures[_task(name)])
        ]
        random.Random(0).shuffle(requests)
        with run(settings) as server:
            hits = asyncio.run(drive(server.url, Stream(requests)))
    answers: dict[str, list[str]] = {n: [""] * len(pictures[_task(n)]) for n in read}
    for hit in hits:
        answers[hit.task][hit.scan] = hit.label
    return answers


def score(
    name: str, adapter: Adapter, pictures: dict[str, list[tuple[str, bytes]]], labels: list[str]
) -> dict[str, Any]:
    """Accuracy over HTTP of one task and method."""
    task, _, method = name.rpartition("-")
    truth = [c for c, _ in pictures[task]]
    right = sum(a == b for a, b in zip(labels, truth, strict=True))
    return {
        "task": task,
        "method": method,
        "images": len(truth),
        "failed": labels.count(""),
        "accuracy": round(100 * right / len(truth), 2),
        "parameters": sum(int(t.size) for t in adapter.factors.values()),
    }


def parity(
    name: str,
    adapter: Adapter,
    backbone: Backbone,
    pictures: dict[str, list[tuple[str, bytes]]],
    labels: list[str],
) -> dict[str, Any]:
    """Does the merged checkpoint, in plain timm, give the server's answers?"""
    manifest = adapter.manifest
    net = timm.create_model(
        manifest.backbone.name, num_classes=len(manifest.labels), **manifest.backbone.kwargs
    )
    net.load_state_dict(plain.merged_state(backbone, adapter), strict=True)
    net.eval()
    mean, std = torch.tensor(manifest.preprocess.mean), torch.tensor(manifest.preprocess.std)
    bodies = [b for _, b in pictures[_task(name)]]
    same = 0
    with torch.inference_mode():
        for at in range(0, len(bodies), BATCH):
            part = np.stack([pixels(b, manifest.preprocess) for b in bodies[at : at + BATCH]])
            best = net(normalise(torch.from_numpy(part), mean, std)).argmax(1).tolist()
            same += sum(manifest.labels[b] == labels[at + i] for i, b in enumerate(best))
    return {"images": len(bodies), "same": same, "agreement": same / len(bodies)}


def mixed_against_solo(
    backbone: Backbone,
    read: dict[str, Adapter],
    pictures: dict[str, list[tuple[str, bytes]]],
    dtype: str,
) -> dict[str, Any]:
    """Each image alone and among random companions of random tasks."""
    engine, rng = Engine(backbone, dtype), random.Random(1)
    prepared = {n: engine.prepare(a) for n, a in read.items()}
    names = list(read)
    chosen = []
    for _ in range(AGREEMENT_IMAGES):
        name = rng.choice(names)
        _, body = rng.choice(pictures[_task(name)])
        chosen.append((name, pixels(body, read[name].manifest.preprocess)))
    largest, agree = 0.0, 0
    for at in range(0, len(chosen), BATCH):
        part = chosen[at : at + BATCH]
        mixed = engine.run(np.stack([p for _, p in part]), [prepared[n] for n, _ in part])
        for (name, picture), among in zip(part, mixed, strict=True):
            (alone,) = engine.run(picture[None], [prepared[name]])
            largest = max(largest, float(np.abs(alone - among).max()))
            agree += int(alone.argmax() == among.argmax())
    return {
        "images": len(chosen),
        "largest_logit_difference": largest,
        "top1_agreement": agree / len(chosen),
    }


if __name__ == "__main__":
    main()

"""Formats that may not change: what was written once is read, and written, alike for ever.

`python tests/unit/adapters_store/test_golden.py` writes files that are missing, and no others.
"""

from pathlib import Path

import numpy as np
import pytest

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.catalog import Catalog, fold_all
from adapters_store.events import event_to_json, parse_event
from adapters_store.manifest import BackboneRef, Effect, Manifest, Preprocess, Provenance

GOLDEN = Path(__file__).parents[2] / "golden"
PATH = "blocks.0.attn.qkv"
FACTORS = {
    "alore": {"A": (2, 2, 2), "U": (2, 4, 1), "V": (2, 1, 4)},
    "lora": {"A_q": (1, 8), "B_q": (8, 1), "A_v": (1, 8), "B_v": (8, 1)},
    "linear": {},
}


def adapter(method: str) -> Adapter:
    """An adapter of small whole numbers, the same on every machine."""
    tensors = {
        f"{PATH}.{name}": (np.arange(np.prod(shape)).reshape(shape) % 7 - 3).astype(np.float16)
        for name, shape in FACTORS[method].items()
    }
    tensors["head.weight"] = np.arange(16, dtype=np.float32).reshape(2, 8) / 4
    tensors["head.bias"] = np.array([-0.5, 0.5], dtype=np.float32)
    manifest = Manifest(
        task="golden",
        method=method,
        options={"scale": 0.1},
        backbone=BackboneRef(
            name="vit_tiny_patch16_224", kwargs={"depth": 1, "embed_dim": 8}, digest="ab" * 32
        ),
        preprocess=Preprocess(size=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.1)),
        labels=("rose", "tulipán"),
        metrics={"test": 0.875},
        provenance=Provenance(data="cd" * 32, seed=7, recipe={"lr": 1e-3}, versions={"torch": "2"}),
        effect=Effect(logits=((0.5, -1.25), (1e-05, 3.0), (2.0, 2.5), (0.1, 0.2))),
    )
    return Adapter(manifest=manifest, tensors=tensors)


@pytest.mark.parametrize("method", sorted(FACTORS))
def test_an_artifact_of_format_1_is_read_and_written_byte_for_byte(method):
    data = (GOLDEN / f"{method}.safetensors").read_bytes()

    read = artifact.read(data)

    assert artifact.write(read) == data
    assert artifact.write(adapter(method)) == data
    assert read.manifest == adapter(method).manifest


def test_a_log_of_format_1_is_read_and_written_byte_for_byte():
    files = sorted((GOLDEN / "log").glob("*.json"))

    events = [parse_event(f.read_bytes(), i) for i, f in enumerate(files, 1)]

    assert [e.kind for e in events] == [
        "publish",
        "publish",
        "alias",
        "split",
        "activate",
        "retire",
    ]
    assert [event_to_json(e) for e in events] == [f.read_bytes() for f in files]
    catalog = fold_all(Catalog(), events)
    catalog.check()
    assert catalog.generation == 6
    assert catalog.tasks["golden"].active == 1
    assert [r.number for r in catalog.tasks["golden"].releases if not r.retired] == [1]


def log() -> list[dict]:
    """One event of each kind."""
    common = {"format": 1, "at": "2026-11-20T12:00:00Z", "by": "golden", "task": "golden"}
    digests = ["ab" * 32, "cd" * 32]
    kinds = [
        {"kind": "publish", "release": 1, "digest": digests[0], "bytes": 10, "activate": True},
        {"kind": "publish", "release": 2, "digest": digests[1], "bytes": 11, "activate": False},
        {"kind": "alias", "alias": "next", "release": None},
        {"kind": "split", "weights": {"1": 90, "2": 10}},
        {"kind": "activate", "release": 1},
        {"kind": "retire", "release": 2},
    ]
    return [
        {**common, "id": f"00000000-0000-4000-8000-{n:012d}", "generation": n, "why": "", **kind}
        for n, kind in enumerate(kinds, 1)
    ]


def write() -> None:
    """Make what is missing; what is there may not change."""
    import json

    (GOLDEN / "log").mkdir(parents=True, exist_ok=True)
    for method in FACTORS:
        file = GOLDEN / f"{method}.safetensors"
        if not file.exists():
            file.write_bytes(artifact.write(adapter(method)))
    for event in log():
        file = GOLDEN / "log" / f"{event['generation']:020d}.json"
        if not file.exists():
            parsed = parse_event(json.dumps(event).encode(), event["generation"])
            file.write_bytes(event_to_json(parsed))


if __name__ == "__main__":
    write()

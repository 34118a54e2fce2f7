"""Formats that may not change: what was written once is read, and written, alike for ever.

`python tests/unit/adapters_store/test_golden.py` writes files that are missing, and no others.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters_store import artifact
from adapters_store import backbone as backbones
from adapters_store.adapter import Adapter
from adapters_store.admission import admit
from adapters_store.catalog import Catalog, fold_all, resolve
from adapters_store.events import Event, event_to_json, parse_event
from adapters_store.manifest import BackboneRef, Effect, Manifest, Preprocess, Provenance
from adapters_store.methods.table import METHODS, lower, parse_options
from adapters_store.snapshot import catalog_from_json, catalog_to_json

GOLDEN = Path(__file__).parents[2] / "golden"
PATH = "blocks.0.attn.qkv"
FACTORS = {
    "alore": {"A": (2, 2, 2), "U": (2, 4, 1), "V": (2, 1, 4)},
    "lora": {"A_q": (1, 8), "B_q": (8, 1), "A_v": (1, 8), "B_v": (8, 1)},
    "linear": {},
}
# Whole adapters of every other method, by its own layout on a network of one block.
OPTIONS = {
    "karst": {"kernels": 1, "rank": 1, "rescale": "channel"},
    "clora": {"rank": 1, "spaces": 2},
    "heart_lora": {"rank": 2, "heads_off": 2},
    "bi_lora": {"rank": 4},
    "repadapter": {},
    "fact_tt": {"rank": 2},
    "fact_tk": {"rank": 2},
    "ssf": {},
    "arc": {"rank": 3},
    "bitfit": {},
}
SMALL = {"depth": 1, "embed_dim": 48, "num_heads": 6}


def adapter(method: str) -> Adapter:
    """An adapter of small whole numbers, the same on every machine."""
    if method in OPTIONS:
        return whole(method)
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


def whole(method: str) -> Adapter:
    """An adapter that would be admitted by a ViT of one block."""
    spec, row = backbones.describe("vit_tiny_patch16_224", **SMALL), METHODS[method]
    options = parse_options(method, OPTIONS[method])
    tensors = {}
    for name, shape in row.layout(options, spec).items():
        numbers, factor = np.arange(np.prod(shape)).reshape(shape), name.rpartition(".")[2]
        if factor in row.packed:
            tensors[name] = numbers.astype(np.uint8)
        else:
            kind = np.float32 if factor in row.exact else np.float16
            tensors[name] = (numbers % 7 - (0 if factor.endswith("_std") else 3)).astype(kind)
    tensors["head.weight"] = np.arange(96, dtype=np.float32).reshape(2, 48) / 4
    tensors["head.bias"] = np.array([-0.5, 0.5], dtype=np.float32)
    manifest = Manifest(
        task="golden",
        method=method,
        options=options.model_dump(mode="json"),
        backbone=BackboneRef(name="vit_tiny_patch16_224", kwargs=SMALL, digest="ab" * 32),
        preprocess=Preprocess(size=(224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        labels=("rose", "tulipán"),
    )
    return Adapter(manifest=manifest, tensors=tensors)


def test_every_method_has_a_golden_artifact():
    """A new method is one more file."""
    assert set(FACTORS) | set(OPTIONS) == set(METHODS)


@pytest.mark.parametrize("method", sorted(OPTIONS))
def test_a_golden_artifact_is_admitted_and_lowered_as_ever(method):
    """Its own layout still fits, and nothing in it is at fault."""
    spec = backbones.describe("vit_tiny_patch16_224", **SMALL)
    spec = replace(spec, ref=spec.ref.model_copy(update={"digest": "ab" * 32}))

    read = admit((GOLDEN / f"{method}.safetensors").read_bytes(), spec)

    assert lower(read, spec)


@pytest.mark.parametrize("method", sorted(FACTORS | OPTIONS))
def test_an_artifact_of_format_1_is_read_and_written_byte_for_byte(method):
    data = (GOLDEN / f"{method}.safetensors").read_bytes()

    read = artifact.read(data)

    assert artifact.write(read) == data
    assert artifact.write(adapter(method)) == data
    assert read.manifest == adapter(method).manifest


def test_a_log_of_format_1_is_read_and_written_byte_for_byte():
    files = sorted((GOLDEN / "log").glob("*.json"))

    events = [parse_event(f.read_bytes(), i) for i, f in enumerate(files, 1)]

    assert len(events) == len(log())
    assert {e.kind for e in events} == {"publish", "activate", "alias", "split", "retire"}
    assert [event_to_json(e) for e in events] == [f.read_bytes() for f in files]
    assert [json.loads(f.read_bytes()) for f in files] == log()


def test_a_log_of_format_1_means_what_it_always_meant():
    """Field by field, so that no change of the fold gives old logs another sense."""
    catalog = fold_all(Catalog(), golden_events())

    catalog.check()
    task, other, gone = (catalog.tasks[name] for name in ("golden", "other", "gone"))
    assert catalog.generation == len(log())
    assert [(r.number, r.retired) for r in task.releases] == [(1, False), (2, True), (3, False)]
    assert (task.active, task.aliases, task.split) == (1, {"stable": 3}, {1: 3, 3: 1})
    assert [(r.number, r.retired) for r in other.releases] == [(1, True), (2, False)]
    assert (other.active, other.aliases, other.retired) == (None, {}, False)
    assert (gone.retired, gone.active) == (True, None)
    assert [resolve(catalog, "golden", str(n)).number for n in range(12)] == GOLDEN_SPLIT


def test_a_snapshot_of_format_1_is_read_and_written_byte_for_byte():
    """It is what the golden log folds to."""
    catalog = fold_all(Catalog(), golden_events())
    data = (GOLDEN / "snapshots" / f"{catalog.generation:020d}.json").read_bytes()

    assert catalog_from_json(data) == catalog
    assert catalog_to_json(catalog) == data


GOLDEN_SPLIT = [
    1,
    1,
    1,
    1,
    1,
    1,
    3,
    1,
    1,
    1,
    1,
    1,
]  # which release the keys "0", "1", … have always got


def golden_events() -> list[Event]:
    files = sorted((GOLDEN / "log").glob("*.json"))
    return [parse_event(f.read_bytes(), i) for i, f in enumerate(files, 1)]


def log() -> list[dict]:
    """Events of every kind, with and without effect; one has a field of a later version."""
    common = {"format": 1, "at": "2026-11-20T12:00:00Z", "by": "golden", "task": "golden"}
    digests = ["ab" * 32, "cd" * 32, "ef" * 32]
    first, second, third = (
        {"kind": "publish", "release": n, "digest": d, "bytes": 9 + n, "activate": n == 1}
        for n, d in enumerate(digests, 1)
    )
    kinds = [
        first,
        second,
        {"kind": "alias", "alias": "next", "release": None},
        {"kind": "split", "weights": {"1": 90, "2": 10}},
        {"kind": "activate", "release": 1},
        {"kind": "retire", "release": 2},
        {**third, "ticket": "OPS-7"},
        {"kind": "alias", "alias": "stable", "release": 1},
        {"kind": "alias", "alias": "stable", "release": 3},
        {"kind": "alias", "alias": "brief", "release": 3},
        {"kind": "alias", "alias": "brief", "release": None},
        {"kind": "split", "weights": {"1": 3, "3": 1}},
        {**first, "task": "other"},
        {"kind": "alias", "task": "other", "alias": "stable", "release": 1},
        {"kind": "retire", "task": "other", "release": None},
        {**second, "task": "other"},
        {**first, "task": "gone"},
        {"kind": "retire", "task": "gone", "release": None},
    ]
    return [
        {**common, "id": f"00000000-0000-4000-8000-{n:012d}", "generation": n, "why": "", **kind}
        for n, kind in enumerate(kinds, 1)
    ]


def write() -> None:
    """Make what is missing; what is there may not change."""
    for folder in ("log", "snapshots"):
        (GOLDEN / folder).mkdir(parents=True, exist_ok=True)
    for method in FACTORS | OPTIONS:
        file = GOLDEN / f"{method}.safetensors"
        if not file.exists():
            file.write_bytes(artifact.write(adapter(method)))
    for event in log():
        file = GOLDEN / "log" / f"{event['generation']:020d}.json"
        if not file.exists():
            parsed = parse_event(json.dumps(event).encode(), event["generation"])
            file.write_bytes(event_to_json(parsed))
    catalog = fold_all(Catalog(), golden_events())
    file = GOLDEN / "snapshots" / f"{catalog.generation:020d}.json"
    if not file.exists():
        file.write_bytes(catalog_to_json(catalog))


if __name__ == "__main__":
    write()

"""Adapters to measure with: random, seeded, of any method, and valid. Knows no engine."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from adapters_store import artifact, plain
from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.backbone import Backbone
from adapters_store.effect import Golden, relative
from adapters_store.manifest import Effect, Manifest, Provenance
from adapters_store.methods.protocol import MethodOptions
from adapters_store.methods.table import METHODS, fits, method_named, offered, parse_options
from adapters_store.pixels import pixels
from adapters_store.spec import BackboneSpec

LABELS: Final = 10
USUAL: Final = ("alore", "lora", "karst", "fact_tk")
EFFECT: Final = 0.4  # relative L2 by which noise moves logits: far beyond bf16's errors
_NOISES: Final = tuple(0.03 * 1.5**i for i in range(16))
# PEFT's shape of LoRA, with as many numbers as the default: so that its arm computes the same.
_OPTIONS: Final[Mapping[str, Mapping[str, Any]]] = {"lora": {"variant": "qkv"}}
_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True, slots=True)
class Choice:
    """A method with options, as a user names it."""

    name: str  # alore, or lora:rank=4
    method: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """`alore`, or `lora:variant=qv,rank=4`.

        Raises:
            MethodUnknownError, ArtifactInvalidError
        """
        method, _, rest = text.partition(":")
        method_named(method)
        given = {k: _value(v) for k, _, v in (p.partition("=") for p in rest.split(",") if p)}
        options = {**_OPTIONS.get(method, {}), **given}
        parse_options(method, options)
        return cls(text, method, options)


def choices(words: Sequence[str], spec: BackboneSpec) -> list[Choice]:
    """What a user asks for; of `all`, or of the usual ones, what the backbone has a place for.

    Raises:
        MethodUnknownError, ArtifactInvalidError: no such method, or no such options of it.
        ValueError: one that is asked for by name has no place there.
    """
    if words and list(words) != ["all"]:
        asked = [Choice.parse(word) for word in words]
        for choice in asked:
            offered(choice.method, spec).layout(parse_options(choice.method, choice.options), spec)
        return asked
    names = [n for n in METHODS if n != "linear"] if words else USUAL
    return [
        choice
        for choice in map(Choice.parse, names)
        if fits(choice.method, parse_options(choice.method, choice.options), spec)
    ]


class Maker:
    """Makes adapters for one backbone; remembers how strong each method's noise must be."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._strengths: dict[str, float] = {}

    def make(
        self,
        method: str,
        task: str,
        seed: int,
        *,
        options: Mapping[str, Any] | None = None,
        labels: int = LABELS,
        effect: bool = True,
    ) -> Adapter:
        """A valid adapter with random factors that visibly change the answer.

        Raises:
            MethodUnknownError, ArtifactInvalidError: no such method, or no such options of it.
            ValueError: it has no place on the backbone.
        """
        parsed = parse_options(method, options or {})
        strength = self._strength(method, parsed)
        made = _drawn(self.backbone, method, parsed, task, seed, labels, strength)
        if not effect:
            return made
        record = Golden(self.backbone).record(made)
        manifest = made.manifest.model_copy(update={"effect": record})
        return Adapter(manifest=manifest, tensors=made.tensors)

    def _strength(self, method: str, options: MethodOptions) -> float:
        """The least noise that moves answers enough; methods multiply from one to four factors."""
        key = f"{method} {options.model_dump_json()}"
        if key not in self._strengths:
            picture = noise(self.backbone.spec, 2)
            for strength in _NOISES:
                self._strengths[key] = strength
                made = _drawn(self.backbone, method, options, "strength", 0, LABELS, strength)
                bare = plain.answers(self.backbone.net, made, picture)
                adapted = plain.logits(self.backbone, made, picture)
                if not made.factors or relative(adapted, bare) >= EFFECT:
                    break
        return self._strengths[key]


def _drawn(
    backbone: Backbone,
    method: str,
    options: MethodOptions,
    task: str,
    seed: int,
    labels: int,
    strength: float,
) -> Adapter:
    """Fresh factors with noise added to every one, and a random head."""
    row, rng = method_named(method), np.random.default_rng(seed)
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(seed)
        module = row.module(options, backbone.spec, dropout=0.0)
        for parameter in module.parameters():
            inputs = max(parameter.shape[-1], 1) if parameter.ndim else 1
            drawn = rng.standard_normal(tuple(parameter.shape)) / inputs**0.5
            parameter.add_(torch.from_numpy(np.asarray(strength * drawn)))
        factors = module.export()
    tensors: dict[str, NDArray[Any]] = {
        name: factor.numpy()
        if factor.dtype == torch.uint8 or name.rpartition(".")[2] in row.exact
        else factor.numpy().astype(np.float16)
        for name, factor in factors.items()
    }
    head = rng.standard_normal((labels, backbone.spec.features))
    tensors[HEAD_WEIGHT] = head.astype(np.float32)
    tensors[HEAD_BIAS] = rng.standard_normal(labels).astype(np.float32)
    manifest = Manifest(
        task=task,
        method=method,
        options=options.model_dump(mode="json"),
        backbone=backbone.spec.ref,
        preprocess=backbone.spec.preprocess(),
        labels=tuple(f"label {i}" for i in range(labels)),
        provenance=Provenance(seed=seed),
    )
    return Adapter(manifest=manifest, tensors=tensors)


def variation(adapter: Adapter, task: str, number: int) -> Adapter:
    """Another task of the same factors: its head's rows shuffled, their signs drawn anew.

    So thousands of tasks are made without thousands of forwards, and no answer of one passes for
    that of another: seeded by the number, of 10 labels there are 3.7e9 such heads. The effect
    record follows exactly, for a logit moves and changes its sign with its row.
    """
    rng = np.random.default_rng(number)
    labels = len(adapter.tensors[HEAD_BIAS])
    rows, signs = rng.permutation(labels), rng.choice(np.array([-1, 1], np.float32), labels)
    tensors = dict(adapter.tensors)
    tensors[HEAD_WEIGHT] = tensors[HEAD_WEIGHT][rows] * signs[:, None]
    tensors[HEAD_BIAS] = tensors[HEAD_BIAS][rows] * signs
    effect = adapter.manifest.effect
    if effect is not None:
        logits = np.asarray(effect.logits)[:, rows] * signs.astype(np.float64)
        effect = Effect(golden=effect.golden, logits=tuple(map(tuple, logits.tolist())))
    manifest = adapter.manifest.model_copy(update={"task": task, "effect": effect})
    return Adapter(manifest=manifest, tensors=tensors)


def artifacts(bases: Sequence[Adapter], count: int) -> Iterator[tuple[str, bytes]]:
    """(task, bytes) of so many tasks, made from a few adapters; every artifact is distinct."""
    for number in range(count):
        task = f"task-{number}"
        yield task, artifact.write(variation(bases[number % len(bases)], task, number))


def noise(spec: BackboneSpec, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random pictures, uint8 [count, 3, H, W]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, *spec.input_size), np.uint8)


def pictures(spec: BackboneSpec, folder: Path | None, count: int) -> NDArray[np.uint8]:
    """At most so many of the pictures in a folder and below it; without one, noise.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    if folder is None:
        return noise(spec, count)
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in _SUFFIXES)
    if not files:
        raise FileNotFoundError(2, "no picture in the folder", str(folder))
    chosen = [files[i * len(files) // count] for i in range(count)] if count < len(files) else files
    return np.stack([pixels(f.read_bytes(), spec.preprocess()) for f in chosen])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text

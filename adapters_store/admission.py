"""Admission: does an artifact fit this backbone and this task? Knows no store and no server.

`artifact.read` proves that the bytes are whole; this proves that they belong here. Together they
are the trust boundary that every artifact passes: at publish, at load, at verify.
"""

from collections.abc import Iterator
from typing import Final

from adapters_store import artifact
from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.artifact import Reading
from adapters_store.errors import (
    AdapterError,
    ArtifactInvalidError,
    BackboneMismatchError,
    MethodUnknownError,
    MismatchError,
    TaskMismatchError,
)
from adapters_store.manifest import Manifest
from adapters_store.methods.table import offered, parse_options
from adapters_store.spec import BackboneSpec

_DTYPES: Final = {True: ("u", "U8"), False: ("f", "F16 or F32")}  # by whether it is packed


def admit(data: bytes, spec: BackboneSpec, *, task: str | None = None) -> Adapter:
    """The adapter in these bytes, known to fit the backbone.

    Every fault is looked for before any is raised.

    Raises:
        ArtifactInvalidError: malformed, damaged, or not what its method holds. Lists every fault,
            and among them every reason why it would not belong here even if it were sound.
        BackboneMismatchError: made for other weights, or for another input size.
        TaskMismatchError: the manifest names another task than `task`.
        MismatchError: several of these reasons, or tensors of shapes that do not fit the backbone.
    """
    found = artifact.inspect(data)
    name, manifest = task or "artifact", found.manifest
    if manifest is None:
        raise ArtifactInvalidError(name, artifact.shown(found.faults))
    elsewhere = list(_elsewhere(manifest, spec, task))
    faults, misfits = list(found.faults), [str(error) for error in elsewhere]
    if manifest.backbone.digest == spec.ref.digest:  # else no shape would be right
        weight = found.tensors.get(HEAD_WEIGHT)
        if weight is not None and weight.ndim == 2 and weight.shape[1] != spec.features:
            reads, gives = weight.shape[1], spec.features
            misfits.append(f"head.weight reads {reads} features; the backbone gives {gives}")
        _hold_to_layout(manifest, found, spec, faults, misfits)
    if faults:
        raise ArtifactInvalidError(name, artifact.shown(faults + misfits))
    if len(misfits) == len(elsewhere) == 1:
        raise elsewhere[0]
    if misfits:
        raise MismatchError(name, artifact.shown(misfits))
    return Adapter(manifest=manifest, tensors=found.tensors)


def _elsewhere(manifest: Manifest, spec: BackboneSpec, task: str | None) -> Iterator[AdapterError]:
    """Every reason why even a sound adapter does not belong here."""
    if task is not None and manifest.task != task:
        yield TaskMismatchError(manifest.task, task)
    has, wants = [], []
    if manifest.backbone.digest != spec.ref.digest:
        has.append(f"{spec.ref.name} {spec.ref.digest[:16]}")
        wants.append(f"{manifest.backbone.name} {manifest.backbone.digest[:16]}")
    if manifest.preprocess.size != spec.input_size:
        has.append("input {}x{}".format(*spec.input_size))
        wants.append("input {}x{}".format(*manifest.preprocess.size))
    if has:
        yield BackboneMismatchError(manifest.task, ", ".join(has), ", ".join(wants))


def _hold_to_layout(
    manifest: Manifest, found: Reading, spec: BackboneSpec, faults: list[str], misfits: list[str]
) -> None:
    """Add every tensor that is missing, unknown, of the wrong dtype (faults) or shape (misfits)."""
    try:
        options = parse_options(manifest.method, manifest.options)
        method = offered(manifest.method, spec)
        layout = method.layout(options, spec)
    except MethodUnknownError as error:
        faults.append(str(error))
        return
    except ArtifactInvalidError as error:
        faults += error.faults
        return
    except ValueError as error:
        misfits.append(str(error))
        return
    for name, shape in layout.items():
        tensor = found.tensors.get(name)
        if tensor is None:
            if name not in found.named:
                faults.append(f"tensor {name!r} is missing")
            continue
        if tensor.shape != shape:
            misfits.append(f"tensor {name!r} has shape {tensor.shape}, not {shape}")
        kind, wanted = _DTYPES[name.rpartition(".")[2] in method.packed]
        if tensor.dtype.kind != kind:
            faults.append(f"tensor {name!r} has dtype {tensor.dtype}, not {wanted}")
    faults += [
        f"tensor {name[:100]!a} is not one of method {manifest.method!r}"
        for name in sorted(found.named)
        if name not in layout and name not in (HEAD_WEIGHT, HEAD_BIAS)
    ]
    if not faults and not misfits:
        faults += method.faults(options, spec, found.tensors)

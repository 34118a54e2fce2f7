"""Admission: does an artifact fit this backbone and this task? Knows no store and no server.

`artifact.read` proves that the bytes are whole; this proves that they belong here. Together they
are the trust boundary that every artifact passes: at publish, at load, at verify.
"""

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.errors import (
    ArtifactInvalidError,
    BackboneMismatchError,
    MethodUnknownError,
    TaskMismatchError,
)
from adapters_store.methods.table import method_named, parse_options
from adapters_store.spec import BackboneSpec


def admit(data: bytes, spec: BackboneSpec, *, task: str | None = None) -> Adapter:
    """The adapter in these bytes, known to fit the backbone.

    Raises:
        ArtifactInvalidError: malformed, damaged, or not what its method holds; lists every fault.
        BackboneMismatchError: made for other weights, or for another input size.
        TaskMismatchError: the manifest names another task than `task`.
    """
    adapter = artifact.read(data, task or "artifact")
    manifest = adapter.manifest
    if task is not None and manifest.task != task:
        raise TaskMismatchError(manifest.task, task)
    if manifest.backbone.digest != spec.ref.digest:
        raise BackboneMismatchError(
            manifest.task,
            f"{spec.ref.name} {spec.ref.digest[:16]}",
            f"{manifest.backbone.name} {manifest.backbone.digest[:16]}",
        )
    if manifest.preprocess.size != spec.input_size:
        raise BackboneMismatchError(
            manifest.task,
            "input {}x{}".format(*spec.input_size),
            "input {}x{}".format(*manifest.preprocess.size),
        )
    faults = _faults(adapter, spec)
    if faults:
        raise ArtifactInvalidError(manifest.task, faults)
    return adapter


def _faults(adapter: Adapter, spec: BackboneSpec) -> tuple[str, ...]:
    """Every tensor that is missing, unknown, misshapen or of the wrong dtype."""
    manifest = adapter.manifest
    try:
        options = parse_options(manifest.method, manifest.options)
        layout = method_named(manifest.method).layout(options, spec)
    except MethodUnknownError as error:
        return (str(error),)
    except ArtifactInvalidError as error:
        return error.faults
    except ValueError as error:
        return (str(error),)
    faults = []
    for name, shape in layout.items():
        tensor = adapter.factors.get(name)
        if tensor is None:
            faults.append(f"tensor {name!r} is missing")
        elif tensor.shape != shape:
            faults.append(f"tensor {name!r} has shape {tensor.shape}, not {shape}")
        elif tensor.dtype.kind != "f":
            faults.append(f"tensor {name!r} has dtype {tensor.dtype}, not F16 or F32")
    faults += [
        f"tensor {name[:100]!r} is not one of method {manifest.method!r}"
        for name in adapter.tensors
        if name not in layout and name not in ("head.weight", "head.bias")
    ]
    if adapter.head_weight.shape[1] != spec.features:
        faults.append(
            f"head.weight reads {adapter.head_weight.shape[1]} features; "
            f"the backbone gives {spec.features}"
        )
    return tuple(faults)

"""`rootstock adapter`: look at an artifact, verify it, merge it into a plain timm checkpoint."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rootstock.console import artifact_bytes, emit, fail, guarded, out
from training.files import whole

if TYPE_CHECKING:
    from adapters_store.adapter import Adapter
    from adapters_store.backbone import Backbone

app = typer.Typer(help="Inspect, verify and merge artifacts.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="an artifact (.safetensors)")]
Weights = Annotated[
    Path | None, typer.Option(help="weights of the backbone, else bundled or from the hub")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON value")]


@app.command("show")
@guarded
def show(file: File, as_json: AsJson = False) -> None:
    """Print what an artifact says of itself, after checking its seal."""
    from adapters_store import artifact
    from adapters_store.backbone import describe
    from adapters_store.errors import RootstockError
    from adapters_store.methods.table import count

    data = artifact_bytes(file)
    adapter = artifact.read(data, file.name)
    manifest = adapter.manifest
    parameters = None  # of a backbone or a method that is not known here
    with suppress(RootstockError):
        parameters = count(adapter, describe(manifest.backbone.name, **manifest.backbone.kwargs))
    value = {
        "file": str(file),
        "digest": artifact.digest(data),
        "bytes": len(data),
        "parameters": parameters,
        "factor_bytes": adapter.factor_bytes,
        "manifest": manifest.model_dump(mode="json"),
        "tensors": {
            n: {"dtype": str(t.dtype), "shape": list(t.shape)}
            for n, t in sorted(adapter.tensors.items())
        },
    }

    def text() -> None:
        options = ", ".join(f"{k}={v}" for k, v in manifest.options.items()) or "none"
        metrics = ", ".join(f"{k} {v:.4g}" for k, v in manifest.metrics.items()) or "none"
        rows = [
            ("task", manifest.task),
            ("digest", value["digest"]),
            ("bytes", f"{len(data):,}"),
            ("method", f"{manifest.method} ({options})"),
            ("parameters", f"{parameters or 0:,} and a head of {len(manifest.labels)} labels"),
            ("backbone", f"{manifest.backbone.name} {manifest.backbone.digest[:16]}"),
            (
                "input",
                "{}x{}".format(*manifest.preprocess.size) + f", {manifest.preprocess.geometry}",
            ),
            ("metrics", metrics),
            ("tensors", f"{len(adapter.tensors)}"),
        ]
        for name, what in rows:
            out.print(f"{name:<11} {what}", markup=False)

    emit(value, as_json, text)


@app.command("verify")
@guarded
def verify(file: File, weights: Weights = None, as_json: AsJson = False) -> None:
    """Check an artifact against its backbone: every tensor, the law, the golden images."""
    from adapters_store import law
    from adapters_store.effect import Golden, golden_images

    backbone, adapter = _admitted(file, weights)
    report = law.check(backbone, adapter, golden_images(adapter.manifest.preprocess.size))
    Golden(backbone).check(adapter)
    value = {"file": str(file), "ok": True, "law": {"merged": report.merged}}
    emit(
        value,
        as_json,
        lambda: out.print(f"{file.name}: ok (merged differs by {report.merged:.1e})"),
    )


@app.command("merge")
@guarded
def merge(
    file: File,
    output: Annotated[Path, typer.Option("--out", help="where the state dict goes")],
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Write a full timm state dict, head included, that `timm.create_model` loads strictly."""
    from safetensors.torch import save_file

    from adapters_store.plain import merged_state

    if output.is_dir() or not output.absolute().parent.is_dir():
        fail(f"--out {output} is a folder, or its folder does not exist")
    backbone, adapter = _admitted(file, weights)
    manifest, state = adapter.manifest, merged_state(backbone, adapter)
    with whole(output) as part:
        save_file(state, part)
    kwargs: dict[str, int] = {**manifest.backbone.kwargs, "num_classes": len(manifest.labels)}  # type: ignore[dict-item]
    value = {
        "file": str(output),
        "model": manifest.backbone.name,
        "kwargs": kwargs,
        "tensors": len(state),
    }

    def text() -> None:
        kwargs = "".join(f", {k}={v!r}" for k, v in value["kwargs"].items())  # type: ignore[attr-defined]
        out.print(f"wrote {output}; load it with", markup=False)
        out.print(f"  net = timm.create_model({manifest.backbone.name!r}{kwargs})", markup=False)
        out.print(f"  net.load_state_dict(load_file({str(output)!r}))", markup=False)

    emit(value, as_json, text)


@app.command("import-peft")
@guarded
def import_peft(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="as PEFT's save_pretrained writes")],
    output: Annotated[Path, typer.Option("--out", help="where the artifact goes")],
    task: Annotated[str, typer.Option(help="name of the task; the folder's unless given")] = "",
    backbone: Annotated[
        str, typer.Option(help="timm name; unless given, what the folder says")
    ] = "",
    weights: Weights = None,
    labels: Annotated[
        Path | None, typer.Option(help="class names, one a line, in the classifier's order")
    ] = None,
    geometry: Annotated[str, typer.Option(help="squash or timm, as it was trained")] = "squash",
    as_json: AsJson = False,
) -> None:
    """Turn a LoRA adapter of Hugging Face PEFT, trained on a timm model, into an artifact."""
    import json

    from adapters_store import artifact, law, peft
    from adapters_store import backbone as backbones
    from adapters_store.adapter import Adapter
    from adapters_store.admission import admit
    from adapters_store.effect import Golden, golden_images
    from adapters_store.manifest import BACKBONE_NAME
    from adapters_store.methods.table import count

    if geometry not in ("squash", "timm"):
        fail(f"--geometry is squash or timm, not {geometry!r}")
    if output.is_dir() or not output.absolute().parent.is_dir():
        fail(f"--out {output} is a folder, or its folder does not exist")
    if not backbone:
        config = folder / peft.CONFIG
        try:
            backbone = json.loads(config.read_text()).get("base_model_name_or_path") or ""
        except (ValueError, AttributeError, RecursionError):
            fail(f"{config} is no PEFT configuration")
        if not isinstance(backbone, str) or not BACKBONE_NAME.fullmatch(
            backbone.removeprefix("timm/")
        ):
            fail("what the folder names as its base is no plain timm model: pass --backbone NAME")
    base = backbones.load(backbone.removeprefix("timm/"), weights)
    try:
        names = None if labels is None else tuple(labels.read_text("utf-8").splitlines())
    except UnicodeDecodeError:
        fail(f"{labels} is no text in UTF-8")
    draft = peft.read(
        folder,
        base.spec,
        task=task or folder.absolute().name.lower(),
        labels=names,
        preprocess=base.spec.preprocess(geometry),
    )
    golden = Golden(base)
    manifest = draft.manifest.model_copy(update={"effect": golden.record(draft)})
    data = artifact.write(Adapter(manifest=manifest, tensors=draft.tensors))
    adapter = admit(data, base.spec)
    report = law.check(base, adapter, golden_images(base.spec.input_size))
    golden.check(adapter)
    with whole(output) as part:
        part.write_bytes(data)
    value = {
        "file": str(output),
        "digest": artifact.digest(data),
        "bytes": len(data),
        "task": manifest.task,
        "targets": len(adapter.factors) // 2,
        "parameters": count(adapter, base.spec),
        "law": {"merged": report.merged},
    }
    emit(
        value,
        as_json,
        lambda: out.print(
            f"wrote {output}: {value['targets']} targets, {value['parameters']:,} parameters "
            f"and a head of {len(manifest.labels)} labels (merged differs by {report.merged:.1e})",
            markup=False,
        ),
    )


@app.command("export-peft")
@guarded
def export_peft(
    file: File,
    output: Annotated[Path, typer.Option("--out", help="the folder to write")],
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Write an artifact of LoRA's shape as a folder that PEFT loads."""
    from adapters_store import peft

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        fail(f"--out {output} is there already, and is not an empty folder")
    backbone, adapter = _admitted(file, weights)
    manifest = adapter.manifest
    peft.write(adapter, backbone.spec, output)
    kwargs: dict[str, Any] = {**manifest.backbone.kwargs, "num_classes": len(manifest.labels)}  # type: ignore[dict-item]
    value = {"folder": str(output), "model": manifest.backbone.name, "kwargs": kwargs}

    def text() -> None:
        given = "".join(f", {k}={v!r}" for k, v in kwargs.items())
        out.print(f"wrote {output}; put it on the same backbone, weights included:", markup=False)
        name = manifest.backbone.name
        out.print(f"  net = timm.create_model({name!r}{given}, pretrained=True)", markup=False)
        out.print(f"  net = PeftModel.from_pretrained(net, {str(output)!r})", markup=False)

    emit(value, as_json, text)


def _admitted(file: Path, weights: Path | None) -> "tuple[Backbone, Adapter]":
    """The adapter in a file, held to the backbone that it names."""
    from adapters_store import artifact
    from adapters_store.admission import admit
    from adapters_store.backbone import for_manifest

    data = artifact_bytes(file)
    backbone = for_manifest(artifact.read(data, file.name).manifest.backbone, weights)
    return backbone, admit(data, backbone.spec)

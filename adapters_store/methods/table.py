"""The table of methods, and the few questions asked of every row. Knows no paper by itself."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from pydantic import ValidationError

from adapters_store.adapter import Adapter
from adapters_store.errors import ArtifactInvalidError, MethodUnknownError, MismatchError
from adapters_store.methods.alore import Alore
from adapters_store.methods.arc import Arc
from adapters_store.methods.bi_lora import BiLora
from adapters_store.methods.bitfit import BitFit
from adapters_store.methods.clora import Clora
from adapters_store.methods.fact import FactTk, FactTt
from adapters_store.methods.heart_lora import HeartLora
from adapters_store.methods.karst import Karst
from adapters_store.methods.linear import Linear
from adapters_store.methods.lora import Lora
from adapters_store.methods.protocol import Method, MethodOptions
from adapters_store.methods.repadapter import RepAdapter
from adapters_store.methods.ssf import Ssf
from adapters_store.normal_form import NormalForm
from adapters_store.spec import BackboneSpec

METHODS: Final[Mapping[str, Method[Any]]] = MappingProxyType(
    {
        "alore": Alore(),
        "lora": Lora(),
        "karst": Karst(),
        "clora": Clora(),
        "heart_lora": HeartLora(),
        "bi_lora": BiLora(),
        "repadapter": RepAdapter(),
        "fact_tt": FactTt(),
        "fact_tk": FactTk(),
        "ssf": Ssf(),
        "arc": Arc(),
        "bitfit": BitFit(),
        "linear": Linear(),
    }
)


def method_named(name: str) -> Method[Any]:
    """The row of this name.

    Raises:
        MethodUnknownError: there is none.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise MethodUnknownError(name, tuple(METHODS)) from None


def offered(name: str, spec: BackboneSpec) -> Method[Any]:
    """The row of this name, where it is offered on this family of backbones.

    Raises:
        MethodUnknownError: there is none.
        ValueError: the method has no place in this family.
    """
    method = method_named(name)
    if spec.family not in method.families:
        known = ", ".join(sorted(method.families))
        raise ValueError(
            f"method {name} is not offered on {spec.family} backbones, only on {known}"
        )
    return method


def fits(name: str, options: MethodOptions, spec: BackboneSpec) -> bool:
    """Whether the method has a place on this backbone with these options."""
    try:
        offered(name, spec).layout(options, spec)
    except ValueError:
        return False
    return True


def parse_options(name: str, options: Mapping[str, Any]) -> MethodOptions:
    """The method's options as its own frozen model.

    Raises:
        MethodUnknownError: no such method.
        ArtifactInvalidError: an option is unknown or out of range; each is a fault.
    """
    method = method_named(name)
    try:
        return method.options.model_validate(dict(options))
    except ValidationError as error:
        faults = tuple(
            f"option {'.'.join(map(str, e['loc']))}: {e['msg']}"
            for e in error.errors(include_url=False)
        )
        raise ArtifactInvalidError(f"method {name}", faults) from None


def count(adapter: Adapter, spec: BackboneSpec) -> int:
    """Trained numbers of an adapter, the head excluded: the convention of the papers.

    Raises:
        MethodUnknownError, ArtifactInvalidError: no such method, or other options than it has.
        MismatchError: its options do not fit the backbone.
    """
    manifest = adapter.manifest
    options = parse_options(manifest.method, manifest.options)
    try:
        return offered(manifest.method, spec).count(options, spec)
    except ValueError as error:
        raise MismatchError(manifest.task, (str(error),)) from None


def lower(adapter: Adapter, spec: BackboneSpec, dtype: torch.dtype = torch.float32) -> NormalForm:
    """The normal form of an adapter that has been admitted for this backbone."""
    manifest = adapter.manifest
    options = parse_options(manifest.method, manifest.options)
    tensors = {
        k: torch.from_numpy(v.copy()).to(dtype)
        if v.dtype.kind == "f"
        else torch.from_numpy(v.copy())
        for k, v in adapter.factors.items()
    }
    return method_named(manifest.method).lower(options, spec, tensors)

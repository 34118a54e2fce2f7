"""What a method promises. Knows no paper: each paper is one file beside this one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Generic, TypeVar

import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from adapters_store.normal_form import NormalForm
from adapters_store.spec import BackboneSpec

Frozen = Callable[[Tensor], Tensor]  # the module that a site sits on
Layout = Mapping[str, tuple[int, ...]]  # tensor name → shape
SHARED: Final = "shared"  # in place of a target's path, for factors that targets share


class MethodOptions(BaseModel):
    """What a task may choose of its method: frozen, and nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def bounded(product: int, most: int, what: str) -> None:
    """Refuse options that are modest one by one and not together.

    An artifact chooses them: a few megabytes of factors must not become gigabytes of work.

    Raises:
        ValueError
    """
    if product > most:
        raise ValueError(f"{what} is {product}, more than {most}")


class Factors(nn.Module):
    """Trained tensors that are stored as they are, some of them times the scale."""

    scaled: ClassVar[frozenset[str]] = frozenset()  # parameters that the scale is folded into

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def factors(self) -> dict[str, Tensor]:
        """The tensors to store, by factor name, the scale already folded in."""
        return {n: p * self.scale if n in self.scaled else p for n, p in self._own()}

    def load(self, factors: Mapping[str, Tensor]) -> None:
        """The inverse of `factors`, up to rounding by the scale."""
        with torch.no_grad():
            for name, parameter in self._own():
                stored = factors[name]
                parameter.copy_(stored / self.scale if name in self.scaled else stored)

    def _own(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.named_parameters(recurse=False))


class Site(Factors):
    """What one adapter trains at one target."""

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """The adapted output for tokens x [..., in], where `frozen` is the target itself."""
        raise AssertionError("every site has its own forward")


class AdapterModule(nn.Module):
    """All sites of one adapter; what the trainer optimises, beside the head."""

    def __init__(self, sites: Mapping[str, Site], shared: Factors | None = None) -> None:
        """Keep the sites by target path, and the factors that they share."""
        super().__init__()
        self.paths = tuple(sites)
        self.shared = shared
        self.sites = nn.ModuleList(sites.values())

    def by_path(self) -> dict[str, Site]:
        """The site of each target."""
        return {p: s for p, s in zip(self.paths, self.sites, strict=True) if isinstance(s, Site)}

    def export(self) -> dict[str, Tensor]:
        """Every tensor of the adapter under its stored name, detached."""
        return {
            f"{where}.{name}": tensor.detach()
            for where, part in self._parts().items()
            for name, tensor in part.factors().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold these stored tensors instead; the inverse of `export`."""
        for where, part in self._parts().items():
            part.load(factors_at(where, tensors))

    def _parts(self) -> dict[str, Factors]:
        shared = {} if self.shared is None else {SHARED: self.shared}
        return {**shared, **self.by_path()}


def factors_at(path: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors of one target (or the shared ones), by factor name."""
    prefix = f"{path}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


OptionsT = TypeVar("OptionsT", bound=MethodOptions)


class Method(ABC, Generic[OptionsT]):
    """One paper's arithmetic.

    The law, which one contract test runs over every method: for any tensors of `layout`,
    the module's output = the lowered form applied unmerged = the merged weights.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    options: ClassVar[type[MethodOptions]]
    families: ClassVar[frozenset[str]] = frozenset({"vit"})  # of backbones that it is offered on
    packed: ClassVar[frozenset[str]] = frozenset()  # factor names that are stored as U8
    exact: ClassVar[frozenset[str]] = frozenset()  # factor names that are stored as F32, as affine

    @abstractmethod
    def layout(self, options: OptionsT, spec: BackboneSpec) -> Layout:
        """Name and shape of every tensor that an artifact of this method holds.

        Raises:
            ValueError: these options do not fit this backbone; the text says why.
        """

    @abstractmethod
    def count(self, options: OptionsT, spec: BackboneSpec) -> int:
        """Trained numbers by the paper's closed formula, the head excluded."""

    @abstractmethod
    def module(self, options: OptionsT, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Fresh trainable sites, initialised as the paper does with torch's global generator.

        Raises:
            ValueError: as `layout`.
        """

    @abstractmethod
    def lower(
        self, options: OptionsT, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """The operators of every target; does not copy what it can view."""

    def faults(
        self, options: OptionsT, spec: BackboneSpec, tensors: Mapping[str, NDArray[Any]]
    ) -> tuple[str, ...]:
        """What is wrong with tensors of the right shapes and dtypes; most methods find nothing."""
        return ()

"""What a method promises. Knows no paper: each paper is one file beside this one."""

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from adapters_store.normal_form import NormalForm
from adapters_store.spec import BackboneSpec

Linear = Callable[[Tensor], Tensor]
Layout = Mapping[str, tuple[int, ...]]  # tensor name → shape; every floating tensor of the method


class MethodOptions(BaseModel):
    """What a task may choose of its method: frozen, and nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Site(nn.Module):
    """What one adapter trains at one target."""

    def forward(self, x: Tensor, linear: Linear) -> Tensor:
        """The adapted output for tokens x [..., in], where `linear` is the frozen target."""
        raise AssertionError("every site has its own forward")

    def factors(self) -> dict[str, Tensor]:
        """The tensors to store, by factor name, the scale already folded in."""
        raise AssertionError("every site names its factors")


class AdapterModule(nn.Module):
    """All sites of one adapter; what the trainer optimises, beside the head."""

    def __init__(self, sites: Mapping[str, Site]) -> None:
        super().__init__()
        self.paths = tuple(sites)
        self.sites = nn.ModuleList(sites.values())

    def by_path(self) -> dict[str, Site]:
        """The site of each target."""
        return {p: s for p, s in zip(self.paths, self.sites, strict=True) if isinstance(s, Site)}

    def export(self) -> dict[str, Tensor]:
        """Every tensor of the adapter under its stored name, detached."""
        return {
            f"{path}.{factor}": tensor.detach()
            for path, site in self.by_path().items()
            for factor, tensor in site.factors().items()
        }


def factors_at(path: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors of one target, by factor name."""
    prefix = f"{path}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


OptionsT_contra = TypeVar("OptionsT_contra", bound=MethodOptions, contravariant=True)


class Method(Protocol[OptionsT_contra]):
    """One paper's arithmetic.

    The law, which one contract test runs over every method: for any tensors of `layout`,
    the module's output = the lowered form applied unmerged = the merged linear.
    """

    name: str
    paper: str

    @property
    def options(self) -> type[MethodOptions]:
        """The model that validates this method's options."""
        ...

    def layout(self, options: OptionsT_contra, spec: BackboneSpec) -> Layout:
        """Name and shape of every tensor that an artifact of this method holds."""
        ...

    def count(self, options: OptionsT_contra, spec: BackboneSpec) -> int:
        """Trained numbers by the paper's closed formula, the head excluded."""
        ...

    def module(self, options: OptionsT_contra, spec: BackboneSpec, dropout: float) -> AdapterModule:
        """Fresh trainable sites, initialised as the paper does with torch's global generator."""
        ...

    def lower(
        self, options: OptionsT_contra, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """The operators of every target; does not copy what it can view."""
        ...

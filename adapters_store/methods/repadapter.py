"""RepAdapter: structural re-parameterisation (arXiv 2302.08106). Knows no training, no serving.

Before attention and, unless that alone is asked for, before the MLP, on rows of tokens x:

    x̂ = x + s · (W_B (W_A x + b_A) + b_B)       W_A [h,d], b_A [h], W_B [d,h/g] in g groups, b_B [d]

merged as W' = W (I + s W_B W_A), b' = b + s W (W_B b_A + b_B). Group i of W_B writes run i of the
outputs and reads part i of the code only, so that W_B is a matrix of g blocks on a diagonal.

Certain (released code): all of it, h = 8, g = 2, W_A Xavier-uniform, W_B and both biases zero, so
that x̂ = x at the start, and dropout on the code. On ViT-B/16 that is 239 808 numbers; the paper
prints 0.22 M, without the biases. Its s was searched for every task in {0.1, 0.5, 1, 5, 10}.
Ours: a target without bias has no b_A and no b_B, for nothing could hold what they add.
"""

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from adapters_store.methods.dropout import dropped
from adapters_store.methods.protocol import (
    AdapterModule,
    Frozen,
    Layout,
    Method,
    MethodOptions,
    Site,
    factors_at,
)
from adapters_store.normal_form import LinearForm, LowRank, NormalForm
from adapters_store.spec import BackboneSpec, Target


class RepAdapterOptions(MethodOptions):
    """A code of eight numbers in two groups, before attention and before the MLP."""

    hidden: int = Field(default=8, ge=1, le=1024)  # h
    groups: int = Field(default=2, ge=1, le=64)  # g
    placement: Literal["attention", "both"] = "both"
    scale: float = Field(default=1.0, ge=1e-6, le=1e6)  # s; folded into W_B and b_B at export

    @model_validator(mode="after")
    def _groups_divide_the_code(self) -> Self:
        if self.hidden % self.groups:
            raise ValueError(f"{self.groups} groups do not divide a code of {self.hidden}")
        return self


class RepAdapterSite(Site):
    """One target: W_A [h,d], W_B [d,h/g] and, where the target has a bias, b_A [h] and b_B [d]."""

    scaled = frozenset({"W_B", "b_B"})

    def __init__(self, target: Target, options: RepAdapterOptions, dropout: float) -> None:
        super().__init__(options.scale)
        self.dropout, self.groups = dropout, options.groups
        for name, shape in shapes(target, options).items():
            factor = nn.Parameter(torch.zeros(shape))
            if name == "W_A":
                nn.init.xavier_uniform_(factor)
            self.register_parameter(name, factor)

    def forward(self, x: Tensor, frozen: Frozen) -> Tensor:
        """frozen(x + s·(W_B (W_A x + b_A) + b_B)), each group of the code by its own block."""
        own = dict(self._own())
        code = F.linear(x, own["W_A"], own.get("b_A"))
        code = dropped(code, self.dropout, training=self.training)
        delta = grouped(own["W_B"], code, self.groups)
        delta = delta + own["b_B"].to(delta.dtype) if "b_B" in own else delta
        return frozen(torch.add(x, delta, alpha=self.scale))


def grouped(up: Tensor, code: Tensor, groups: int) -> Tensor:
    """W_B [d,h/g] on codes [..., h]: part i of the code gives run i of [..., d]."""
    blocks = up.reshape(groups, -1, up.shape[1])  # [g, d/g, h/g]
    parts = code.reshape(*code.shape[:-1], groups, -1)  # [..., g, h/g]
    return torch.einsum("...gh,gdh->...gd", parts, blocks).flatten(-2)


def shapes(target: Target, options: RepAdapterOptions) -> dict[str, tuple[int, ...]]:
    """Factor names and shapes at one target."""
    h, d = options.hidden, target.inputs
    weights: dict[str, tuple[int, ...]] = {"W_A": (h, d), "W_B": (d, h // options.groups)}
    return {**weights, "b_A": (h,), "b_B": (d,)} if target.bias else weights


class RepAdapter(Method[RepAdapterOptions]):
    """The row of the METHODS table."""

    name = "repadapter"
    paper = "RepAdapter, arXiv 2302.08106"
    options = RepAdapterOptions
    exact = frozenset({"b_A", "b_B"})

    def targets(self, options: RepAdapterOptions, spec: BackboneSpec) -> tuple[Target, ...]:
        """In front of attention and, unless that alone is asked for, of the MLP.

        Raises:
            ValueError: the number of groups does not divide a target's width.
        """
        found = spec.in_front(options.placement)
        for t in found:
            if t.inputs % options.groups:
                raise ValueError(
                    f"{options.groups} groups do not divide the {t.inputs} inputs of {t.path}"
                )
        return found

    def layout(self, options: RepAdapterOptions, spec: BackboneSpec) -> Layout:
        """Two weights and two biases a target.

        Raises:
            ValueError: as `targets`.
        """
        return {
            f"{t.path}.{name}": shape
            for t in self.targets(options, spec)
            for name, shape in shapes(t, options).items()
        }

    def count(self, options: RepAdapterOptions, spec: BackboneSpec) -> int:
        """A module holds hd + hd/g numbers, and h + d more where the target has a bias."""
        h, g = options.hidden, options.groups
        return sum(
            h * t.inputs + h * t.inputs // g + (h + t.inputs if t.bias else 0)
            for t in self.targets(options, spec)
        )

    def module(
        self, options: RepAdapterOptions, spec: BackboneSpec, dropout: float
    ) -> AdapterModule:
        """Identity at the start: W_B, b_A and b_B are zero."""
        return AdapterModule(
            {t.path: RepAdapterSite(t, options, dropout) for t in self.targets(options, spec)}
        )

    def lower(
        self, options: RepAdapterOptions, spec: BackboneSpec, tensors: Mapping[str, Tensor]
    ) -> NormalForm:
        """P = one low-rank operator of rank h, the groups' blocks on the diagonal of its up.

        An operator for every group would save the zeros, a quarter of the arithmetic where there
        are two, and need twice the products. On one CPU core that was 4 % slower for one image and
        5 % faster for eight; a GPU, for which these products are too small, counts launches.
        """
        form: dict[str, LinearForm] = {}
        for t in self.targets(options, spec):
            f, g = factors_at(t.path, tensors), options.groups
            up = torch.block_diag(*f["W_B"].chunk(g))  # type: ignore[no-untyped-call]
            form[t.path] = LinearForm(
                P=(LowRank(down=f["W_A"], up=up),),
                c=grouped(f["W_B"], f["b_A"], g) + f["b_B"] if t.bias else None,
            )
        return form

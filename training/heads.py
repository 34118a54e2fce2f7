"""Which heads of a Heart-LoRA respond: scored after a warm-up, chosen once. Knows no image.

The score of head h at layer l is what switching its change off would do to the loss, to first
order. With a gate ξ (1 while scoring) on the change δ of every head, over batches of training
images:

    R[l,h] = mean |∂L/∂ξ[l,h]| = mean |Σ δ_q ⊙ ∂L/∂δ_q + δ_v ⊙ ∂L/∂δ_v|      over tokens, channels

Layers that share their heads are judged by Σ_l R[l,h] / max_h' R[l,h'], so that none of them
dominates; the lowest go off, in ties the first. Dropout and stochastic depth are off meanwhile.
The paper's own formula is not known: this one is inferred (methods.md §5.3).

Until heads are chosen all are trained. B = 0 makes every score zero, and so does the head of the
task, which is zero at first: so there is a warm-up, of one epoch at least. A run that is no
longer than it chooses after its last epoch.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from adapters_store.methods.heads import ActiveHeads
from adapters_store.methods.heart_lora import HeartSite
from adapters_store.methods.protocol import AdapterModule


def open_all(module: AdapterModule) -> None:
    """Switch every head on."""
    for active, _ in judged(module):
        active.on.fill_(True)  # noqa: FBT003 (a tensor's own method)


def choose(module: AdapterModule, losses: Callable[[], Iterator[Tensor]]) -> None:
    """Switch the heads of least response off, for good, and zero their rows of B."""
    scores = responses(module, losses())
    for active, sites in judged(module):
        together = torch.stack([scores[site] for site in sites])
        most = together.amax(dim=1, keepdim=True)
        total = (together / most.where(most > 0, 1.0)).sum(0)
        off = total.argsort(stable=True)[: len(total) - active.kept]
        active.on[off.to(active.on.device)] = False
        for site in sites:
            clear(site)


def responses(module: AdapterModule, losses: Iterator[Tensor]) -> dict[HeartSite, Tensor]:
    """R of every site, float64 [H] on the CPU; nothing is trained by it.

    Args:
        module: whose forward gives the losses.
        losses: one a batch, each computed when it is asked for.
    """
    sites = [site for _, group in judged(module) for site in group]
    gates = [next(s.parameters()).new_ones(s.heads, requires_grad=True) for s in sites]
    sums, batches = [torch.zeros(s.heads, dtype=torch.float64) for s in sites], 0
    try:
        for site, gate in zip(sites, gates, strict=True):
            site.gates = gate
        for loss in losses:
            batches += 1
            for total, slope in zip(sums, torch.autograd.grad(loss, gates), strict=True):
                total.add_(slope.abs().to("cpu", torch.float64))
    finally:
        for site in sites:
            site.gates = None
    return {site: total / max(1, batches) for site, total in zip(sites, sums, strict=True)}


def judged(module: AdapterModule) -> list[tuple[ActiveHeads, list[HeartSite]]]:
    """Every list of heads and the sites that share it, in the order of the network."""
    groups: dict[ActiveHeads, list[HeartSite]] = {}
    for site in module.by_path().values():
        assert isinstance(site, HeartSite)
        groups.setdefault(site.active, []).append(site)
    return list(groups.items())


def clear(site: HeartSite) -> None:
    """Zero the rows of B whose heads are off."""
    with torch.no_grad():
        for part in site.starts:
            site.get_parameter(f"B{part}")[~site.rows()] = 0.0

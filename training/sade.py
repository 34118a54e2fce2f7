"""SADE: keeps the base spaces of CLoRA from answering alike. Knows no image and no recipe.

The sample-agnostic regulariser of arXiv 2512.24603. With M_h^j = D_h Q_h^j U_h for space h of
module j:

    L = (1/m) Σ_j 1/(p(p−1)) Σ_{h≠k} ‖(M_h^j)ᵀ M_k^j‖_F²

For white x the outputs x M_h and x M_k are uncorrelated when M_hᵀ M_k = 0, so no sample is needed.
Certain (reading notes): a Frobenius norm of the weights, without samples. Inferred: this form and
its normalisation, without the scale s.
"""

from collections import defaultdict

import torch
from torch import Tensor

from adapters_store.methods.clora import CloraSite, Spaces
from adapters_store.methods.protocol import AdapterModule


def sade(module: AdapterModule) -> Tensor:
    """L of a CLoRA module, a scalar; zero while Q is zero or where p is one."""
    cores = defaultdict[str, list[Tensor]](list)
    for site in module.by_path().values():
        assert isinstance(site, CloraSite)
        cores[site.pool].append(site.get_parameter("Q"))
    assert isinstance(module.shared, Spaces)
    sums = [overlap(*module.shared.of(pool), torch.stack(Q)) for pool, Q in cores.items()]
    modules, spaces = sum(map(len, cores.values())), sums[0].shape[0]
    apart = ~torch.eye(spaces, dtype=torch.bool, device=sums[0].device)
    # Only pairs are summed: taking the diagonal off again would cost the small terms their digits.
    total = torch.stack([s[apart].sum() for s in sums]).sum()
    return total / (modules * max(1, spaces * (spaces - 1)))


def overlap(D: Tensor, U: Tensor, Q: Tensor) -> Tensor:
    """Σ_j ‖(M_h^j)ᵀ M_k^j‖_F² for every pair of spaces, [p, p], without a d x d matrix.

    With G_hk = D_hᵀ D_k, K_h = U_h U_hᵀ and T_hk = Q_hᵀ G_hk Q_k it is tr(T_hk K_k T_hkᵀ K_h).

    Args:
        D: [p, d, r] of one pool.
        U: [p, r, d] of the same.
        Q: [m, p, r, r], the cores of the modules that draw on it.
    """
    p, _, r = D.shape
    side = D.transpose(0, 1).flatten(1)  # [d, p·r]
    G = (side.mT @ side).reshape(p, r, p, r).transpose(1, 2)  # [h, k, r, r]
    K = U @ U.mT  # [p, r, r]
    T = Q[:, :, None].mT @ G @ Q[:, None]  # [m, h, k, r, r]
    return ((K[:, None] @ T) * (T @ K)).sum((0, -2, -1))

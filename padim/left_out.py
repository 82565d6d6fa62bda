"""Groups of images and the Gaussians of the others: the small systems of equations by which those differ from all's.

留出一组图像：其余图像的高斯与全部图像的高斯之差，只是一个小方程组（Woodbury）。
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

_SMALL = 0.1  # 主元的平方根小于此，float32 因子的舍入就要紧了


def spread(vectors: Tensor, share: float, dim: int) -> Tensor:
    """Each of a group's vectors and a share of their sum: C = I + share·11ᵀ applied along ``dim``."""
    return vectors + share * vectors.sum(dim, keepdim=True)


def squares_without(factor: Tensor, removed: Tensor, share: float, last: int) -> tuple[Tensor, Tensor]:
    """Squared distances of groups to the Gaussians without them.

    Parameters
    ----------
    factor : Tensor, (c, d, d)
        L, where A = LLᵀ.
    removed : Tensor, (c, g, m, d) float64
        V = ΔC of each of g groups, transposed; A − VVᵀ/N is the covariance of the others.
    share : float
        Of C = I + share·11ᵀ; VC are the deviations from the others' mean.
    last : int
        N = n − m − 1.

    Returns
    -------
    squares : Tensor, (c, g, m) float64
    unsure : Tensor, (c,) bool
        Where pivots are small, or not positive.

    Notes
    -----
    With W = L⁻¹V and Y = WC the squares are those of the columns of F⁻¹Y, where FFᵀ = I − WWᵀ/N is of d rows. By
    Woodbury they are the squares of the columns of Y, and besides 1/N times those of F⁻¹WᵀY, where FFᵀ = I − WᵀW/N is
    of m rows: the smaller system is solved.
    """
    g, m, d = removed.shape[1:]
    columns = removed.flatten(1, 2).mT.to(factor.dtype)  # (c, d, g·m)
    w = torch.linalg.solve_triangular(factor, columns, upper=False).double()
    w = w.unflatten(2, (g, m)).transpose(1, 2)  # W：(c, g, d, m)
    y = spread(w, share, 3)  # Y：(c, g, d, m)
    inner = w.mT @ w if m < d else w @ w.mT  # WᵀW 或 WWᵀ：(c, g, r, r)，r = min(m, d)
    rest = torch.eye(inner.shape[-1], dtype=inner.dtype, device=inner.device) - inner / last
    f, info = torch.linalg.cholesky_ex(rest)
    if m < d:
        more = torch.linalg.solve_triangular(f, w.mT @ y, upper=False)  # F⁻¹WᵀY：(c, g, m, m)
        squares = y.square().sum(2) + more.square().sum(2) / last
    else:
        squares = torch.linalg.solve_triangular(f, y, upper=False).square().sum(2)
    sure = (info == 0) & (f.diagonal(dim1=2, dim2=3).amin(2) >= _SMALL)  # (c, g)
    return squares, ~sure.all(1)


def whole_groups(groups: Sequence[int], block: int) -> list[tuple[int, int]]:
    """For successive blocks the size of the groups and the number of images: as many groups of a size as fit."""
    parts = []
    for size, same in groupby(groups):
        number, most = len([*same]), max(1, block // size)
        parts += [(size, size * min(most, number - start)) for start in range(0, number, most)]
    return parts

"""The variants of a study from the one Gaussian of all channels: linear algebra, no second pass of the network.

A choice i of channels has the covariance Σ[i, i], a projection W with orthonormal rows WΣWᵀ; the εI of
equation 1 is in both already. A choice of layers is evaluated where a run with these layers alone
would be: at the cells of the shallowest of them.

References
----------
Defard et al., arXiv 2011.08785, section V.A (inter-layer correlation; dimensionality reduction).
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from padim.anomaly_map import AnomalyMap
from padim.device import tf32
from padim.embedding import Embedding, choose_dimensions, covering_cells
from padim.gaussian import Gaussians
from padim.model import PaDiM
from padim.projection import Projection, principal_components

if TYPE_CHECKING:
    from padim.ablation import Variant

_CHUNK = 64  # 一次取出并分解的位置数


def own_cells(model: PaDiM, layers: Sequence[int]) -> Tensor:
    """What a run with these layers alone reads at each of its positions: (P', number of layers), cells of each."""
    grid = model.shapes[layers[0]][1:]
    return torch.stack([covering_cells(model.shapes[i][1:], grid) for i in layers], 1)


def model_cells(model: PaDiM, layers: Sequence[int]) -> Tensor:
    """The cells of these layers that the model reads at each of its positions: (P, number of layers)."""
    return torch.stack([model.embedding.layers[i][2].cpu() for i in layers], 1)


def add_positions(model: PaDiM, choices: Iterable[Sequence[str]]) -> None:
    """Give a model of all channels, not yet fitted, the positions that some choices of layers need besides.

    Parameters
    ----------
    model : PaDiM
    choices : iterable of sequences of str
        Names of layers.

    Notes
    -----
    Where every layer's size divides that of the one before, the cells that lie on one another in a run of
    deeper layers do so at some position of the first layer, too, and nothing is added. Other sizes (57, 29,
    15) round differently: a cell of layer 2 may meet one of layer 3 that it meets nowhere on the
    first layer's grid. Such a pair becomes a position after those of the grid, with some cell of the
    other layers, which nobody looks at.
    """
    for names in choices:
        layers = _numbers(model, names)
        there = set(map(tuple, model_cells(model, layers).tolist()))
        missing = [cells for cells in map(tuple, own_cells(model, layers).tolist()) if cells not in there]
        for i, layer in enumerate(model.embedding.layers):
            cells = [row[layers.index(i)] if i in layers else 0 for row in missing]
            layer[2] = torch.cat([layer[2], torch.tensor(cells, dtype=torch.int64, device=layer[2].device)])
        model.positions += len(missing)


def all_components(model: PaDiM) -> Tensor:
    """Principal components (t_d, t_d) of the embeddings of all positions, from the fitted Gaussians."""
    # 各位置合在一起的散布 = 位置内散布之和 + 各均值的散布；εI 与常数倍不改变特征向量
    positions, (means, covariances) = model.grid[0] * model.grid[1], model.state()
    mean = means[:positions].double()
    deviations = mean - mean.mean(0)
    scatter = deviations.T @ deviations * model.count
    for start in range(0, positions, _CHUNK):
        part = covariances[start : min(start + _CHUNK, positions)]
        scatter += part.sum(0, dtype=torch.float64) * (model.count - 1)
    return principal_components(scatter, model.channels)


def maps_of(model: PaDiM, variant: "Variant", features: list[Tensor], components: Tensor | None = None) -> np.ndarray:
    """Raw maps (N, H, W) of a variant.

    Parameters
    ----------
    model : PaDiM
        Fitted, with the Gaussian of all channels, and what `add_positions` gave it.
    variant : Variant
    features : list of Tensor, (N, C_l, H_l, W_l)
        The test images', of all layers.
    components : Tensor, (t_d, t_d), optional
        From `all_components`, for a variant that projects.
    """
    if variant.reduction == "sum":
        alone = [replace(variant, layers=[name], reduction="none") for name in variant.layers]
        return sum(maps_of(model, each, features) for each in alone)
    layers = _numbers(model, variant.layers)
    shapes, positions = [model.shapes[i] for i in layers], _find(model, layers).to(model.device)  # (P',)
    if variant.reduction == "pca":  # 总是全部各层，其位置就是模型自己的，依次排列
        basis = rows = components[: variant.dimensions]  # (d, t_d)
        embed: Embedding | Projection = Projection(shapes, basis, model.device)
    else:
        basis, (own, rows) = None, _channels(model, variant, layers)
        embed, index = Embedding(shapes, own, model.device), torch.tensor(rows, device=model.device)
    means, covariances = model.state()
    with torch.inference_mode(), tf32(False):
        block = torch.empty((len(positions), len(features[0]), len(rows)), device=model.device)
        embed([features[i] for i in layers], block)
        distances = block.new_empty(block.shape[:2])  # (P', N)
        for start in range(0, len(positions), _CHUNK):
            here = slice(start, min(start + _CHUNK, len(positions)))
            if basis is not None:
                mean, covariance = means[here] @ basis.T, basis @ covariances[here] @ basis.T
            else:
                at = positions[here]
                mean = means[at[:, None], index]
                covariance = covariances[at[:, None, None], index[:, None], index]  # (c, d, d)
            distances[here] = Gaussians(mean, covariance).distances(block[here])
        grid = shapes[0][1:]
        return AnomalyMap(grid, model.size, model.device)(distances.T.reshape(-1, *grid)).cpu().numpy()


def _numbers(model: PaDiM, names: Sequence[str]) -> list[int]:
    """Which of the model's layers these are, the shallowest first."""
    return [i for i, layer in enumerate(model.layers) if layer.name in names]


def _find(model: PaDiM, layers: list[int]) -> Tensor:
    """For every position of a run with these layers alone, one of the model's that reads the same: (P',) int64."""
    there: dict[tuple, int] = {}
    for position, cells in enumerate(map(tuple, model_cells(model, layers).tolist())):
        there.setdefault(cells, position)
    return torch.tensor([there[cells] for cells in map(tuple, own_cells(model, layers).tolist())])


def _channels(model: PaDiM, variant: "Variant", layers: list[int]) -> tuple[list[int], list[int]]:
    """The channels that a variant without projection keeps: among its layers' own, and among the model's."""
    start, channels = 0, []
    for i, layer in enumerate(model.layers):
        if i in layers:
            channels += range(start, start + layer.channels)
        start += layer.channels
    own = list(range(len(channels)))
    if variant.reduction == "random":
        own = choose_dimensions(len(channels), variant.dimensions, variant.seed)
    return own, [channels[i] for i in own]

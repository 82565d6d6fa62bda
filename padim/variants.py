"""The studies' variants, cut out of the one Gaussian of all channels: linear algebra, no second pass of the network.

研究的各种变体，都从全部通道的一个高斯中取出（论文 V.A）：只是线性代数，不再经过网络。

A choice i of channels has the covariance Σ[i, i], a projection W with orthonormal rows WΣWᵀ; the εI of
equation 1 is in both already, and so it is in the diagonal of such a covariance and in the mean of all of them. A
choice of layers is evaluated where a run with these layers alone would be: at the cells of the shallowest of them.

References
----------
Defard et al., arXiv 2011.08785, section V.A (inter-layer correlation; dimensionality reduction).
"""

from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from padim.anomaly_map import AnomalyMap
from padim.backbone import Layer
from padim.device import tf32
from padim.embedding import Embedding, Projection, choose_dimensions, covering_cells, principal_components
from padim.mahalanobis import Gaussians
from padim.model import PaDiM

SEEDS = 10
COVARIANCES = ("full", "diagonal", "shared", "identity")
_CHUNK = 64  # 一次取出并分解的位置数


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes
    ----------
    label : str
    layers : list of str
    reduction : str
        ``none``, ``random``, ``pca``, or ``sum``: the layers' own maps added up, the paper's ensemble.
    dimensions : int
        d.
    seed : int or None
        Of a random choice.
    grid : list of int or None
        Height and width of the positions, which are the cells of the shallowest of the layers.
    covariance : str
        ``full``; ``diagonal``; ``shared``, the mean of all positions' covariances in place of each; ``identity``, with
        which the distance is Euclid's to the mean.
    """

    label: str
    layers: list[str]
    reduction: str
    dimensions: int
    seed: int | None = None
    grid: list[int] | None = None
    covariance: str = "full"


def layer_choices(layers: list[str]) -> list[list[str]]:
    """Every choice of some of these layers."""
    return [list(part) for size in range(1, len(layers) + 1) for part in combinations(layers, size)]


def variants(layers: list[Layer], study: str, kept: int, dimensions: list[int], seed: int) -> list[Variant]:
    """The rows of a study.

    Parameters
    ----------
    layers : list of padim.backbone.Layer
        All that are read.
    study : str
        ``layers``, ``dimensions``, ``seeds`` or ``covariance``.
    kept : int
        How many channels a random choice keeps.
    dimensions : list of int
        Of the study of dimensions.
    seed : int
        Of the random choices; of the study of seeds the first of `SEEDS`.
    """
    by_name = {layer.name: layer for layer in layers}
    names, total, grid = list(by_name), sum(x.channels for x in layers), [layers[0].height, layers[0].width]
    # 同样的 d，不同的抽法
    if study == "seeds":
        return [Variant(f"seed {s}", names, "random", kept, s, grid) for s in range(seed, seed + SEEDS)]
    # 同样的通道，协方差一步步从简
    if study == "covariance":
        return [Variant(kind, names, "random", kept, seed, grid, kind) for kind in COVARIANCES]
    # 论文 V.A，降维：同样的 d，随机通道与主成分对照
    if study == "dimensions":
        pairs = [(d, reduction) for d in dimensions for reduction in ("random", "pca")]
        rows = [Variant(f"{r} {d}", names, r, d, seed if r == "random" else None, grid) for d, r in pairs]
        return [*rows, Variant("all", names, "none", total, grid=grid)]
    # 论文 V.A，层间相关性：各层的组合，与各层异常图之和
    rows = []
    for choice in layer_choices(names):
        first, channels = by_name[choice[0]], sum(by_name[name].channels for name in choice)
        rows.append(Variant(" + ".join(choice), choice, "none", channels, grid=[first.height, first.width]))
    summed = Variant("sum of the maps", names, "sum", total)
    return [*rows, summed, Variant(f"random {kept}", names, "random", kept, seed, grid)]


def all_components(model: PaDiM) -> Tensor:
    """Principal components (t_d, t_d) of the embeddings of all positions of the grid, from the fitted Gaussians."""
    # 各位置合在一起的散布 = 位置内散布之和 + 各均值的散布；εI 与常数倍不改变特征向量
    positions, (means, covariances) = model.grid[0] * model.grid[1], model.state()
    mean = means[:positions].double()
    deviations = mean - mean.mean(0)
    scatter = deviations.T @ deviations * model.count  # 各均值的
    for start in range(0, positions, _CHUNK):
        part = covariances[start : min(start + _CHUNK, positions)]
        scatter += part.sum(0, dtype=torch.float64) * (model.count - 1)  # 位置内的
    return principal_components(scatter, model.channels)


def maps_of(model: PaDiM, variant: Variant, features: list[Tensor], components: Tensor | None = None) -> np.ndarray:
    """Raw maps (N, H, W) of a variant.

    Parameters
    ----------
    model : PaDiM
        Fitted, of all channels, made with ``also`` for the variant's choice of layers.
    variant : Variant
    features : list of Tensor, (N, C_l, H_l, W_l)
        The test images', of all layers.
    components : Tensor, (t_d, t_d), optional
        From `all_components`, for a variant that projects.
    """
    if variant.reduction == "sum":
        # 论文 V.A 的集成：各层各有自己的高斯，异常图相加
        alone = [replace(variant, layers=[name], reduction="none") for name in variant.layers]
        return reduce(np.add, (maps_of(model, each, features) for each in alone))
    layers = model.layer_numbers(variant.layers)
    shapes, positions = [model.shapes[i] for i in layers], _find(model, layers).to(model.device)  # (P',)
    if variant.reduction == "pca":  # 总是全部各层，其位置就是模型自己的，依次排列
        assert components is not None, "a projection needs the components"
        basis = components[: variant.dimensions]  # (d, t_d)
        embed: Embedding | Projection = Projection(shapes, basis, model.device)
        kept = len(basis)
    else:
        basis, (own, rows) = None, _channels(model, variant, layers)
        embed, index = Embedding(shapes, own, model.device), torch.tensor(rows, device=model.device)
        kept = len(rows)
    means, covariances = model.state()
    with torch.inference_mode(), tf32(False):
        block = torch.empty((len(positions), len(features[0]), kept), device=model.device)  # (P', N, d)
        embed([features[i] for i in layers], block)
        distances = block.new_empty(block.shape[:2])  # (P', N)
        if variant.covariance == "shared":
            total = torch.zeros((kept, kept), dtype=torch.float64, device=model.device)
            for at in positions.split(_CHUNK):
                total += covariances[at[:, None, None], index[:, None], index].sum(0, dtype=torch.float64)
            shared = (total / len(positions)).float()  # (d, d)；均值仍各是各的
        for start in range(0, len(positions), _CHUNK):
            here = slice(start, min(start + _CHUNK, len(positions)))
            if basis is not None:
                mean, covariance = means[here] @ basis.T, basis @ covariances[here] @ basis.T  # Wμ，WΣWᵀ
            else:
                at = positions[here]
                mean = means[at[:, None], index]  # μ[i]：(c, d)
                covariance = covariances[at[:, None, None], index[:, None], index]  # Σ[i, i]：(c, d, d)
            if variant.covariance == "diagonal":
                covariance = covariance.diagonal(dim1=1, dim2=2).diag_embed()
            elif variant.covariance != "full":
                one = shared if variant.covariance == "shared" else torch.eye(kept, device=model.device)
                covariance = one.repeat(len(mean), 1, 1)  # 处处相同
            distances[here] = Gaussians(mean, covariance).distances(block[here])  # 公式 2
        grid = shapes[0][1:]  # 所选各层中最浅的一层的网格
        return AnomalyMap(grid, model.size, model.device)(distances.T.reshape(-1, *grid)).cpu().numpy()


def _find(model: PaDiM, layers: list[int]) -> Tensor:
    """For every position of a run with these layers alone, one of the model's that reads the same: (P',) int64."""
    there: dict[tuple, int] = {}
    for position, cells in enumerate(map(tuple, model.cells[:, layers].tolist())):
        there.setdefault(cells, position)  # 读法相同的，嵌入也相同：取最前的一个
    own = covering_cells([model.shapes[i] for i in layers])
    return torch.tensor([there[cells] for cells in map(tuple, own.tolist())])


def _channels(model: PaDiM, variant: Variant, layers: list[int]) -> tuple[list[int], list[int]]:
    """The channels that a variant without projection keeps: among its layers' own, and among the model's."""
    channels: list[int] = []
    start = 0
    for i, layer in enumerate(model.layers):
        if i in layers:
            channels += range(start, start + layer.channels)
        start += layer.channels
    # 在所选各层之内编号，与只读这几层的模型抽得一样
    own = list(range(len(channels)))
    if variant.reduction == "random":
        assert variant.seed is not None, "a random choice needs a seed"
        own = choose_dimensions(len(channels), variant.dimensions, variant.seed)
    return own, [channels[i] for i in own]

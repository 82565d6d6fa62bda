"""Multi-scale patch embeddings: aligning the layers, and choosing or projecting channels.

图块嵌入：各层对齐、拼接，随机选取通道（论文 III.A）或投影到主成分（论文 V.A）。

References
----------
Defard et al., arXiv 2011.08785, section III.A (embedding extraction, random dimensionality
reduction), V.A (random against principal component reduction).
"""

import random
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from system.errors import UserError

Shape = tuple[int, int, int]  # 一层的通道数、行数、列数


def choose_dimensions(total: int, kept: int, seed: int = 1024) -> list[int]:
    """The channels to keep, in the order drawn: ``random.seed(seed); random.sample(range(t_d), d)``.

    Raises
    ------
    UserError
        If more dimensions are wanted than there are.
    """
    if not 1 <= kept <= total:
        raise UserError(f"{kept} dimensions were asked for, but there are {total} channels; give a smaller --rd")
    # 论文 III.A：随机降维；独立的生成器，抽出的与原代码相同，而不动全局的状态
    return random.Random(seed).sample(range(total), kept)


def principal_components(covariance: Tensor, kept: int) -> Tensor:
    """The leading eigenvectors of a covariance, as the rows of a projection (paper, section V.A).

    Parameters
    ----------
    covariance : Tensor, (t_d, t_d)
        Of the embeddings of all images and all positions together.
    kept : int
        d.

    Returns
    -------
    Tensor, (d, t_d) float32
        Orthonormal rows, in descending order of variance; of each the largest entry is positive.
    """
    # 论文 V.A：方差最大的 d 个方向；eigh 按特征值升序给出，故翻转
    components = torch.linalg.eigh(covariance.double())[1].flip(1)[:, :kept].T  # (d, t_d)
    # 特征向量的正负是任意的：令绝对值最大的分量为正
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))  # (d, 1)
    return (components * largest.sign()).float()


def covering_cells(shapes: Sequence[Shape]) -> Tensor:
    """What each position of the first layer's grid reads of every layer: the cell that covers it.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Channels, height and width of L layers' outputs.

    Returns
    -------
    Tensor, (P, L) int64
        P = H_1·W_1, row by row; cells are counted row by row, too.
    """
    grid, columns = shapes[0][1:], []  # 论文 III.A：位置即最大的特征图的网格
    for _, height, width in shapes:
        cells = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)  # 以序号为值的图
        columns.append(interpolate(cells, grid).long().flatten())  # 最近邻上采样：(P,)
    return torch.stack(columns, 1)  # (P, L)


def covering_cells_of_all(shapes: Sequence[Shape], choices: Iterable[Sequence[int]]) -> Tensor:
    """The positions of `covering_cells`, then those that some choices of layers, each on its own grid, need besides.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Channels, height and width of L layers' outputs.
    choices : iterable of sequences of int
        Which layers, the shallowest first.

    Returns
    -------
    Tensor, (P + more, L) int64

    Notes
    -----
    Where every layer's size divides that of the one before, the cells that lie on one another in a run of
    deeper layers do so at some position of the first layer, too, and nothing is added. Other sizes (57, 29,
    15) round differently: a cell of layer 2 may meet one of layer 3 that it meets nowhere on the
    first layer's grid. Such a pair becomes a position after those of the grid, with some cell of the
    other layers, which nobody looks at.
    """
    cells = covering_cells(shapes)
    for layers in choices:
        there = set(map(tuple, cells[:, list(layers)].tolist()))
        own = covering_cells([shapes[i] for i in layers])  # 只读这几层的模型要读的格子
        missing = torch.tensor([row for row in own.tolist() if tuple(row) not in there], dtype=torch.int64)
        more = torch.zeros((len(missing), len(shapes)), dtype=torch.int64)
        more[:, list(layers)] = missing.view(-1, len(layers))
        cells = torch.cat([cells, more])  # (P + 新增, L)
    return cells


class Embedding:
    """Gathers the chosen channels of all layers at every position.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Channels, height and width of every layer's output; the channels' sum is t_d.
    dimensions : sequence of int
        The d chosen channels among the t_d concatenated ones, in the order wanted.
    device : torch.device or str
    cells : Tensor, (P, L) int64, optional
        What each position reads of every layer; by default `covering_cells`.

    Notes
    -----
    The concatenation of t_d channels never exists: every layer's chosen channels are picked at
    that layer's own resolution, and only they are up-sampled (nearest), straight into the
    position-major rows of the result.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        dimensions: Sequence[int],
        device: torch.device | str = "cpu",
        cells: Tensor | None = None,
    ):
        chosen = torch.tensor(dimensions)
        cells = covering_cells(shapes) if cells is None else cells
        self._layers, start = [], 0  # 每层：选中的通道、它们在结果里的列、每个位置取自该层何处
        for (channels, _, _), sources in zip(shapes, cells.T, strict=True):
            columns = ((chosen >= start) & (chosen < start + channels)).nonzero()[:, 0]  # (d_l,)，抽中本层的
            self._layers.append([t.to(device) for t in (chosen[columns] - start, columns, sources)])
            start += channels

    def __call__(self, features: Sequence[Tensor], out: Tensor) -> None:
        """Write B images' embeddings.

        Parameters
        ----------
        features : sequence of Tensor, (B, C_l, H_l, W_l)
            Channels-last in memory, for speed.
        out : Tensor, (P, B, d) float32
            Filled; position-major. It may be a slice of a larger buffer.
        """
        # 论文 III.A：每层取选中的通道，最近邻上采样到第一层的网格，按抽取的次序拼接
        for feature, (channels, columns, sources) in zip(features, self._layers, strict=True):
            picked = feature.permute(0, 2, 3, 1).index_select(3, channels)  # (B, H_l, W_l, d_l)
            cells = picked.permute(1, 2, 0, 3).flatten(0, 1)  # (H_l·W_l, B, d_l)
            out.index_copy_(2, columns, cells.index_select(0, sources).to(out.dtype))  # (P, B, d_l)


class Projection:
    """Projects the concatenated channels of all layers at every position; called as an `Embedding`.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Channels, height and width of every layer's output; the channels' sum is t_d.
    components : Tensor, (d, t_d) float32
        From `principal_components`.
    device : torch.device or str

    Notes
    -----
    W [f₁; f₂; f₃] = W₁f₁ + W₂f₂ + W₃f₃: every layer is projected at its own resolution, and only
    the d results are up-sampled (nearest). The concatenation never exists.
    """

    def __init__(self, shapes: Sequence[Shape], components: Tensor, device: torch.device | str = "cpu"):
        self.components = components.to(device)
        parts = self.components.split([channels for channels, _, _ in shapes], 1)  # W 按层切开，各 (d, C_l)
        cells = covering_cells(shapes).T.to(device)  # (L, P)
        self._layers = [(part.T.contiguous(), sources) for part, sources in zip(parts, cells, strict=True)]

    def __call__(self, features: Sequence[Tensor], out: Tensor) -> None:
        """Write B images' embeddings (P, B, d) into ``out``; as `Embedding`."""
        # 论文 V.A：Wx = Σ Wₗfₗ，各层在自己的分辨率上投影，上采样后相加
        for index, (feature, (part, sources)) in enumerate(zip(features, self._layers, strict=True)):
            projected = feature.permute(2, 3, 0, 1).to(out.dtype) @ part  # (H_l, W_l, B, d)
            rows = projected.flatten(0, 1).index_select(0, sources)  # (P, B, d)
            if index == 0:
                out.copy_(rows)
            else:
                out.add_(rows)

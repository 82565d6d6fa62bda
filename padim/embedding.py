"""Multi-scale patch embeddings: aligning the layers, and the random choice of dimensions.

References
----------
Defard et al., arXiv 2011.08785, section III.A (embedding extraction) and III.C (random
dimensionality reduction).
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class DimensionError(ValueError):
    """More dimensions are wanted than there are channels."""


def choose_dimensions(total: int, kept: int, seed: int = 1024) -> list[int]:
    """The channels to keep, in the order drawn: ``random.seed(seed); random.sample(range(t_d), d)``.

    Raises
    ------
    DimensionError
        If more dimensions are wanted than there are.
    """
    if not 1 <= kept <= total:
        raise DimensionError(f"{kept} dimensions were asked for, but there are {total} channels")
    return random.Random(seed).sample(range(total), kept)


def covering_cells(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """For every position of ``grid``, row by row, the cell of a map of ``size`` that covers it: (P,) int64."""
    cells = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, 1, *size)
    return interpolate(cells, grid).long().flatten()


class Embedding:
    """Gathers the chosen channels of all layers at every position of the first layer.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Channels, height and width of every layer's output; the channels' sum is t_d.
    dimensions : sequence of int
        The d chosen channels among the t_d concatenated ones, in the order wanted.
    device : torch.device or str

    Notes
    -----
    The concatenation of t_d channels never exists: every layer's chosen channels are picked at
    that layer's own resolution, and only they are up-sampled (nearest), straight into the
    position-major rows of the result.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        dimensions: Sequence[int],
        device: torch.device | str = "cpu",
    ):
        chosen = torch.tensor(dimensions)
        grid = shapes[0][1:]
        self.layers, start = [], 0  # 每层：选中的通道、它们在结果里的列、每个位置取自该层何处
        for channels, height, width in shapes:
            columns = ((chosen >= start) & (chosen < start + channels)).nonzero()[:, 0]
            sources = covering_cells((height, width), grid)  # (P,)
            self.layers.append([t.to(device) for t in (chosen[columns] - start, columns, sources)])
            start += channels

    def __call__(self, features: Sequence[Tensor], out: Tensor) -> None:
        """Write B images' embeddings.

        Parameters
        ----------
        features : sequence of Tensor, (B, C_l, H_l, W_l)
            Channels-last in memory, for speed.
        out : Tensor, (P, B, d) float32
            Filled; P = H_1·W_1, position-major. It may be a slice of a larger buffer.
        """
        for feature, (channels, columns, sources) in zip(features, self.layers, strict=True):
            picked = feature.permute(0, 2, 3, 1).index_select(3, channels)  # (B, H_l, W_l, d_l)
            cells = picked.permute(1, 2, 0, 3).flatten(0, 1)  # (H_l·W_l, B, d_l)
            out.index_copy_(2, columns, cells.index_select(0, sources).to(out.dtype))  # (P, B, d_l)

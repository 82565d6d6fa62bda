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


class Embedding:
    """Gathers the chosen channels of all layers at every position of the first layer.

    Parameters
    ----------
    channels : sequence of int
        The channels of every layer, C_l; their sum is t_d.
    dimensions : sequence of int
        The d chosen channels among the t_d concatenated ones, in the order wanted.
    device : torch.device or str

    Notes
    -----
    The concatenation of t_d channels never exists: every layer's chosen channels are picked at
    that layer's own resolution, and only they are up-sampled (nearest).
    """

    def __init__(self, channels: Sequence[int], dimensions: Sequence[int], device: torch.device | str = "cpu"):
        chosen = torch.tensor(dimensions)
        self.picks, columns, start = [], [], 0
        for count in channels:
            inside = ((chosen >= start) & (chosen < start + count)).nonzero()[:, 0]
            self.picks.append((chosen[inside] - start).to(device))
            columns.append(inside)
            start += count
        # 按层拼接后的列 → 抽取时的顺序
        self.order = torch.cat(columns).argsort().to(device)

    def __call__(self, features: Sequence[Tensor], out: Tensor) -> None:
        """Write B images' embeddings.

        Parameters
        ----------
        features : sequence of Tensor, (B, C_l, H_l, W_l)
        out : Tensor, (P, B, d)
            Filled; P = H_1·W_1, position-major. It may be a slice of a larger buffer.
        """
        height, width = features[0].shape[2:]
        picked = []
        for feature, pick in zip(features, self.picks, strict=True):
            if len(pick):
                part = feature.index_select(1, pick)  # (B, d_l, H_l, W_l)
                picked.append(interpolate(part, (height, width)))  # (B, d_l, H, W)
        embedding = torch.cat(picked, 1).index_select(1, self.order)  # (B, d, H, W)
        out.view(height, width, *out.shape[1:]).copy_(embedding.permute(2, 3, 0, 1))  # (H, W, B, d)

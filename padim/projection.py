"""Principal components of the embeddings, the paper's alternative to the random choice of dimensions.

References
----------
Defard et al., arXiv 2011.08785, section V.A (random against principal component reduction).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from padim.embedding import covering_cells


def principal_components(covariance: Tensor, kept: int) -> Tensor:
    """The leading eigenvectors of a covariance, as the rows of a projection.

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
    components = torch.linalg.eigh(covariance.double())[1].flip(1)[:, :kept].T  # (d, t_d)
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))  # (d, 1)
    return (components * largest.sign()).float()


class Projection:
    """Projects the concatenated channels of all layers at every position of the first layer.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Channels, height and width of every layer's output; the channels' sum is t_d.
    components : Tensor, (d, t_d) float32
    device : torch.device or str

    Notes
    -----
    W [f₁; f₂; f₃] = W₁f₁ + W₂f₂ + W₃f₃: every layer is projected at its own resolution, and only
    the d results are up-sampled (nearest). The concatenation never exists.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], components: Tensor, device: torch.device | str = "cpu"):
        parts = components.to(device).split([channels for channels, _, _ in shapes], 1)
        grid = shapes[0][1:]
        self.components = components
        self.layers = [
            (part.T.contiguous(), covering_cells(shape[1:], grid).to(device))
            for part, shape in zip(parts, shapes, strict=True)
        ]

    def __call__(self, features: Sequence[Tensor], out: Tensor) -> None:
        """Write B images' embeddings (P, B, d) into ``out``; as `padim.embedding.Embedding`."""
        for index, (feature, (part, cells)) in enumerate(zip(features, self.layers, strict=True)):
            projected = feature.permute(2, 3, 0, 1).to(out.dtype) @ part  # (H_l, W_l, B, d)
            rows = projected.flatten(0, 1).index_select(0, cells)  # (P, B, d)
            if index == 0:
                out.copy_(rows)
            else:
                out.add_(rows)

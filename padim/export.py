"""A fitted model as one module, from prepared pictures to maps and scores: what is exported for deployment.

拟合好的模型合成一个模块：预处理过的图片进，异常图与得分出；导出部署的就是它。

References
----------
Defard et al., arXiv 2011.08785, sections III.A (embedding) and III.C (equation 2, anomaly map).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from padim.mahalanobis import invert_factors
from padim.model import PaDiM


class Deployed(nn.Module):
    """Normalisation, network, embedding, distance, up-sampling and smoothing, in operators that ONNX has.

    Parameters
    ----------
    model : PaDiM
        Fitted, on the CPU, of precision ``float32``. It gives its Gaussians up: their memory becomes the module's.
    mean, std : sequence of 3 floats
        Of the normalisation, RGB; for pictures from 0 to 1.
    half : bool
        Keep the whitening matrices as float16; the arithmetic stays float32.

    Raises
    ------
    ValueError
        If nothing is fitted.
    system.errors.UserError
        If a covariance has no Cholesky factor.

    Notes
    -----
    ONNX has no triangular solve. With Σ = LLᵀ, equation 2 is ‖L⁻¹(x − μ)‖; L⁻¹ is computed in float64 and kept, and
    the distances of a batch are one batched product. They do not depend on the order of the channels: these are
    sorted, so that the layers' parts need only be put one behind the other.
    """

    def __init__(self, model: PaDiM, mean: Sequence[float], std: Sequence[float], half: bool = False):
        super().__init__()
        chosen, order = torch.tensor(model.dimensions).sort()  # 距离与通道的次序无关：排好序，各层的部分直接相接
        self.backbone, self.grid, self.anomaly_map = model.backbone, model.grid, model.anomaly_map
        self.mean = nn.Buffer(torch.tensor(mean).view(3, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).view(3, 1, 1))
        parts: list[nn.Module] = []
        components, start = model.components, 0
        for (channels, _, _), sources in zip(model.shapes, model.cells.T, strict=True):
            here = slice(start, start := start + channels)  # 本层在拼接中的通道
            if components is None:
                parts.append(_Chosen(chosen[(chosen >= here.start) & (chosen < here.stop)] - here.start, sources))
            else:
                parts.append(_Projected(components[:, here], sources))
        self.parts, self.projects = nn.ModuleList(parts), components is not None
        means, whitening = model.state()
        model.release()
        invert_factors(whitening, order)  # Σ → L⁻¹，就在原处：内存不必加倍
        self.means = nn.Buffer(means[:, order, None].to(whitening.dtype))  # (P, d, 1)
        self.whitening = nn.Buffer(whitening.half() if half else whitening)  # (P, d, d)
        self.region = None if model.region is None else nn.Buffer(torch.from_numpy(model.region))  # (H, W)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared pictures (B, H, W, 3) uint8 → raw maps (B, H, W) and their maxima (B,), float32.

        Outside of the model's region the maps are NaN.
        """
        images = pictures.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        images = (images / 255 - self.mean) / self.std  # 论文 IV.B
        # 论文 III.A：各层选取（或投影），最近邻上采样到第一层的网格，拼接（或相加）
        parts = [part(feature) for part, feature in zip(self.parts, self.backbone(images), strict=True)]
        embeddings = torch.stack(parts).sum(0) if self.projects else torch.cat(parts, 1)
        deviations = embeddings - self.means  # (P, d, B)
        whitened = self.whitening.float() @ deviations
        distances = torch.linalg.vector_norm(whitened, dim=1)  # 公式 2：(P, B)
        maps = self.anomaly_map(distances.T.reshape(-1, *self.grid))  # 论文 III.C：(B, H, W)
        if self.region is None:
            return maps, maps.amax((1, 2))
        # 区域之外不参与最大值
        return maps.masked_fill(~self.region, torch.nan), maps.masked_fill(~self.region, -torch.inf).amax((1, 2))


class _Chosen(nn.Module):
    """A layer's chosen channels at every position."""

    def __init__(self, channels: Tensor, sources: Tensor):
        super().__init__()
        self.channels = nn.Buffer(channels)
        self.sources = nn.Buffer(sources.contiguous())

    def forward(self, feature: Tensor) -> Tensor:
        return _upsampled(feature.index_select(1, self.channels), self.sources)  # (P, d_l, B)


class _Projected(nn.Module):
    """A layer's contribution to the principal components at every position."""

    def __init__(self, part: Tensor, sources: Tensor):
        super().__init__()
        self.part = nn.Buffer(part[:, :, None, None].contiguous())
        self.sources = nn.Buffer(sources.contiguous())

    def forward(self, feature: Tensor) -> Tensor:
        return _upsampled(conv2d(feature, self.part), self.sources)  # (P, d, B)


def _upsampled(feature: Tensor, sources: Tensor) -> Tensor:
    """A layer's values (B, C, H_l, W_l) at every position, nearest: (P, C, B)."""
    return feature.flatten(2).permute(2, 1, 0).index_select(0, sources)  # 先转置：上采样前的一层小得多

"""From distances to anomaly maps.

从距离到异常图：双线性上采样与高斯平滑（论文 III.C）。

References
----------
Defard et al., arXiv 2011.08785, section III.C (anomaly map); the up-sampling and the Gaussian
filter are those of the original code.
"""

import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn.functional import interpolate

SIGMA = 4  # 像素（论文 IV.B）；scipy 默认的反射边界，截断于 4σ


class AnomalyMap:
    """Bilinear up-sampling and Gaussian smoothing, as one linear map along each axis.

    Parameters
    ----------
    grid, size : (int, int)
        Height and width of the distance grid and of the map.
    device : torch.device or str

    Notes
    -----
    Both steps are linear and separable, so a map is ``A_h D A_wᵀ``. A is what
    ``interpolate(..., align_corners=False)`` and ``scipy.ndimage.gaussian_filter1d(sigma=4)`` make
    of the identity in float64: the same operators, applied to all images in two matrix products.
    """

    def __init__(self, grid: tuple[int, int], size: tuple[int, int], device: torch.device | str = "cpu"):
        # 行方向 A_h (H, h) 与列方向 A_w (W, w)，只算一次
        self.rows, self.columns = (_operator(a, b).to(device) for a, b in zip(grid, size, strict=True))

    def __call__(self, distances: Tensor) -> Tensor:
        """Distances (B, h, w) float32 → raw maps (B, H, W) float32."""
        return self.rows @ distances @ self.columns.T  # A_h D A_wᵀ：(B, H, W)


def _operator(source: int, target: int) -> Tensor:
    """(target, source) float32: up-sampling, then smoothing, of a signal of ``source`` samples."""
    # 算子作用于各个单位向量，依次就是它的各列；用 float64 算，末了才舍入
    identity = torch.eye(source, dtype=torch.float64)[None]  # (1, 通道 = source, 长度 = source)
    upsampled = interpolate(identity, target, mode="linear", align_corners=False)[0].T  # (target, source)
    return torch.from_numpy(gaussian_filter1d(upsampled.numpy(), SIGMA, axis=0)).float()

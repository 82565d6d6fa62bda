"""MahalanobisAD: one Gaussian for each level of a whole picture's pooled features.

MahalanobisAD：整张图片的各层池化特征，每层一个高斯。

References
----------
Rippel, Mertens and Merhof, "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly
Detection", ICPR 2020, arXiv 2005.14140.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from padim import BLOCK
from padim.backbone import Backbone
from padim.batches import Batch, images_of
from padim.pretrained import Bytes, Gather, ImageScores, Pretrained, alone
from padim.weights import load_network
from system.errors import UserError

# 末一级的块数：其最后一块的输入也是一层。B0 的末一级只有一块，没有这一层
_LAST_STAGE = {"b1": 2, "b2": 2, "b3": 2, "b4": 2, "b5": 3, "b6": 3, "b7": 4}
_FAR = 1000  # 更远的图，float32 前向的舍入被放大到不可忽略
_LEAST_SPREAD = 1e-6  # 相对于特征的大小；更小的只是 float32 的舍入


def levels(arch: str) -> list[str]:
    """The nine levels of an EfficientNet, by torchvision's names.

    The stem; the inputs of the blocks that change the number of channels, the first block excepted, which are the ends
    of all stages but the last; the input of the last block; the head.

    Raises
    ------
    UserError
        If the network has no such levels.
    """
    known = {f"efficientnet_{name}": blocks for name, blocks in _LAST_STAGE.items()}
    if arch not in known:
        names = ", ".join(known)
        raise UserError(f"MahalanobisAD reads nine levels of an EfficientNet; --arch takes {names}, not {arch!r}")
    return [f"features.{i}" for i in range(7)] + [f"features.7.{known[arch] - 2}", "features.8"]


class MahalanobisAD(Pretrained):
    """Mahalanobis distances of pooled features, summed over the levels of a network.

    Parameters
    ----------
    arch : str
        ``efficientnet_b1`` to ``efficientnet_b7``.
    weights, device, size, precision
        As for `padim.model.PaDiM`.

    Attributes
    ----------
    layers, and others
        As `padim.pretrained.Pretrained`.
    count : int
        Training images.
    means : list of Tensor, (C_l,) float64
    factors : list of Tensor, (C_l, C_l) float64
        Lower Cholesky factors of the covariances.

    Raises
    ------
    system.errors.UserError
        If the network is none of these or takes no images of this size, or its weights cannot be had.

    Notes
    -----
    The public script takes its network from another package, with weights and a padding that come from TensorFlow. This
    is torchvision's network of the same layers, so the figures are others than the published ones.

    An image far outside of what the training images span amplifies the rounding of the network: the golden image that
    scores 45,000 changes by 2 % with the batch size, in torchvision's own network too. So images that score above 1000
    pass the network once more in float64.
    """

    has_maps = False

    def __init__(
        self,
        arch: str = "efficientnet_b4",
        weights: str = "imagenet",
        device: str | torch.device = "cpu",
        size: tuple[int, int] = (224, 224),
        precision: str = "float32",
    ):
        super().__init__(arch, weights, levels(arch), device, size, precision)
        self._channels = [channels for channels, _, _ in self.shapes]
        self.release()

    def release(self) -> None:
        """Forget the Gaussians."""
        self.count = 0
        self.means: list[Tensor] = []
        self.factors: list[Tensor] = []

    def bytes_needed(self, batch_size: int, n_train: int, n_test: int) -> Bytes:
        """An estimate of the memory for fitting and scoring a class."""
        widest, every = max(self._channels), sum(self._channels)
        # 池化向量与拟合时的几份离差；最宽一层的协方差与其运算；各层的因子
        statistics = 8 * (n_train * (every + 4 * widest) + 5 * widest**2 + sum(c * c for c in self._channels))
        device = self._forward_bytes(min(batch_size, max(n_train, n_test, 1)))
        # 得分很大的图，再走一遍 float64 的网络：权重与一张图的各层输出都加倍
        device += 2 * (sum(each.nbytes for each in self.backbone.parameters()) + self._forward_bytes(1))
        return Bytes(device, statistics + (device if self.device.type == "cpu" else 0))

    @torch.inference_mode()
    def fit(self, batches: Iterable[Batch], gather: Gather = alone) -> "MahalanobisAD":
        """Fit every level's Gaussian to training images.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
            Normalised images.
        gather : callable
            Returns the arrays of all processes that fit together, each from its own part of the images; called once.
            All of them get the Gaussians of all images.

        Raises
        ------
        ValueError
            For images of another size than the model's.
        system.errors.UserError
            For fewer than two images; if the features are not finite; if all images have the same at some level.

        Notes
        -----
        The covariance is scikit-learn's ``LedoitWolf``: shrunk towards a multiple of the identity, without which it is
        singular for fewer images than channels. Means, covariances and distances are float64.
        """
        self.release()
        own = np.array(list(self._pooled(batches))).reshape(-1, sum(self._channels))
        pooled = np.concatenate(gather(own))  # (N, ΣC)
        if len(pooled) < 2:
            raise UserError(f"a covariance needs at least two training images, not {len(pooled)}")
        if not np.isfinite(pooled).all():
            raise UserError(
                "the training features are not finite: the weights hold NaN or are far out of scale; try other "
                "--weights"
            )
        for layer, x in zip(self.layers, self._split(pooled), strict=True):
            if x.std(0).max() <= _LEAST_SPREAD * np.abs(x).max():
                raise UserError(
                    f"all training images have the same features at {layer.name}, so that no distance is defined; are "
                    "they copies of one picture?"
                )
            covariance, _ = ledoit_wolf(x)
            self.means.append(torch.from_numpy(x.mean(0)))
            self.factors.append(_factor(torch.from_numpy(covariance), layer.name))
        self.count = len(pooled)
        return self

    def _pooled(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Every image's features, each level averaged over its positions: (ΣC,) float64."""
        for features in self.features(batches):
            yield from _averages(features)

    @cached_property
    def _exact(self) -> Backbone:
        """The same network in float64, batch norms folded in float64 too."""
        network, _ = load_network(self.arch, self.weights)
        return Backbone(network.double(), levels(self.arch)).to(self.device)

    def _split(self, pooled: np.ndarray) -> list[np.ndarray]:
        return np.split(pooled, np.cumsum(self._channels)[:-1], axis=1)

    @torch.inference_mode()
    def score(self, batches: Iterable[Batch]) -> Iterator[ImageScores]:
        """Score test images, block by block, in order.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32

        Yields
        ------
        ImageScores
            The sums of the levels' Mahalanobis distances; there are no maps.

        Raises
        ------
        ValueError
            If nothing is fitted, or images are of another size than the model's.
        """
        if not self.count:
            raise ValueError("fit comes before score")
        scored = self._each(batches)
        while block := list(islice(scored, BLOCK)):
            yield ImageScores(np.array(block, np.float32), np.empty((len(block), 0), np.float32))

    def _each(self, batches: Iterable[Batch]) -> Iterator[float]:
        for images in images_of(batches, self.size):
            scores = self._distances(self._pooled([images]))
            for image, score in zip(images.split(1), scores, strict=True):
                yield (
                    score
                    if score <= _FAR
                    else self._distances(_averages(self._exact(image.to(self.device).double())))[0]
                )

    def _distances(self, pooled: Iterable[np.ndarray]) -> list[float]:
        """The Mahalanobis distances of images' pooled features (ΣC,), summed over the levels."""
        parts = self._split(np.stack(list(pooled)))  # 每层 (m, C_l)
        total = torch.zeros(len(parts[0]), dtype=torch.float64)
        for x, mean, factor in zip(parts, self.means, self.factors, strict=True):
            deviations = (torch.from_numpy(x) - mean).T  # (C_l, m)
            # Σ = LLᵀ：马氏距离是 ‖L⁻¹(x − μ)‖；各层不加权相加
            total += torch.linalg.vector_norm(torch.linalg.solve_triangular(factor, deviations, upper=False), dim=0)
        return total.tolist()


def _averages(features: list[Tensor]) -> np.ndarray:
    """The levels' outputs (b, C_l, H_l, W_l), each averaged over its positions, side by side: (b, ΣC) float64."""
    return torch.cat([feature.mean((2, 3), dtype=torch.float64) for feature in features], 1).cpu().numpy()


def _factor(covariance: Tensor, name: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(covariance)
    if info:
        raise UserError(f"the covariance at {name} is not positive definite: too few different training images")
    return factor

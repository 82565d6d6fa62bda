"""PaDiM: fit, score, leave out; the state out and in.

PaDiM：拟合、打分、留一（组）；状态的取出与放入（论文第 III 节）。

References
----------
Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", ICPR 2020 workshops, arXiv 2011.08785.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim import BLOCK, HELD
from padim.anomaly_map import AnomalyMap
from padim.backbone import find_architecture
from padim.batches import Batch
from padim.counts import inside
from padim.device import tf32
from padim.embedding import Embedding, Projection, choose_dimensions, covering_cells_of_all
from padim.extraction import POOLED
from padim.gaussian import GaussianStream
from padim.left_out import whole_groups
from padim.mahalanobis import Gaussians
from padim.pretrained import Bytes, Pretrained, Scores

ALL = 0  # 全部通道


class PaDiM(Pretrained):
    """Patch distribution modeling: one Gaussian for every patch position.

    Parameters
    ----------
    arch : str
        A key of `padim.backbone.ARCHITECTURES`, or with ``layers`` another of torchvision's networks.
    weights : str
        ``imagenet``, ``random`` or the path of a state dict.
    dimensions : int, optional
        How many random channels are kept; by default the architecture's own, 100 or 550, and all of
        other ``layers``. `ALL` keeps all, in their natural order.
    seed : int
        Of the random choice of channels.
    device : str or torch.device
    size : (int, int)
        Height and width of the images.
    precision : str
        Of the backbone's forward pass: ``float32``; ``tf32`` on a GPU; ``bf16``. Everything after
        it is float32.
    layers : sequence of str, optional
        Names of the modules that are read; by default the architecture's own.
    reduction : str
        ``random``, or ``pca``: the ``dimensions`` principal components of the training embeddings
        instead of random channels.
    also : iterable of sequences of str
        Choices of layers: the positions that a model of these layers alone would have are fitted besides, after
        those of the grid (for `padim.variants`).

    Attributes
    ----------
    key : str
        Under which results are filed.
    layers : list of padim.backbone.Layer
    shapes : list of (int, int, int)
        The layers' channels, heights and widths.
    dimensions : list of int
        The channels kept, in the order drawn; with ``pca`` the numbers of the components.
    channels : int
        t_d, of all layers together.
    grid : (int, int)
        H and W of the positions.
    cells : Tensor, (P, L) int64
        What each position reads of every layer.
    positions : int
        P = H·W, and those of ``also``.
    components : Tensor, (d, t_d) float32, or None
        With ``pca``, once fitted or loaded.
    region : ndarray, (H, W) bool, or None
        As `padim.pretrained.Pretrained`; may be changed at any time.
    count : int
        Training images.

    Raises
    ------
    system.errors.UserError
        If the weights cannot be had; there is no such network or layer, or it cannot take images of this size;
        there are fewer channels than ``dimensions``; the device has no such precision.

    Notes
    -----
    A batch is a tensor, or a tuple or list whose first item is one, as a ``torch.utils.data.DataLoader`` gives them;
    anything else is a TypeError or ValueError (`padim.batches.images_of`).

    Examples
    --------
    >>> model = PaDiM("resnet18")
    >>> mean, covariance = model.fit(train_batches).state()
    >>> maps = np.concatenate([scores.maps for scores in model.score(test_batches)])
    """

    has_own_scores = False

    def __init__(
        self,
        arch: str = "wide_resnet50_2",
        weights: str = "imagenet",
        dimensions: int | None = None,
        seed: int = 1024,
        device: str | torch.device = "cpu",
        size: tuple[int, int] = (224, 224),
        precision: str = "float32",
        layers: Sequence[str] | None = None,
        reduction: str = "random",
        also: Iterable[Sequence[str]] = (),
    ):
        architecture, self._also = find_architecture(arch, layers), [*also]
        super().__init__(arch, weights, architecture.layers, device, size, precision)
        self.seed = seed
        self.channels = sum(layer.channels for layer in self.layers)
        kept = (architecture.dimensions if dimensions is None else dimensions) or self.channels  # d
        # 论文 III.A：随机降维，从 t_d 个通道中取 d 个
        self.reduction, self.dimensions = reduction, choose_dimensions(self.channels, kept, seed)
        if reduction == "pca" or kept == self.channels:  # 没有可抽的：按自然次序
            self.dimensions = list(range(kept))
        self._divide()
        self.release()

    def _divide(self) -> None:
        self.grid = self.layers[0].height, self.layers[0].width  # 最浅的一层最密：每格一个位置
        self.cells = covering_cells_of_all(self.shapes, map(self.layer_numbers, self._also))  # (P, L)
        self.positions = len(self.cells)
        self.block = max(1, min(BLOCK, HELD // self.image_bytes))  # 图大时，一块嵌入不比协方差更占内存
        self.anomaly_map = AnomalyMap(self.grid, self.size, self.device)

    def of_size(self, height: int, width: int) -> "PaDiM":
        """A model of images of another size, not fitted, that shares this one's network."""
        other = copy.copy(self)
        other._take_size(height, width)
        other._divide()
        other.release()
        return other

    @property
    def choices(self) -> dict[str, Any]:
        return {"seed": self.seed, "dimensions": self.dimensions, "reduction": self.reduction}

    @property
    def image_bytes(self) -> int:
        """Bytes of an image's embeddings: what each image of a group takes while the group is left out."""
        return 4 * self.positions * len(self.dimensions)

    @property
    def state_bytes(self) -> int:
        d = len(self.dimensions)
        return 4 * self.positions * d * (d + 1)

    def layer_numbers(self, names: Sequence[str]) -> list[int]:
        """Which of the model's layers these are, the shallowest first."""
        return [i for i, layer in enumerate(self.layers) if layer.name in names]

    def release(self) -> None:
        """Forget the Gaussians, and free their memory."""
        self._embedding: Embedding | Projection | None = None  # 主成分要先看过训练图才有
        if self.reduction == "random":
            self._embedding = Embedding(self.shapes, self.dimensions, self.device, self.cells)
        self.count = 0
        self._gaussians: Gaussians | None = None
        self._extractor.release()

    @property
    def components(self) -> Tensor | None:
        return self._embedding.components if isinstance(self._embedding, Projection) else None

    def state(self) -> tuple[Tensor, Tensor]:
        """Mean (P, d) and covariance (P, d, d), float32: the model's own memory, not a copy.

        After `score` the covariances are first put back where their factors are, and the next `score` makes
        those again.

        Raises
        ------
        ValueError
            If nothing is fitted.
        """
        gaussians = self._fitted()
        return gaussians.mean, gaussians.covariance()

    def load_state(
        self,
        mean: Tensor | np.ndarray,
        covariance: Tensor | np.ndarray,
        components: Tensor | np.ndarray | None = None,
        count: int = 0,
    ) -> "PaDiM":
        """Take Gaussians as `state` gives them; the memory becomes the model's own.

        Parameters
        ----------
        mean : (P, d) float32
        covariance : (P, d, d) float32
        components : (d, t_d) float32, optional
            With ``pca``.
        count : int
            Training images.

        Raises
        ------
        ValueError
            If a shape is another than the model's.
        """
        p, d = self.positions, len(self.dimensions)
        if tuple(mean.shape) != (p, d) or tuple(covariance.shape) != (p, d, d):
            raise ValueError(f"mean {tuple(mean.shape)} and covariance {tuple(covariance.shape)} are not of {p}, {d}")
        if self.reduction == "pca" and (components is None or tuple(components.shape) != (d, self.channels)):
            raise ValueError(f"with principal components, their projection ({d}, {self.channels}) belongs to the state")
        self.release()
        if self.reduction == "pca":
            self._embedding = Projection(self.shapes, torch.as_tensor(components), self.device)
        self._gaussians = Gaussians(*(torch.as_tensor(a).to(self.device) for a in (mean, covariance)))
        self.count = count
        return self

    def bytes_needed(self, batch_size: int, n_train: int, n_test: int) -> Bytes:
        """An estimate of the memory for fitting and scoring a class, from P, d and the numbers of images."""
        d, most = len(self.dimensions), max(n_train, n_test, 1)
        # 主存里未触及的页不占内存，显存则整块都占
        block = min(self.block, most) if self.device.type == "cpu" else self.block
        batch = min(batch_size, most)
        gaussians = 4 * self.positions * d * (d + block + 3)  # float32：协方差，一块嵌入，均值等 (P, d) 的量
        if self.reduction == "pca":  # 求主成分时，几张图的全部通道及其离差；协方差此时还不存在
            gaussians = max(gaussians, 4 * self.positions * self.channels * 2 * POOLED)
        device = gaussians + self._forward_bytes(batch)
        return Bytes(device, device if self.device.type == "cpu" else 0)

    def _blocks(self, batches: Iterable[Batch], sizes: Sequence[int] | None = None) -> Iterator[Tensor]:
        assert self._embedding is not None  # pca：fit 与 load_state 先放好主成分
        return self._extractor.blocks(batches, self._embedding, self.positions, len(self.dimensions), self.block, sizes)

    @torch.inference_mode()
    def fit(
        self,
        batches: Iterable[Batch],
        add: Callable[[Tensor], Tensor] | None = None,
        leads: bool = True,
    ) -> "PaDiM":
        """Fit the Gaussians to training images (paper, section III.B).

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
            Normalised images. Memory does not grow with their number. With ``pca`` it is iterated twice.
        add : callable, optional
            Sums a tensor over the processes that fit together, in place, each from its own part of the images;
            all of them get the Gaussians of all images.
        leads : bool
            Whether this is the one process of them whose values count where they must not differ.

        Raises
        ------
        ValueError
            For fewer than two images, or with ``pca`` for batches that can be iterated only once.
        system.errors.UserError
            If the features are not finite.
        """
        self.release()
        # 论文 V.A：先看一遍训练图像，求主成分
        if self.reduction == "pca":
            if iter(batches) is batches:
                raise ValueError("principal components need batches that can be iterated twice, a list for instance")
            components = self._extractor.components(batches, self.shapes, len(self.dimensions), add, leads)
            self._embedding = Projection(self.shapes, components, self.device)
        # 论文 III.B：每个位置一个高斯，图像逐块并入
        stream = GaussianStream(self.positions, len(self.dimensions), self.device)
        for block in self._blocks(batches):  # (P, m, d)
            with tf32(False):
                stream.update(block)
        if add:
            with tf32(False):
                stream.merge(add)  # 合并各进程的，得全部图像的高斯
        self._gaussians = Gaussians(*stream.finish())  # 公式 1：μ (P, d)，Σ (P, d, d)
        self.count = stream.count
        return self

    def _maps(self, distances: Tensor) -> Tensor:
        """Distances (P, m), those of ``also`` left out, → raw maps (m, H, W)."""
        # 论文 III.C：距离排回网格 (m, h, w)，上采样并平滑
        return self.anomaly_map(distances[: self.grid[0] * self.grid[1]].T.reshape(-1, *self.grid))

    def score(self, batches: Iterable[Batch], before_factors: Callable[[], None] = lambda: None) -> Iterator[Scores]:
        """Score test images (paper, section III.C), block by block, in order.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
        before_factors : callable
            Called once before the first Cholesky factor is written over the covariances' lower triangles: who still
            reads them, in another thread, is waited for there.

        Yields
        ------
        Scores

        Raises
        ------
        ValueError
            If nothing is fitted.
        system.errors.UserError
            If a covariance has no Cholesky factor.
        """
        gaussians = self._fitted()
        return self._scores(batches, lambda block: gaussians.distances(block, before_factors))  # 公式 2

    def leave_out(
        self,
        batches: Iterable[Batch],
        groups: Sequence[int] | None = None,
        before_factors: Callable[[], None] = lambda: None,
    ) -> Iterator[Scores]:
        """Score the training images once more, each as if its group had been left out of the fit, block by block.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
            Images that `fit` saw, group by group.
        groups : sequence of int, optional
            How many images each group has, at most n − 2; by default each of all images is a group of its own. Groups
            of one size should follow one another: each change of size costs a factorisation.
        before_factors : callable
            As for `score`, which may follow.

        Yields
        ------
        Scores
            Of whole groups, in the order of the images.

        Raises
        ------
        ValueError
            If nothing is fitted; a group holds more than n − 2 images; there are not as many images as the groups have.
        system.errors.UserError
            If a covariance has no Cholesky factor.

        Notes
        -----
        Exact, in closed form: `padim.mahalanobis.Gaussians.left_out`. With ``pca`` the projection stays that of all
        images. A group's embeddings are in memory together, `image_bytes` for each image.
        """
        gaussians = self._fitted()
        groups = [1] * self.count if groups is None else groups
        largest = max(groups, default=1)
        if self.count < largest + 2:
            raise ValueError(f"leaving out {largest} of {self.count} images leaves too few: a covariance needs two")
        return self._left_out(gaussians, batches, groups, before_factors)

    @torch.inference_mode()
    def _left_out(
        self, gaussians: Gaussians, batches: Iterable[Batch], groups: Sequence[int], before: Callable[[], None]
    ) -> Iterator[Scores]:
        parts = whole_groups(groups, self.block)
        for block, (size, _) in zip(self._blocks(batches, [images for _, images in parts]), parts, strict=True):
            with tf32(False):
                # 公式 2，但高斯里没有这张图所在的组
                scores = self._scores_of(block, gaussians.left_out(block, self.count, size, before))
                alone = scores.image_scores
                if size > 1:  # 也算只留出它自己的：两者之差，就是批次的影响
                    _, alone = self._looked_at(gaussians.left_out(block, self.count, keeps_factors=False))
            yield replace(scores, alone=alone)

    def _fitted(self) -> Gaussians:
        if self._gaussians is None:
            raise ValueError("fit or load_state comes first: no Gaussian is there")
        return self._gaussians

    @torch.inference_mode()
    def _scores(self, batches: Iterable[Batch], distances: Callable[[Tensor], Tensor]) -> Iterator[Scores]:
        for block in self._blocks(batches):
            with tf32(False):
                scores = self._scores_of(block, distances(block))
            yield scores

    def _scores_of(self, block: Tensor, distances: Tensor) -> Scores:
        maps, maxima = self._looked_at(distances)
        centre = self.grid[0] // 2 * self.grid[1] + self.grid[1] // 2  # 网格中心：只有它的嵌入随得分留下
        return Scores(maps, maxima, block[centre].cpu().numpy().copy())

    def _looked_at(self, distances: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Distances (P, m) → raw maps (m, H, W), NaN outside of the region, and their maxima (m,)."""
        maps = self._maps(distances).cpu().numpy()
        maxima = inside(maps, self.region).max(axis=1)  # 论文 III.C：图像的得分是异常图的最大值
        if self.region is not None:
            maps[:, ~self.region] = np.nan
        return maps, maxima

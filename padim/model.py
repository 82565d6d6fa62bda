"""PaDiM: fit, save, load, score.

References
----------
Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", ICPR 2020 workshops, arXiv 2011.08785.
"""

import platform
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import scipy
import torch
import torchvision
from torch import Tensor

from padim import store
from padim.anomaly_map import AnomalyMap
from padim.backbone import Backbone, find_architecture, load_network, weights_sha256
from padim.device import check_precision, tf32
from padim.distributed import SOLO, Ranks
from padim.embedding import Embedding, choose_dimensions
from padim.features import Progress, empty
from padim.gaussian import Gaussians, GaussianStream
from padim.projection import Projection, principal_components

FORWARD = 8  # CPU 上一次前向的图片数；与批大小无关
BLOCK = 128  # 一次并入高斯（或一次求解）的图片数；与批大小无关
ALL = 0  # 全部通道
POOLED = 4  # 求主成分时一次展开全部通道的图片数


@dataclass(frozen=True)
class Scores:
    """Scores of B test images.

    Attributes
    ----------
    maps : ndarray, (B, H, W) float32
        Raw anomaly maps: smoothed Mahalanobis distances, not normalised.
    centre : ndarray, (B, d) float32
        The embeddings at the centre position.
    """

    maps: np.ndarray
    centre: np.ndarray


class PaDiM:
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
        instead of random channels; `fit_projection` comes before `fit`.

    Attributes
    ----------
    layers : list of padim.backbone.Layer
    dimensions : list of int
        The channels kept, in the order drawn; with ``pca`` the numbers of the components.
    channels : int
        t_d, of all layers together.
    grid : (int, int)
        H and W of the positions; P = H·W.
    count : int
        Training images.
    held_out_scores : list of float or None
        Scores of the training images that `fit` held out.

    Raises
    ------
    padim.backbone.WeightsError
        If the weights cannot be had.
    padim.backbone.ArchitectureError
        If there is no such network or layer, or it cannot take images of this size.
    padim.embedding.DimensionError
        If there are fewer channels than ``dimensions``.

    Examples
    --------
    >>> model = PaDiM("resnet18")
    >>> model.fit(train_batches).save("train_bottle.pkl")
    >>> maps = np.concatenate([scores.maps for scores in model.score(test_batches)])
    """

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
    ):
        architecture = find_architecture(arch, layers)
        network, self.is_imagenet = load_network(arch, weights)
        self.arch, self.seed, self.device, self.size = arch, seed, torch.device(device), tuple(size)
        self.weights = weights if weights in ("imagenet", "random") else str(Path(weights).resolve())
        check_precision(precision, self.device)
        self.precision = precision
        self.weights_sha256 = weights_sha256(network)
        self.backbone = Backbone(network, architecture.layers).to(self.device)
        self.layers = self.backbone.describe(*size)
        self.activation_bytes = self.backbone.activation_bytes(*size)  # 一张图的
        if precision == "bf16":
            self.backbone.bfloat16()
        self.shapes = [(layer.channels, layer.height, layer.width) for layer in self.layers]
        self.channels = sum(layer.channels for layer in self.layers)
        kept = (architecture.dimensions if dimensions is None else dimensions) or self.channels
        self.reduction, self.dimensions = reduction, choose_dimensions(self.channels, kept, seed)
        if reduction == "pca" or kept == self.channels:  # 没有可抽的：按自然次序
            self.dimensions = list(range(kept))
        self.grid = self.layers[0].height, self.layers[0].width
        self.positions = self.grid[0] * self.grid[1]
        # 主成分要先看过训练图才有：fit_projection 或 load
        self.embedding = None if reduction == "pca" else Embedding(self.shapes, self.dimensions, self.device)
        self.anomaly_map = AnomalyMap(self.grid, size, self.device)
        self._saving: tuple[Future, Progress] | None = None
        # 一次前向的图片数上限。CPU：激活不出缓存，快两成；GPU：显存不足之后才有
        self._most = FORWARD if self.device.type == "cpu" else None
        self.release()

    @classmethod
    def from_record(cls, record: dict[str, Any], weights: str, device: str | torch.device = "cpu") -> "PaDiM":
        """The model that made stored features, without its Gaussians.

        Parameters
        ----------
        record : dict
            The JSON beside them.
        weights : str
        device : str or torch.device

        Raises
        ------
        padim.store.StoreError
            If these are not the weights, or not the channels, that the features were made with.
        """
        dimensions, size = len(record["dimensions"]), tuple(record.get("size", (224, 224)))
        layers = [layer["name"] for layer in record["layers"]]
        chosen = {"precision": record["precision"], "layers": layers, "reduction": record.get("reduction", "random")}
        model = cls(record["arch"], weights, dimensions, record["seed"], device, size, **chosen)
        if model.weights_sha256 != record["weights_sha256"]:
            raise store.StoreError(
                f"--weights {weights} are not what the features were made with ({record.get('weights', 'others')}, "
                f"SHA-256 {record['weights_sha256'][:12]}, these have {model.weights_sha256[:12]}); give that file"
            )
        if model.dimensions != record["dimensions"]:
            raise store.StoreError("the features hold other channels than their seed draws; fit again with --refit")
        return model

    def release(self) -> None:
        """Forget the Gaussians, and free their memory."""
        self.finish_saving()
        if self.reduction == "pca":
            self.embedding = None
        self.count, self.held_out_scores = 0, None
        self._gaussians: Gaussians | None = None
        self._buffer: Tensor | None = None

    def state(self) -> tuple[Tensor, Tensor]:
        """Mean (P, d) and covariance (P, d, d), float32: the model's own memory, not a copy.

        After `score` the covariances are first put back where their factors are, and the next `score` makes
        those again.

        Raises
        ------
        ValueError
            If nothing is fitted.
        """
        if self._gaussians is None:
            raise ValueError("the model is not fitted")
        return self._gaussians.mean, self._gaussians.covariance()

    @torch.inference_mode()
    def _blocks(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Embeddings (P, m, d) of successive images, m = `BLOCK` but for the last; one buffer."""
        filled = 0
        if self._buffer is None:  # 拟合与打分共用：近 1 GB 的内存，初次写入也费时
            shape = (self.positions, BLOCK, len(self.dimensions))
            on_cpu = self.device.type == "cpu"
            self._buffer = torch.from_numpy(empty(shape)) if on_cpu else torch.empty(shape, device=self.device)
        buffer = self._buffer
        for images in batches:
            for features in self._features(images):
                start, count = 0, len(features[0])
                while start < count:  # 一批可跨两块：块的边界不随批大小移动
                    taken = min(count - start, BLOCK - filled)
                    part = [feature[start : start + taken] for feature in features]
                    self.embedding(part, buffer[:, filled : filled + taken])
                    start, filled = start + taken, filled + taken
                    if filled == BLOCK:
                        yield buffer
                        filled = 0
        if filled:
            yield buffer[:, :filled]

    @torch.inference_mode()
    def _features(self, images: Tensor) -> Iterator[list[Tensor]]:
        """The backbone's features of a batch, a few images at a time where that is faster or memory is short."""
        if tuple(images.shape[2:]) != self.size:
            here, own = ("x".join(map(str, size)) for size in (images.shape[2:], self.size))
            raise ValueError(f"the images are {here} (height x width), the model is for {own}")
        images, start = images.to(self.device, non_blocking=True), 0
        while start < len(images):
            part = images[start : start + (self._most or len(images))]
            try:
                with tf32(self.precision == "tf32"):
                    features = self.backbone(part.bfloat16() if self.precision == "bf16" else part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self._most = len(part) // 2
                torch.cuda.empty_cache()
                warnings.warn(f"GPU memory is short: going on with batches of {self._most}", stacklevel=2)
            else:
                yield features
                start += len(part)

    def features(self, batches: Iterable[Tensor]) -> Iterator[list[Tensor]]:
        """The layers' outputs for images, batch by batch: (B, C_l, H_l, W_l) float32 each, at their own resolutions."""
        for images in batches:
            for features in self._features(images):
                yield [feature.float() for feature in features]

    @torch.inference_mode()
    def fit_projection(self, batches: Iterable[Tensor], ranks: Ranks = SOLO) -> "PaDiM":
        """Find the principal components of training images' embeddings, of all positions together.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
            The images that `fit` is given afterwards.
        ranks : padim.distributed.Ranks
            As for `fit`.
        """
        pooled = GaussianStream(1, self.channels, self.device)  # 各位置合为一个高斯
        every = Embedding(self.shapes, range(self.channels), self.device)
        for images in batches:
            for features in self._features(images):
                for part in zip(*(feature.split(POOLED) for feature in features), strict=True):
                    block = torch.empty((self.positions, len(part[0]), self.channels), device=self.device)
                    every(part, block)
                    with tf32(False):
                        pooled.update(block.view(1, -1, self.channels))
        if ranks.size > 1:
            pooled.merge(ranks.sum_)
        covariance = pooled.finish()[1][0]  # εI 不改变特征向量
        # 特征向量的符号、重根的方向因机器而异：各进程须用同一组
        components = ranks.from_leader(principal_components(covariance, len(self.dimensions)).contiguous())
        self.embedding = Projection(self.shapes, components, self.device)
        return self

    @torch.inference_mode()
    def fit(
        self,
        batches: Iterable[Tensor],
        held_out: Callable[[], Iterable[Tensor]] | None = None,
        ranks: Ranks = SOLO,
    ) -> "PaDiM":
        """Fit the Gaussians to training images (paper, section III.B).

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
            Normalised images. Memory does not grow with their number.
        held_out : callable, optional
            Returns batches of more training images. They are scored by the Gaussians of the others,
            into ``held_out_scores``, and only then merged; it is called twice.
        ranks : padim.distributed.Ranks
            The processes that fit together, each from its own part of the images; all of them get the
            Gaussians of all images.

        Raises
        ------
        ValueError
            For fewer than two images, for images of another size than the model's, or with ``pca`` before
            `fit_projection`.
        """
        embedding = self.embedding
        if embedding is None:
            raise ValueError("with principal components, fit_projection comes before every fit")
        self.release()
        self.embedding = embedding
        gaussian = GaussianStream(self.positions, len(self.dimensions), self.device)
        for block in self._blocks(batches):
            with tf32(False):
                gaussian.update(block)
        if ranks.size > 1:
            gaussian.merge(ranks.sum_)
        if held_out is not None:
            self.held_out_scores = self._hold_out(gaussian, held_out, ranks)
        self._gaussians = Gaussians(*gaussian.finish())
        self.count = gaussian.count
        return self

    def _hold_out(
        self, gaussian: GaussianStream, held_out: Callable[[], Iterable[Tensor]], ranks: Ranks
    ) -> list[float]:
        """Scores of images that ``gaussian`` has not seen, all of which are then merged into it."""
        scores = []
        with tf32(False):
            for block in self._blocks(held_out()):
                maps = self.anomaly_map(gaussian.distances(block).T.reshape(-1, *self.grid))  # (m, H, W)
                scores += maps.amax((1, 2)).tolist()
            # 全部得分之后才并入：再过一遍网络，而不把所有嵌入留在内存里
            if not ranks.leads:  # 已合并的只算一份
                gaussian.clear()
            for block in self._blocks(held_out()):
                gaussian.update(block)
        if ranks.size > 1:
            gaussian.merge(ranks.sum_)
        return [score for part in ranks.gather(scores) for score in part]

    @torch.inference_mode()
    def score(self, batches: Iterable[Tensor]) -> Iterator[Scores]:
        """Score test images (paper, section III.C), block by block, in order.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32

        Yields
        ------
        Scores

        Raises
        ------
        ValueError
            If nothing is fitted, or images are of another size than the model's.
        padim.gaussian.NotPositiveDefiniteError
            If the training features were not finite.
        """
        if self._gaussians is None:
            raise ValueError("fit or load comes before score")
        centre = self.grid[0] // 2 * self.grid[1] + self.grid[1] // 2
        for block in self._blocks(batches):
            with tf32(False):
                if self._saving:  # 因子要写进同一块内存：先等它落了盘
                    self._saving[1].dumped.wait()
                distances = self._gaussians.distances(block)  # (P, m)
                maps = self.anomaly_map(distances.T.reshape(-1, *self.grid))  # (m, H, W)
            yield Scores(maps.cpu().numpy(), block[centre].cpu().numpy().copy())

    def provenance(self) -> dict[str, Any]:
        """What the features depend on, and what their positions and layers are."""
        return {
            "arch": self.arch,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "seed": self.seed,
            "dimensions": self.dimensions,
            "precision": self.precision,
            "reduction": self.reduction,
            "size": list(self.size),
            "layers": [asdict(layer) for layer in self.layers],
            "n_train": self.count,
            "held_out_scores": self.held_out_scores,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "numpy": np.__version__,
                "scipy": scipy.__version__,
                "pillow": PIL.__version__,
            },
        }

    def save(self, path: str | Path, **source: Any) -> None:
        """Pickle ``[mean (d, P), cov (d, d, P)]`` to ``path``, with a JSON of provenance beside it.

        Parameters
        ----------
        path : str or Path
        source
            More entries for the JSON, about the training images.

        Raises
        ------
        ValueError
            If nothing is fitted.
        """
        self._write(Path(path), source, Progress())

    def _write(self, path: Path, source: dict[str, Any], progress: Progress) -> None:
        mean, covariance = (t.cpu().numpy() for t in self.state())
        components = self.embedding.components.cpu().numpy() if self.reduction == "pca" else None
        store.write_features(path, mean, covariance, self.provenance() | source, components, progress)

    def save_in_background(self, path: str | Path, **source: Any) -> None:
        """`save` in a thread, while `score` reads and embeds its first block of images."""
        pool, progress = ThreadPoolExecutor(1), Progress()
        saving = pool.submit(self._write, Path(path), source, progress)
        saving.add_done_callback(lambda _: progress.dumped.set())
        self._saving = saving, progress
        pool.shutdown(wait=False)  # 不再收新任务；已交的照做

    def finish_saving(self) -> None:
        """Wait for `save_in_background`, and raise what it raised; nothing to wait for is fine."""
        if self._saving is not None:
            try:
                self._saving[0].result()
            except Exception:
                self._saving = None
                raise
            self._saving = None  # Ctrl-C 打断的等待不算等过：还要能放弃它

    def abort_saving(self) -> None:
        """Give up `save_in_background` at once: what was stored before stays."""
        if self._saving is not None:
            saving, progress = self._saving
            progress.stop.set()
            saving.exception()

    def load(self, path: str | Path) -> "PaDiM":
        """Take the Gaussians from a file that `save` wrote.

        Raises
        ------
        padim.store.DamagedError
            If the file is truncated or of another shape.
        """
        self.release()
        if self.reduction == "pca":
            components = store.read_components(Path(path), len(self.dimensions), self.channels)
            self.embedding = Projection(self.shapes, torch.from_numpy(components), self.device)
        mean, covariance = store.read_features(Path(path), self.positions, len(self.dimensions))
        self._gaussians = Gaussians(*(torch.from_numpy(a).to(self.device) for a in (mean, covariance)))
        record = store.read_json(Path(path).with_suffix(".json")) or {}
        self.count, self.held_out_scores = record.get("n_train", 0), record.get("held_out_scores")
        return self

"""PaDiM: fit, save, load, score.

References
----------
Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", ICPR 2020 workshops, arXiv 2011.08785.
"""

import platform
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor

from padim import store
from padim.anomaly_map import AnomalyMap
from padim.backbone import ARCHITECTURES, Backbone, load_network, weights_sha256
from padim.device import check_precision, tf32
from padim.embedding import Embedding, choose_dimensions
from padim.gaussian import GaussianStream, factorise, mahalanobis

BLOCK = 128  # 一次并入高斯（或一次求解）的图片数；与批大小无关


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
        A key of `padim.backbone.ARCHITECTURES`.
    weights : str
        ``imagenet``, ``random`` or the path of a state dict.
    dimensions : int, optional
        How many random channels are kept; by default the architecture's own, 100 or 550.
    seed : int
        Of the random choice of channels.
    device : str or torch.device
    size : (int, int)
        Height and width of the images.
    precision : str
        Of the backbone's forward pass: ``float32``; ``tf32`` on a GPU; ``bf16``. Everything after
        it is float32.

    Attributes
    ----------
    layers : list of padim.backbone.Layer
    dimensions : list of int
        The channels kept, in the order drawn.
    grid : (int, int)
        H and W of the positions; P = H·W.
    count : int
        Training images.

    Raises
    ------
    padim.backbone.WeightsError
        If the weights cannot be had.
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
    ):
        network, self.is_imagenet = load_network(arch, weights)
        self.arch, self.seed, self.device, self.size = arch, seed, torch.device(device), size
        check_precision(precision, self.device)
        self.precision = precision
        self.weights_sha256 = weights_sha256(network)
        self.backbone = Backbone(network, ARCHITECTURES[arch].layers).to(self.device)
        self.layers = self.backbone.describe(*size)
        if precision == "bf16":
            self.backbone.bfloat16()
        channels = [layer.channels for layer in self.layers]
        self.dimensions = choose_dimensions(sum(channels), dimensions or ARCHITECTURES[arch].dimensions, seed)
        self.grid = self.layers[0].height, self.layers[0].width
        self.positions = self.grid[0] * self.grid[1]
        shapes = [(layer.channels, layer.height, layer.width) for layer in self.layers]
        self.embedding = Embedding(shapes, self.dimensions, self.device)
        self.anomaly_map = AnomalyMap(self.grid, size, self.device)
        self._saving: Future | None = None
        self._most: int | None = None  # 显存不足之后，一次前向的图片数上限
        self.release()

    def release(self) -> None:
        """Forget the Gaussians, and free their memory."""
        self.finish_saving()
        self.count = 0
        self.mean: Tensor | None = None
        self.covariance: Tensor | None = None
        self.factor: Tensor | None = None

    @torch.inference_mode()
    def _blocks(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Embeddings (P, m, d) of successive images, m = `BLOCK` but for the last; one buffer."""
        buffer, filled = None, 0
        for images in batches:
            for features in self._features(images.to(self.device, non_blocking=True)):
                if buffer is None:
                    buffer = torch.empty((self.positions, BLOCK, len(self.dimensions)), device=self.device)
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
        """The backbone's features of a batch, in halves when a GPU's memory does not suffice."""
        start = 0
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

    @torch.inference_mode()
    def fit(self, batches: Iterable[Tensor]) -> "PaDiM":
        """Fit the Gaussians to training images (paper, section III.B).

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
            Normalised images. Memory does not grow with their number.

        Raises
        ------
        ValueError
            For fewer than two images.
        """
        self.release()
        gaussian = GaussianStream()
        for block in self._blocks(batches):
            with tf32(False):
                gaussian.update(block)
        self.mean, self.covariance = gaussian.finish()
        self.count = gaussian.count
        return self

    @torch.inference_mode()
    def score(self, batches: Iterable[Tensor]) -> Iterator[Scores]:
        """Score test images (paper, section III.C), block by block, in order.

        The first call turns the covariances into their Cholesky factors, in place.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32

        Yields
        ------
        Scores

        Raises
        ------
        ValueError
            If nothing is fitted.
        padim.gaussian.NotPositiveDefiniteError
            If the training features were not finite.
        """
        if self.mean is None:
            raise ValueError("fit or load comes before score")
        centre = self.grid[0] // 2 * self.grid[1] + self.grid[1] // 2
        for block in self._blocks(batches):
            with tf32(False):
                if self.factor is None:
                    self.finish_saving()
                    self.factor, self.covariance = factorise(self.covariance), None
                distances = mahalanobis(block, self.mean, self.factor)  # (P, m)
                maps = self.anomaly_map(distances.T.reshape(-1, *self.grid))  # (m, H, W)
            yield Scores(maps.cpu().numpy(), block[centre].cpu().numpy().copy())

    def provenance(self) -> dict[str, Any]:
        """What the features depend on, and what their positions and layers are."""
        return {
            "arch": self.arch,
            "weights_sha256": self.weights_sha256,
            "seed": self.seed,
            "dimensions": self.dimensions,
            "precision": self.precision,
            "layers": [asdict(layer) for layer in self.layers],
            "n_train": self.count,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "numpy": np.__version__,
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
            If nothing is fitted, or `score` has turned the covariances into factors.
        """
        if self.covariance is None:
            state = "was factorised in place by score; save before it" if self.factor is not None else "is not fitted"
            raise ValueError(f"the covariance {state}")
        mean, covariance = (t.cpu().numpy() for t in (self.mean, self.covariance))
        store.write_features(Path(path), mean, covariance, self.provenance() | source)

    def save_in_background(self, path: str | Path, **source: Any) -> None:
        """`save` in a thread, while `score` reads and embeds its first block of images."""
        pool = ThreadPoolExecutor(1)
        self._saving = pool.submit(self.save, path, **source)
        pool.shutdown(wait=False)  # 不再收新任务；已交的照做

    def finish_saving(self) -> None:
        """Wait for `save_in_background`, and raise what it raised; nothing to wait for is fine."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def load(self, path: str | Path) -> "PaDiM":
        """Take the Gaussians from a file that `save` wrote.

        Raises
        ------
        padim.store.DamagedError
            If the file is truncated or of another shape.
        """
        self.release()
        mean, covariance = store.read_features(Path(path), self.positions, len(self.dimensions))
        self.mean, self.covariance = (torch.from_numpy(a).to(self.device) for a in (mean, covariance))
        record = store.read_json(Path(path).with_suffix(".json")) or {}
        self.count = record.get("n_train", 0)
        return self

"""What all models have in common: layers read of a pretrained network, the images' size, the device; what they give.

各模型共有的：预训练网络与所读的层、图片大小、设备；以及得分的形式。
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from padim import BLOCK, HELD
from padim.backbone import Backbone
from padim.batches import Batch
from padim.device import check_precision
from padim.extraction import FORWARD, Extractor
from padim.weights import load_network, weights_sha256
from system.files import expanded

_ACTIVATIONS = 2.2  # 前向时进程多占的内存，是同时存活的激活的倍数（实测：ResNet 2.0 至 2.2，EfficientNet-B5 1.6）

Gather = Callable[[np.ndarray], Sequence[np.ndarray]]  # 各进程的数组，按进程的次序


@dataclass(frozen=True)
class Scores:
    """Scores of B test images.

    Attributes
    ----------
    maps : ndarray, (B, H, W) float32
        Raw anomaly maps: smoothed distances, not normalised.
    image_scores : ndarray, (B,) float32
        Of PaDiM the maps' maxima; a predecessor has its own.
    centre : ndarray, (B, d) float32
        The embeddings at the centre position; of a predecessor d = 0.
    alone : ndarray, (B,) float32, or None
        By `padim.model.PaDiM.leave_out`: the images' scores with nothing but themselves left out, not their groups.
    """

    maps: np.ndarray
    image_scores: np.ndarray
    centre: np.ndarray
    alone: np.ndarray | None = None


@dataclass(frozen=True)
class ImageScores:
    """As `Scores`, of a model that has no maps."""

    image_scores: np.ndarray
    centre: np.ndarray
    maps: None = None


@dataclass(frozen=True)
class Bytes:
    """Memory that a class needs beyond what the process holds already.

    Attributes
    ----------
    device : int
        On the model's device: what is fitted there, a block's intermediate values, a batch's activations.
    host : int
        In main memory; includes ``device`` where the device is the CPU.
    """

    device: int
    host: int


def alone(array: np.ndarray) -> list[np.ndarray]:
    """What is gathered where one process does everything."""
    return [array]


class Pretrained(ABC):
    """A model on top of some layers of a torchvision network: what a run sees of any model.

    Parameters
    ----------
    arch, weights : str
    layers : sequence of str
    device : str or torch.device
    size : (int, int)
    precision : str
        All as for `padim.model.PaDiM`.

    Attributes
    ----------
    arch : str
    weights, weights_sha256 : str
    is_imagenet : bool
        Whether the weights are ImageNet's: torchvision's IMAGENET1K_V1, or those installed for EfficientNet-Lite0.
    layers : list of padim.backbone.Layer
    shapes : list of (int, int, int)
        The layers' channels, heights and widths.
    dimensions : list of int
        The channels kept; empty where none are chosen.
    has_maps : bool
        Whether `score` gives `Scores`, or else `ImageScores`.
    has_own_scores : bool
        Whether an image's score is another than its map's maximum.
    region : ndarray, (H, W) bool, or None
        What is looked at of a finished map: outside of it maps are NaN, and take no part in maxima. None is all of it.
        Fitting does not depend on it.
    count : int
        Training images.
    block : int
        How many images are scored together, at most.
    """

    block = BLOCK
    has_maps = True
    has_own_scores = True
    region: np.ndarray | None = None
    count = 0

    def __init__(
        self,
        arch: str,
        weights: str,
        layers: Sequence[str],
        device: str | torch.device,
        size: tuple[int, int],
        precision: str,
    ):
        network, self.is_imagenet = load_network(arch, weights)
        self.arch, self.device = arch, torch.device(device)
        self.weights = weights if weights in ("imagenet", "random") else str(expanded(weights).resolve())
        check_precision(precision, self.device)
        self.precision = precision
        self.weights_sha256 = weights_sha256(network)
        self.backbone = Backbone(network, layers).to(self.device)
        if precision == "bf16":
            self.backbone.bfloat16()
        self.dimensions: list[int] = []
        self._take_size(size[0], size[1])

    def _take_size(self, height: int, width: int) -> None:
        self.size = height, width
        self.layers = self.backbone.describe(height, width)
        self.shapes = [(layer.channels, layer.height, layer.width) for layer in self.layers]
        self._forward = int(_ACTIVATIONS * self.backbone.activation_bytes(height, width))  # 一张图的激活值，字节
        # 一次前向的图片数上限。CPU：激活不出缓存，快两成；GPU：显存不足之后才有
        self._most = max(1, min(FORWARD, HELD // self._forward)) if self.device.type == "cpu" else None
        self._extractor = Extractor(self.backbone, self.size, self.device, self.precision, self._most)

    @property
    def choices(self) -> dict[str, Any]:
        """What results depend on besides the network and its layers."""
        return {}

    @property
    def state_bytes(self) -> int:
        """Bytes of what is fitted, where that can be stored."""
        return 0

    def scratch_bytes(self, n_train: int) -> int:
        """Bytes of the files that fitting so many images fills, if it fills any."""
        return 0

    @abstractmethod
    def fit(self, batches: Iterable[Batch]) -> "Pretrained":
        """Take in training images, batches (B, 3, H, W) float32; what was fitted before is forgotten."""

    @abstractmethod
    def score(self, batches: Iterable[Batch]) -> Iterator[Scores] | Iterator[ImageScores]:
        """Score test images, batches (B, 3, H, W) float32: blocks of `block` images, in order."""

    @abstractmethod
    def release(self) -> None:
        """Forget what is fitted, and free its memory."""

    @abstractmethod
    def bytes_needed(self, batch_size: int, n_train: int, n_test: int) -> Bytes:
        """An estimate of the memory for fitting and scoring a class."""

    def features(self, batches: Iterable[Batch]) -> Iterator[list[Tensor]]:
        """The layers' outputs for images (`padim.extraction.Extractor.features`)."""
        return self._extractor.features(batches)

    def _at_once(self, batch: int) -> int:
        """How many images of a batch pass the network together."""
        return min(batch, self._most or batch)

    def _forward_bytes(self, batch: int) -> int:
        """Memory that the network takes for a batch of so many images."""
        return self._forward * self._at_once(batch)

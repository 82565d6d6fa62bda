"""SPADE: the nearest training pictures, and the nearest vectors in them.

SPADE：先找最近的训练图，再在其中逐位置找最近的特征向量。

References
----------
Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences", arXiv 2005.02357.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor
from torchvision.models import list_models

from padim import BLOCK
from padim.anomaly_map import AnomalyMap
from padim.batches import Batch
from padim.device import tf32
from padim.pretrained import Bytes, Gather, Pretrained, Scores, alone
from system.errors import UserError
from system.files import forget
from system.resources import aligned

LAYERS = ("layer1", "layer2", "layer3", "avgpool")
CHUNK = 64  # 图库一次分配的图片数
_TILE = 512  # 一次与多少图库向量比较：乘积不出缓存


def nearest_distances(queries: Tensor, gallery: Tensor) -> Tensor:
    """Euclidean distance of every query to the nearest vector of a gallery.

    Parameters
    ----------
    queries : Tensor, (n, C) float32
    gallery : Tensor, (m, C) float32

    Returns
    -------
    Tensor, (n,) float32

    Notes
    -----
    Which vector is nearest is read off ‖b‖² − 2ab, a matrix product, some columns of it at a time; its distance is
    then computed from the difference. The product cancels where distances are small against norms, so both sides are
    first moved by the queries' mean: on real pictures the distances are a float64 search's within 1.3e-7 (relative),
    without that within 1.5e-3.
    """
    centre = queries.mean(0)
    centred, moved = queries - centre, gallery - centre
    norms = moved.square().sum(1)  # (m,)
    least = norms.new_full((len(queries),), torch.inf)
    nearest = torch.zeros_like(least, dtype=torch.int64)
    for start in range(0, len(gallery), _TILE):
        here = slice(start, start + _TILE)
        # ‖a − b‖² 减去与 b 无关的 ‖a‖²：(n, _TILE)
        value, index = torch.addmm(norms[here], centred, moved[here].T, alpha=-2).min(1)
        is_less = value < least
        least = torch.where(is_less, value, least)
        nearest = torch.where(is_less, index + start, nearest)
    return torch.linalg.vector_norm(queries - gallery[nearest], dim=1)


class SPADE(Pretrained):
    """Semantic pyramid anomaly detection: nearest neighbours, no fit but keeping the training features.

    Parameters
    ----------
    arch : str
        One of torchvision's ResNets.
    weights, device, size, precision
        As for `padim.model.PaDiM`.
    top_k : int
        K, the number of nearest training images. (The paper has 50, the public script 5.)
    allocate : callable
        Makes the float32 arrays (n, row) that take the training features, in a mapped file for instance; by default in
        memory.

    Attributes
    ----------
    layers, and others
        As `padim.pretrained.Pretrained`.
    row : int
        Values kept of a training image: 1.4 million (5.6 MB) for ``wide_resnet50_2`` and images of 224×224.
    count : int
        Training images.

    Raises
    ------
    system.errors.UserError
        If the network is no ResNet or takes no images of this size, its weights cannot be had, or K is below 1.

    Notes
    -----
    Apart from the arrays and the pooled vectors (8 kB an image), memory does not grow with the number of images: for a
    test image only the rows of its K neighbours are read.

    The public script, as it stands, computes something else than the paper. Here the whole gallery is searched (the
    script walks it in hundreds and drops the last, incomplete one); norms are taken over the channels, whatever the
    version of torch; nothing is added to the differences (the script adds 1e-6); and with fewer training images than K,
    which end the script with an error, K is their number.
    """

    def __init__(
        self,
        arch: str = "wide_resnet50_2",
        weights: str = "imagenet",
        device: str | torch.device = "cpu",
        size: tuple[int, int] = (224, 224),
        precision: str = "float32",
        top_k: int = 5,
        allocate: Callable[[tuple[int, int]], np.ndarray] = aligned,
    ):
        resnets = list_models(torchvision.models, "*resne*")
        if arch not in resnets:
            raise UserError(f"SPADE reads the layers of a ResNet; --arch takes {', '.join(resnets)}, not {arch!r}")
        if top_k < 1:
            raise UserError(f"--top_k must be at least 1, not {top_k}")
        super().__init__(arch, weights, LAYERS, device, size, precision)
        self.top_k, self._allocate = top_k, allocate
        self._widths = [c * h * w for c, h, w in self.shapes]  # 一行里各层的宽度，末一段是池化向量
        self.row = sum(self._widths)
        self._maps = [AnomalyMap((h, w), self.size, self.device) for _, h, w in self.shapes[:-1]]
        self.release()

    @property
    def choices(self) -> dict[str, Any]:
        return {"top_k": self.top_k}

    def release(self) -> None:
        """Forget the training features, and free their memory."""
        self.count = 0
        self._gallery: list[np.ndarray] = []  # 每个 (CHUNK, row)
        self._pooled: Tensor | None = None  # (N, 2048)

    def scratch_bytes(self, n_train: int) -> int:
        return 0 if self._allocate is aligned else 4 * self.row * CHUNK * -(-n_train // CHUNK)

    def bytes_needed(self, batch_size: int, n_train: int, n_test: int) -> Bytes:
        """An estimate of the memory for fitting and scoring a class.

        The gallery counts where it lies in memory, that is without an ``allocate`` of the caller's.
        """
        together = self._at_once(min(batch_size, max(n_train, n_test, 1)))
        neighbours, positions = min(self.top_k, n_train), self.shapes[0][1] * self.shapes[0][2]
        # 一次前向的各行及其拼接；近邻的各行，其中一层移到均值；距离的一列块
        rows = 4 * self.row * max(2 * together, 2 * neighbours + 1)
        device = rows + 4 * positions * _TILE + 4 * self.shapes[-1][0] * n_train + self._forward_bytes(together)
        host = device if self.device.type == "cpu" else rows
        return Bytes(device, host + (4 * self.row * n_train if self._allocate is aligned else 0))

    @torch.inference_mode()
    def fit(self, batches: Iterable[Batch], gather: Gather = alone) -> "SPADE":
        """Keep the training images' features: the gallery.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32
            Normalised images.
        gather : callable
            Returns the arrays of all processes that fit together, each from its own part of the images; every process
            calls it equally often, and gets the gallery of all images. It is called for a few images at a time.

        Raises
        ------
        ValueError
            For no images, or images of another size than the model's.
        system.errors.UserError
            If the features are not finite.
        """
        self.release()
        pooled = []
        rows, nothing = self._rows(batches), np.empty((0, self.row), np.float32)
        # 各进程的图片数可以不同：都交不出了才结束
        while len(block := np.concatenate(gather(next(rows, nothing)))):
            if not torch.linalg.vector_norm(torch.from_numpy(block), dim=1).isfinite().all():
                raise UserError(
                    "the training features are not finite: the weights hold NaN or are far out of scale; try other "
                    "--weights"
                )
            self._keep(block)
            pooled.append(block[:, -self._widths[-1] :].copy())
        if not pooled:
            raise ValueError("SPADE needs at least one training image")
        self._pooled = torch.from_numpy(np.concatenate(pooled)).to(self.device)
        return self

    def _rows(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Images' features, every position's vector contiguous, layer after layer: (b, row) float32."""
        for features in self.features(batches):
            layers = [feature.permute(0, 2, 3, 1).flatten(1).float() for feature in features]  # 每层 (b, H_l·W_l·C_l)
            yield torch.cat(layers, 1).cpu().numpy()

    def _keep(self, block: np.ndarray) -> None:
        while len(block):
            start = self.count % CHUNK
            if start == 0:
                self._gallery.append(self._allocate((CHUNK, self.row)))
            part = block[: CHUNK - start]
            self._gallery[-1][start : start + len(part)] = part
            forget(self._gallery[-1])  # 映射的文件：写过的页不必留在内存里
            self.count, block = self.count + len(part), block[len(part) :]

    @torch.inference_mode()
    def score(self, batches: Iterable[Batch]) -> Iterator[Scores]:
        """Score test images, block by block, in order.

        Parameters
        ----------
        batches : iterable of Tensor, (B, 3, H, W) float32

        Yields
        ------
        Scores
            An image's score is the mean distance of its pooled vector to those of the K nearest training images (of all
            of them where there are fewer), and not its map's maximum.

        Raises
        ------
        ValueError
            If nothing is fitted, or images are of another size than the model's.
        """
        if self._pooled is None:
            raise ValueError("fit comes before score")
        images = (image for features in self.features(batches) for image in zip(*features, strict=True))
        scored = (self._score(image, self._pooled) for image in images)
        while block := list(islice(scored, BLOCK)):
            maps, image_scores = zip(*block, strict=True)
            yield Scores(np.stack(maps), np.array(image_scores, np.float32), np.empty((len(block), 0), np.float32))

    def _score(self, features: Sequence[Tensor], pooled: Tensor) -> tuple[np.ndarray, float]:
        """An image's map (H, W) and score from its layers' outputs (C_l, H_l, W_l)."""
        with tf32(False):
            vectors = [feature.permute(1, 2, 0).flatten(0, 1).float() for feature in features]  # (H_l·W_l, C_l)
            # 第 3.2 节：按池化向量找 K 张最近的训练图；由差求距离，不用矩阵乘积
            distances = torch.cdist(vectors[-1], pooled, compute_mode="donot_use_mm_for_euclid_dist")[0]
            nearest, neighbours = distances.topk(min(self.top_k, self.count), largest=False)
            rows = np.stack([self._gallery[i // CHUNK][i % CHUNK] for i in neighbours.tolist()])
            forget(*self._gallery)
            layers = torch.from_numpy(rows).to(self.device).split(self._widths, 1)
            total = torch.zeros(self.size, device=self.device)
            # 第 3.3、3.4 节：图库是 K 张图所有位置的向量（κ = 1）；各层的图取平均。平滑是线性的，先后无妨
            for x, layer, (channels, h, w), anomaly_map in zip(
                vectors[:-1], layers[:-1], self.shapes[:-1], self._maps, strict=True
            ):
                gallery = layer.reshape(-1, channels)  # (K·H_l·W_l, C_l)
                total += anomaly_map(nearest_distances(x, gallery).view(1, h, w))[0]
            return (total / len(self._maps)).cpu().numpy(), float(nearest.mean())

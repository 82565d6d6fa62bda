"""The images of some pictures, as batches that can be iterated again, with a progress bar.

若干图片的批，可重复遍历，带进度条。
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from tqdm import tqdm

from datasets.folder import FolderDataset
from datasets.loader import batches


@dataclass(frozen=True)
class Part:
    """Some items of a data set."""

    dataset: FolderDataset
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.integer, np.ndarray]:
        return self.dataset[self.indices[index]]


@dataclass(frozen=True)
class Images:
    """Batches of images (B, 3, H, W) float32, normalised.

    Attributes
    ----------
    part : FolderDataset or Part
    title : str
        Of the progress bar.
    batch_size, num_workers : int
    is_silent : bool
        No progress bar.
    """

    part: FolderDataset | Part
    title: str
    batch_size: int
    num_workers: int
    is_silent: bool

    def __iter__(self) -> Iterator[Tensor]:
        return (images for images, _, _ in self.with_masks())

    def with_masks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """``(image, label, mask)`` batches: float32 (B, 3, H, W), int64 (B,), uint8 (B, 1, H, W)."""
        with tqdm(total=len(self.part), desc=self.title, unit="image", disable=self.is_silent) as bar:
            for images, labels, masks in batches(self.part, self.batch_size, self.num_workers):
                yield images, labels, masks
                bar.update(len(images))

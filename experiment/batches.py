"""The images of some pictures, as batches that can be iterated again, with a progress bar.

若干图片的批，可重复遍历，带进度条。
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from datasets.check import CheckedClass
from datasets.early import FEWEST, Early
from datasets.folder import FolderDataset
from experiment.files.folder import Store
from experiment.files.provenance import DataFolder
from experiment.ranks import is_divided
from system.resources import cores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Some items of a data set."""

    dataset: FolderDataset | Early
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

    def __iter__(self) -> Iterator["Tensor"]:
        return (images for images, _, _ in self.with_masks())

    def with_masks(self) -> Iterator[tuple["Tensor", "Tensor", "Tensor"]]:
        """``(image, label, mask)`` batches: float32 (B, 3, H, W), int64 (B,), uint8 (B, 1, H, W)."""
        from datasets.loader import batches  # 连带 torch

        with tqdm(total=len(self.part), desc=self.title, unit="image", disable=self.is_silent) as bar:
            for images, labels, masks in batches(self.part, self.batch_size, self.num_workers):
                yield images, labels, masks
                bar.update(len(images))


def decode_early(
    args: argparse.Namespace, data: DataFolder, checked: Mapping[str, CheckedClass], store: Store
) -> Early | None:
    """The training pictures of a run's first class, being decoded already while torch is imported.

    None where it would gain nothing: torch is there, there is one core, few pictures or several processes; or where
    something of the class is stored, so that its training pictures may not be needed.
    """
    name, found = next(iter(checked.items()))
    is_stored = store.fitted(name).exists() or store.arrays(name).exists()
    if "torch" in sys.modules or is_divided() or cores() < 2 or args.num_workers == 0:
        return None
    if found.n_train >= FEWEST and (args.refit or not is_stored):
        with suppress(OSError):  # 起不了进程、没有放临时文件的地方：轮到时再解码，同平常一样
            return Early(data.split(name, "train"), found.size)
    return None

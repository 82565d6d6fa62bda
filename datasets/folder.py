"""What all data sets share: items, transforms, fingerprints.

各数据集共有的部分：样本、预处理、指纹。

A set's own file says how its classes, pictures, labels and masks are found, and nothing else; `datasets.catalogue`
lists the sets.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from datasets.images import is_folder, read_picture
from datasets.masks import read_mask_of
from datasets.preprocessing import Preprocessing, to_images
from datasets.walk import spelled, visible
from system.files import expanded

SPLITS = ("train", "validation", "test")
GOOD = "good"


class Entry(NamedTuple):
    """A picture: its file, `GOOD` or the kind of its defect, and the files that together are its mask."""

    file: Path
    kind: str = GOOD
    masks: tuple[Path, ...] = ()


class Listing(NamedTuple):
    """A split's pictures in order, whether its defects have masks, and how many pictures are left out."""

    entries: list[Entry]
    has_masks: bool = True
    left_out: int = 0


class FolderDataset(ABC):
    """One class of a data set, one split.

    An item is ``(image, label, mask)``: float32 ``(3, 224, 224)``, normalised with ImageNet's mean
    and deviation; ``numpy.int64``, 1 for a defect; uint8 ``(1, 224, 224)``, 1 where the defect is,
    all zero for normal pictures and where ``has_masks`` is false. Another ``preprocessing``
    gives other sizes. A ``torch.utils.data.DataLoader`` takes the data set as it is.

    Parameters
    ----------
    root : Path
        The folder that holds the classes.
    name : str
        The class.
    split : str
        ``train``, ``test``, or ``validation``: more normal pictures, which train nothing, in the sets that have them.
    preprocessing : Preprocessing
        By default the published one.

    Attributes
    ----------
    NAME : str
        The set's, as ``--dataset`` takes it.
    CLASSES : tuple of str
        Its classes, in their usual order.
    MARKS : tuple of str
        The folders that a class must have, the one with the normal training pictures first.
    SOURCE : str
        How to get the set, in words; ``{}`` stands for the root.
    LEFT_OUT : str
        Which pictures it leaves out, in words.
    APART : tuple of str
        Kinds of defect whose metrics are usually given apart, too.
    files : list of Path
        The pictures, in the set's order.
    kinds : list of str
        `GOOD`, or the kind of defect.
    labels : ndarray of uint8, (N,)
        1 for a defect.
    masks : list of tuple of Path
        What is joined to a picture's mask; empty for a normal picture, and everywhere where ``has_masks`` is false.
    has_masks : bool
    left_out : int
        Pictures that are not used, counted with the split that trains.

    Raises
    ------
    DataError
        If the files are not as the set has them; the message names the file.
    """

    NAME: ClassVar[str]
    CLASSES: ClassVar[tuple[str, ...]]
    MARKS: ClassVar[tuple[str, ...]]
    SOURCE: ClassVar[str]
    LEFT_OUT: ClassVar[str] = "training pictures left out because they show a defect"
    APART: ClassVar[tuple[str, ...]] = ()

    def __init__(self, root: Path, name: str, split: str, preprocessing: Preprocessing | None = None):
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}")
        self.folder, self.name = self.folder_of(Path(root), name), name
        self.preprocessing = preprocessing or Preprocessing()
        entries, self.has_masks, self.left_out = self._list(split)
        self.files = [entry.file for entry in entries]
        self.kinds = [entry.kind for entry in entries]
        self.masks = [entry.masks for entry in entries]
        self.labels = np.array([kind != GOOD for kind in self.kinds], np.uint8)

    @abstractmethod
    def _list(self, split: str) -> Listing:
        """The split's pictures, below ``self.folder``."""

    @classmethod
    def default_root(cls) -> Path:
        """The folder that is taken where none is given."""
        return expanded(os.environ.get("MVTEC_PATH") or "data/mvtec_anomaly_detection")

    @classmethod
    def folder_of(cls, root: Path, name: str) -> Path:
        """A class's folder."""
        return root / name

    @classmethod
    def is_class(cls, folder: Path) -> bool:
        """Whether a folder has this set's marks of a class; one that cannot be read, as ``lost+found``, has none."""
        try:
            return is_folder(folder) and all(_leads_to(folder, mark) for mark in cls.MARKS)
        except PermissionError:
            return False

    @classmethod
    def found(cls, root: Path, names: Collection[str] | None = None) -> list[str]:
        """The classes below ``root``, or those of ``names`` that are there."""
        return [p.name for p in visible(root) if (not names or p.name in names) and cls.is_class(p)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64, np.ndarray]:
        picture, key = read_picture(self.files[index], self.preprocessing.bits), self._key(index)
        framed = self.preprocessing.framed(picture, key)  # (224, 224, 3)
        parts = [np.asarray(read_mask_of(path, self.files[index], picture.size)) for path in self.masks[index]]
        if not parts:
            return self.without_mask(index, framed)
        mask = self.preprocessing.mask(Image.fromarray(np.maximum.reduce(parts)), key)  # (1, 224, 224)
        return to_images(framed), np.int64(self.labels[index]), mask

    def picture(self, index: int) -> np.ndarray:
        """A picture as it is prepared, not yet normalised: uint8 (224, 224, 3)."""
        return self.preprocessing.framed(read_picture(self.files[index], self.preprocessing.bits), self._key(index))

    def without_mask(self, index: int, picture: np.ndarray) -> tuple[np.ndarray, np.int64, np.ndarray]:
        """The item of a picture that has no mask; ``picture`` is what `picture` gives."""
        return to_images(picture), np.int64(self.labels[index]), np.zeros((1, *picture.shape[:2]), np.uint8)

    def _key(self, index: int) -> str:
        # 数据集内的路径，含类别名：同一张图在哪台机器上都有同样的随机旋转与裁剪
        return f"{self.name}/{self.files[index].relative_to(self.folder).as_posix()}"

    @property
    def is_labelled(self) -> bool:
        """Whether there are both normal and defective pictures: without either no threshold can be found."""
        return 0 < int(self.labels.sum()) < len(self)

    def unread(self, read: Collection[Path]) -> list[str]:
        """Lines about what else lies in the class's folder, as if it were to be read, and what to do about it.

        Parameters
        ----------
        read : collection of Path
            The pictures and masks of all splits.
        """
        return []

    def names(self) -> list[str]:
        """The pictures' POSIX paths below the class folder."""
        return [p.relative_to(self.folder).as_posix() for p in self.files]

    def summary(self) -> str:
        """SHA-256 over the pictures' names and labels, and what masks there are; no picture is read."""
        masks = [[path.name for path in paths] for paths in self.masks]
        known = [self.names(), self.labels.tolist(), masks, self.has_masks]
        return hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 over the pictures' and masks' names and contents, in order (a hex string)."""
        total = hashlib.sha256()
        for path, content in self.digests.items():
            name = path.relative_to(self.folder).as_posix()
            total.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)
        return total.hexdigest()

    @cached_property
    def digests(self) -> dict[Path, bytes]:
        """SHA-256 of every picture's content, then of every mask's."""
        files = self.files + [path for paths in self.masks for path in paths]
        with ThreadPoolExecutor() as pool:  # 哈希与读盘都不占解释器锁
            return dict(
                zip(files, pool.map(lambda path: hashlib.sha256(path.read_bytes()).digest(), files), strict=True)
            )


def _leads_to(folder: Path, mark: str) -> bool:
    # 逐级看：断了的链接在哪一级都要报出
    parts = mark.split("/")
    return all(is_folder(spelled(folder, "/".join(parts[: i + 1]))) for i in range(len(parts)))

"""What all data sets share: items, transforms, fingerprints, checks and their errors.

各数据集共有的部分：样本、预处理、指纹、检查及其报错。

A set's own file says how its classes, pictures, labels and masks are found, and nothing else; `datasets.catalogue`
lists the sets.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from datasets.images import is_folder, is_picture, read_image, read_mask, read_size
from datasets.preprocessing import Preprocessing, words
from system.errors import UserError
from system.files import expanded

SPLITS = ("train", "validation", "test")
GOOD = "good"
LONG = 1.5  # 长边超过短边的这么多倍，居中的方形裁剪就会丢掉两端


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
        Kinds of defect whose figures of merit are usually given apart, too.
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
        # 数据集内的路径，含类别名：同一张图在哪台机器上都有同样的随机旋转与裁剪
        key = f"{self.name}/{self.files[index].relative_to(self.folder).as_posix()}"
        image = self.preprocessing.image(read_image(self.files[index]), key)  # (3, 224, 224)
        parts = [np.asarray(read_mask(path)) for path in self.masks[index]]
        if parts:
            joined = Image.fromarray(np.maximum.reduce(parts))
            mask = self.preprocessing.mask(joined, key)  # (1, 224, 224)
        else:
            mask = np.zeros((1, *image.shape[1:]), np.uint8)
        return image, np.int64(self.labels[index]), mask

    @property
    def is_labelled(self) -> bool:
        """Whether there are both normal and defective pictures: without either no threshold can be found."""
        return 0 < int(self.labels.sum()) < len(self)

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

        def digest(path: Path) -> bytes:
            return hashlib.sha256(path.read_bytes()).digest()

        files = self.files + [path for paths in self.masks for path in paths]
        total = hashlib.sha256()
        with ThreadPoolExecutor() as pool:  # 哈希与读盘都不占解释器锁
            for path, content in zip(files, pool.map(digest, files), strict=True):
                name = path.relative_to(self.folder).as_posix()
                total.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)
        return total.hexdigest()


def visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, but for hidden files."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, sorted; none where there is no such folder."""
    return sorted(p for p in folder.iterdir() if is_picture(p)) if is_folder(folder) else []


def _leads_to(folder: Path, mark: str) -> bool:
    # 逐级看：断了的链接在哪一级都要报出
    parts = mark.split("/")
    return all(is_folder(folder.joinpath(*parts[: i + 1])) for i in range(len(parts)))


class CheckedClass(NamedTuple):
    """What is known of a class beforehand: numbers of pictures, and height and width as prepared.

    ``left_out`` is the number of pictures that are not used, ``why`` says which; ``longest`` is the height and width
    of the most elongated picture as it is.
    """

    n_train: int
    n_test: int
    size: tuple[int, int]
    left_out: int
    longest: tuple[int, int]
    why: str


def check_class(
    dataset: type[FolderDataset], root: Path, name: str, preprocessing: Preprocessing | None = None
) -> CheckedClass:
    """Check what can be known of a class without decoding a picture.

    Raises
    ------
    UserError
        For fewer than two training pictures, a file that is no picture, a defect picture without
        mask, a mask of another size, or pictures that are not of one size once they are prepared;
        the message names the file and the remedy.
    """
    preprocessing = preprocessing or Preprocessing()
    train, validation, test = (dataset(root, name, split, preprocessing) for split in SPLITS)
    folder = str(train.folder / dataset.MARKS[0])
    if not train.files:
        raise UserError(f"no training pictures in {folder!r}; put normal pictures there")
    if len(train.files) == 1:
        raise UserError(f"a single training picture in {folder!r}; a covariance needs at least two")

    def check(file: Path, masks: tuple[Path, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
        size = read_size(file)
        for mask in masks:
            if (other := read_size(mask)) != size:
                (w, h), (mw, mh) = size, other
                raise UserError(f"mask {str(mask)!r} is {mw}x{mh}, its picture {w}x{h}; they must be of one size")
        return size[::-1], preprocessing.output_size(size, file)

    files = train.files + validation.files + test.files
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(check, files, train.masks + validation.masks + test.masks)
        longest, first = next(sizes)
        for file, (size, prepared) in zip(files[1:], sizes, strict=True):
            if prepared != first:
                raise UserError(
                    f"{str(file)!r} comes out at {words(*prepared)}, {str(files[0])!r} at {words(*first)} (height x "
                    "width); a class has one size: give --resize HEIGHTxWIDTH, or a --crop"
                )
            longest = max(longest, size, key=elongation)
    return CheckedClass(len(train), len(test), first, train.left_out, longest, dataset.LEFT_OUT)


def elongation(size: tuple[int, int]) -> float:
    """How many times as long as wide."""
    return max(size) / min(size)


def common_size(checked: dict[str, CheckedClass]) -> tuple[int, int]:
    """The height and width that all classes of a run share.

    Raises
    ------
    UserError
        If there is more than one.
    """
    (name, first), *others = checked.items()
    for other, found in others:
        if found.size != first.size:
            raise UserError(
                f"class {name!r} comes out at {words(*first.size)}, class {other!r} at {words(*found.size)} (height x "
                "width); a run has one size: give --resize HEIGHTxWIDTH, a --crop, or one of them with --classes"
            )
    return first.size


def remarks(checked: dict[str, CheckedClass], preprocessing: Preprocessing) -> list[str]:
    """What a user should know of the pictures before a run, a line each: those left out, and those cut off."""
    lines = [f"{name}: {found.why}: {found.left_out}" for name, found in checked.items() if found.left_out]
    resize, crop = preprocessing.resize, preprocessing.crop
    long = {name: found.longest for name, found in checked.items() if elongation(found.longest) > LONG}
    if long and crop and isinstance(resize, int) and isinstance(crop, int):
        size = max(long.values(), key=elongation)
        # 短边如裁剪后那么长，长边按比例，取网络步长 32 的整数倍
        far = max(32, round(crop * elongation(size) / 32) * 32)
        kept = words(*((far, crop) if size[0] > size[1] else (crop, far)))
        published = "the published preprocessing, " if preprocessing.is_published else ""
        lines.append(
            f"{', '.join(long)}: pictures up to {elongation(size):.1f} times as long as wide, whose ends {published}"
            f"--resize {resize} --crop {crop} cuts off; --resize {kept} --crop 0 keeps them"
        )
    return lines

"""MVTec AD, and any folder in its layout (the paper's section IV.A).

MVTec AD 数据集，以及任何同样布局的文件夹（论文第 IV.A 节）。

A class is a folder::

    CLASS/train/good/*.png              normal pictures
    CLASS/test/good/*.png               normal pictures
    CLASS/test/TYPE/NAME.png            pictures with a defect of that type
    CLASS/ground_truth/TYPE/NAME_mask.png   their masks (NAME.png is taken too)

``python -m datasets.mvtec --download DIR`` fetches MVTec AD (see `datasets.download`).

References
----------
Bergmann et al., "MVTec AD: A Comprehensive Real-World Dataset for Unsupervised Anomaly
Detection", CVPR 2019.
"""

import hashlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets import download
from datasets.images import DataError, is_folder, is_picture, read_image, read_mask, read_size
from datasets.preprocessing import Preprocessing, words
from system.errors import UserError

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    "bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper",
)  # fmt: skip
CLASSES = tuple(sorted(TEXTURES + OBJECTS))


def locate(path: Path, names: Sequence[str] | None = None) -> tuple[Path, Sequence[str] | None]:
    """The folder that holds the classes, and the classes wanted, for a folder that may itself be a class.

    A folder with ``train/good`` in which no class is found is a class; its name is the folder's.

    Raises
    ------
    UserError
        If another class than that one is named, or a link leads nowhere.
    """
    if not _has_training(path) or any(map(_has_training, _visible(path))):
        return path, names
    path = path.resolve()  # "." 也有名字
    if set(names or ()) - {path.name}:
        raise UserError(f"{str(path)!r} is the class {path.name!r}; leave out --classes, or give its parent folder")
    return path.parent, [path.name]


def _has_training(folder: Path) -> bool:
    return all(map(is_folder, (folder, folder / "train", folder / "train" / "good")))


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, but for hidden files."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def find_classes(root: Path, names: Sequence[str] | None = None) -> list[str]:
    """The classes to run: those named, else the MVTec AD classes that are there, else all found.

    Raises
    ------
    UserError
        If ``root`` is no folder, holds no class, or lacks a named one, or a link there leads nowhere.
    """
    if not root.is_dir():
        raise UserError(
            f"no data folder {str(root)!r}; give the folder that holds the classes with --data_path, "
            f"or fetch MVTec AD with: python -m datasets.mvtec --download {root}"
        )
    found = [p.name for p in _visible(root) if (not names or p.name in names) and _has_training(p)]
    for name in names or ():
        if name not in found:
            known = ", ".join(p.name for p in _visible(root) if (p / "train" / "good").is_dir()) or "none"
            raise UserError(
                f"no class {name!r} (a folder with train/good) in {str(root)!r}; found: {known}; see --classes"
            )
    if names:
        return list(dict.fromkeys(names))
    if not found:
        raise UserError(f"no class (a folder with train/good) in {str(root)!r}; see --data_path")
    return [name for name in CLASSES if name in found] or found


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if is_picture(p)) if is_folder(folder) else []


class MVTecDataset:
    """One class, one split.

    An item is ``(image, label, mask)``: float32 ``(3, 224, 224)``, normalised with ImageNet's mean
    and deviation; ``numpy.int64``, 1 for a defect; uint8 ``(1, 224, 224)``, 1 where the defect is,
    all zero for normal pictures and in a class without ``ground_truth``. Another ``preprocessing``
    gives other sizes. A ``torch.utils.data.DataLoader`` takes the data set as it is.

    Parameters
    ----------
    root : Path
        The folder that holds the classes.
    name : str
        The class.
    train : bool
        ``train/good`` if true, else everything under ``test``.
    preprocessing : Preprocessing
        By default the published one.

    Attributes
    ----------
    files : list of Path
        The pictures: type folders sorted, then files sorted.
    labels : ndarray of uint8, (N,)
    masks : list of (Path or None)
        None for a normal picture, and everywhere where ``has_masks`` is false.
    has_masks : bool
        Whether the class has a ``ground_truth`` folder.

    Raises
    ------
    DataError
        If a defect picture has no mask although the class has a ``ground_truth`` folder, or a link to a
        folder leads nowhere.
    """

    def __init__(self, root: Path, name: str, train: bool, preprocessing: Preprocessing | None = None):
        self.folder, self.preprocessing = Path(root) / name, preprocessing or Preprocessing()
        truth = self.folder / "ground_truth"
        self.has_masks = is_folder(truth)
        split = self.folder / ("train" if train else "test")
        types = ["good"]
        if not train:
            types = [p.name for p in _visible(split) if is_folder(p)] if is_folder(split) else []
        self.files: list[Path] = []
        self.masks: list[Path | None] = []
        labels: list[bool] = []
        for kind in types:
            files = _pictures(split / kind)
            self.files += files
            labels += [kind != "good"] * len(files)
            if kind == "good" or not self.has_masks:
                self.masks += [None] * len(files)
            else:
                self.masks += _find_masks(files, truth / kind)
        self.labels = np.array(labels, np.uint8)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64, np.ndarray]:
        # 数据集内的路径，含类别名：同一张图在哪台机器上都有同样的随机旋转与裁剪
        key = f"{self.folder.name}/{self.files[index].relative_to(self.folder).as_posix()}"
        image = self.preprocessing.image(read_image(self.files[index]), key)  # (3, 224, 224)
        path = self.masks[index]
        if path is None:
            mask = np.zeros((1, *image.shape[1:]), np.uint8)
        else:
            mask = self.preprocessing.mask(read_mask(path), key)  # (1, 224, 224)
        return image, np.int64(self.labels[index]), mask

    @property
    def is_labelled(self) -> bool:
        """Whether there are both normal and defective pictures: without either no threshold can be found."""
        return 0 < int(self.labels.sum()) < len(self)

    def names(self) -> list[str]:
        """The pictures' POSIX paths below the class folder."""
        return [p.relative_to(self.folder).as_posix() for p in self.files]

    def summary(self) -> str:
        """SHA-256 over the pictures' names and labels, and what masks there are; no file is read."""
        known = [self.names(), self.labels.tolist(), [mask and mask.name for mask in self.masks], self.has_masks]
        return hashlib.sha256(repr(known).encode("utf-8", "surrogateescape")).hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 over the pictures' and masks' names and contents, in order (a hex string)."""

        def digest(path: Path) -> bytes:
            return hashlib.sha256(path.read_bytes()).digest()

        files = self.files + [mask for mask in self.masks if mask]
        total = hashlib.sha256()
        with ThreadPoolExecutor() as pool:  # 哈希与读盘都不占解释器锁
            for path, content in zip(files, pool.map(digest, files), strict=True):
                name = path.relative_to(self.folder).as_posix()
                total.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)
        return total.hexdigest()


def _find_masks(files: list[Path], folder: Path) -> list[Path]:
    by_stem = {p.stem: p for p in reversed(_pictures(folder))}
    masks = []
    for file in files:
        mask = by_stem.get(f"{file.stem}_mask") or by_stem.get(file.stem)
        if mask is None:
            wanted = str(folder / f"{file.stem}_mask.png")
            raise DataError(f"no mask for {str(file)!r}: add {wanted!r}, or remove ground_truth to score images only")
        masks.append(mask)
    return masks


class CheckedClass(NamedTuple):
    """What is known of a class beforehand: its numbers of pictures, and height and width as prepared."""

    n_train: int
    n_test: int
    size: tuple[int, int]


def check_class(root: Path, name: str, preprocessing: Preprocessing | None = None) -> CheckedClass:
    """Check what can be known of a class without decoding a picture.

    Raises
    ------
    UserError
        For fewer than two training pictures, a file that is no picture, a defect picture without
        mask, a mask of another size, or pictures that are not of one size once they are prepared;
        the message names the file and the remedy.
    """
    preprocessing = preprocessing or Preprocessing()
    train, test = (MVTecDataset(root, name, split, preprocessing) for split in (True, False))
    folder = str(train.folder / "train" / "good")
    if not train.files:
        raise UserError(f"no training pictures in {folder!r}; put normal pictures there")
    if len(train.files) == 1:
        raise UserError(f"a single training picture in {folder!r}; a covariance needs at least two")

    def check(file: Path, mask: Path | None) -> tuple[int, int]:
        size = read_size(file)
        if mask is not None and read_size(mask) != size:
            (w, h), (mw, mh) = size, read_size(mask)
            raise UserError(f"mask {str(mask)!r} is {mw}x{mh}, its picture {w}x{h}; they must be of one size")
        return preprocessing.output_size(size, file)

    files, masks = train.files + test.files, [None] * len(train) + test.masks
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(check, files, masks)
        first = next(sizes)
        for file, size in zip(files[1:], sizes, strict=True):
            if size != first:
                raise UserError(
                    f"{str(file)!r} comes out at {words(*size)}, {str(files[0])!r} at {words(*first)} (height x "
                    "width); a class has one size: give --resize HEIGHTxWIDTH, or a --crop"
                )
    return CheckedClass(len(train), len(test), first)


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


if __name__ == "__main__":
    sys.exit(download.main(CLASSES))

"""MVTec AD, and any folder in its layout.

A class is a folder::

    CLASS/train/good/*.png              normal pictures
    CLASS/test/good/*.png               normal pictures
    CLASS/test/TYPE/NAME.png            pictures with a defect of that type
    CLASS/ground_truth/TYPE/NAME_mask.png   their masks (NAME.png is taken too)

References
----------
Bergmann et al., "MVTec AD: A Comprehensive Real-World Dataset for Unsupervised Anomaly
Detection", CVPR 2019.
"""

import csv
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from datasets.images import DataError, is_picture, read_image, read_mask, read_size

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    "bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper",
)  # fmt: skip
CLASSES = tuple(sorted(TEXTURES + OBJECTS))

RESIZE, CROP = 256, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = {"resize": RESIZE, "crop": CROP, "interpolation": "lanczos", "mean": list(MEAN), "std": list(STD)}


def published() -> dict[str, dict[str, float]]:
    """The ROC AUC that the original code's authors published, ``{row: {column: value}}``.

    Rows are the fifteen classes and ``all_textures``, ``all_objects``, ``all``; columns are
    ``{arch}_image`` and ``{arch}_pixel``.
    """
    with open(Path(__file__).with_name("published.csv"), encoding="utf-8", newline="") as file:
        return {row.pop("class"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)}


def find_classes(root: Path, names: Sequence[str] | None = None) -> list[str]:
    """The classes to run: those named, else the MVTec AD classes that are there, else all found.

    Raises
    ------
    DataError
        If ``root`` is no folder, holds no class, or lacks a named one.
    """
    if not root.is_dir():
        raise DataError(f"no data folder {str(root)!r}; give the folder that holds the classes with --data_path")
    found = sorted(p.parent.parent.name for p in root.glob("[!.]*/train/good") if p.is_dir())
    for name in names or ():
        if name not in found:
            known = ", ".join(found) or "none"
            raise DataError(
                f"no class {name!r} (a folder with train/good) in {str(root)!r}; found: {known}; see --classes"
            )
    if names:
        return list(dict.fromkeys(names))
    if not found:
        inside = "; it is itself a class: give its parent folder" if (root / "train" / "good").is_dir() else ""
        raise DataError(f"no class (a folder with train/good) in {str(root)!r}{inside}; see --data_path")
    return [name for name in CLASSES if name in found] or found


def _pictures(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if is_picture(p)) if folder.is_dir() else []


class MVTecDataset(Dataset):
    """One class, one split.

    An item is ``(image, label, mask)``: float32 ``(3, 224, 224)``, normalised with ImageNet's mean
    and deviation; int64 ``()``, 1 for a defect; uint8 ``(1, 224, 224)``, 1 where the defect is,
    all zero for normal pictures and in a class without ``ground_truth``.

    Parameters
    ----------
    root : Path
        The folder that holds the classes.
    name : str
        The class.
    train : bool
        ``train/good`` if true, else everything under ``test``.

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
        If a defect picture has no mask although the class has a ``ground_truth`` folder.
    """

    def __init__(self, root: Path, name: str, train: bool):
        self.folder = Path(root) / name
        truth = self.folder / "ground_truth"
        self.has_masks = truth.is_dir()
        split = self.folder / ("train" if train else "test")
        types = ["good"] if train else sorted(p.name for p in split.glob("[!.]*") if p.is_dir())
        self.files, labels, self.masks = [], [], []
        for kind in types:
            files = _pictures(split / kind)
            self.files += files
            labels += [kind != "good"] * len(files)
            if kind == "good" or not self.has_masks:
                self.masks += [None] * len(files)
            else:
                self.masks += _find_masks(files, truth / kind)
        self.labels = np.array(labels, np.uint8)

        # 预处理：短边缩放到 256（LANCZOS），中心裁剪 224，按 ImageNet 归一化
        self.transform = transforms.Compose(
            [
                transforms.Resize(RESIZE, InterpolationMode.LANCZOS),
                transforms.CenterCrop(CROP),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        self.transform_mask = transforms.Compose(
            [
                transforms.Resize(RESIZE, InterpolationMode.NEAREST),
                transforms.CenterCrop(CROP),
                transforms.PILToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image = self.transform(read_image(self.files[index]))  # (3, 224, 224)
        path = self.masks[index]
        if path is None:
            mask = torch.zeros(1, *image.shape[1:], dtype=torch.uint8)
        else:
            mask = (self.transform_mask(read_mask(path)) > 0).to(torch.uint8)  # (1, 224, 224)
        return image, torch.tensor(int(self.labels[index])), mask

    def names(self) -> list[str]:
        """The pictures' POSIX paths below the class folder."""
        return [p.relative_to(self.folder).as_posix() for p in self.files]

    def fingerprint(self) -> str:
        """SHA-256 over the pictures' names and contents, in order (a hex string)."""

        def digest(path: Path) -> bytes:
            return hashlib.sha256(path.read_bytes()).digest()

        total = hashlib.sha256()
        with ThreadPoolExecutor() as pool:  # 哈希与读盘都不占解释器锁
            for name, content in zip(self.names(), pool.map(digest, self.files), strict=True):
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


def check_class(root: Path, name: str) -> tuple[int, int]:
    """Check what can be known of a class without decoding a picture; its training and test pictures are counted.

    Raises
    ------
    DataError
        For fewer than two training pictures, a file that is no picture, a defect picture without
        mask, or a mask of another size; the message names the file and the remedy.
    """
    train, test = (MVTecDataset(root, name, split) for split in (True, False))
    folder = str(train.folder / "train" / "good")
    if not train.files:
        raise DataError(f"no training pictures in {folder!r}; put normal pictures there")
    if len(train.files) == 1:
        raise DataError(f"a single training picture in {folder!r}; a covariance needs at least two")

    def check(file: Path, mask: Path | None) -> None:
        size = read_size(file)
        if mask is not None and read_size(mask) != size:
            (w, h), (mw, mh) = size, read_size(mask)
            raise DataError(f"mask {str(mask)!r} is {mw}x{mh}, its picture {w}x{h}; they must be of one size")

    files, masks = train.files + test.files, [None] * len(train) + test.masks
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(check, files, masks):
            pass
    return len(train), len(test)


def to_pictures(images: torch.Tensor) -> np.ndarray:
    """Undo the normalisation, exactly: float32 (B, 3, H, W) → uint8 (B, H, W, 3)."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    pictures = (images.cpu() * std + mean).mul_(255).round_().clamp_(0, 255)
    return pictures.to(torch.uint8).permute(0, 2, 3, 1).numpy()  # (B, H, W, 3)

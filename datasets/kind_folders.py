"""Layouts with a folder for every split, and within it one for every kind of picture.

每个划分一个文件夹、其中每种图片一个文件夹的布局。
"""

from pathlib import Path
from typing import ClassVar

from datasets.folder import GOOD, Entry, FolderDataset, Listing, pictures, visible
from datasets.images import DataError, is_folder


class KindFolders(FolderDataset):
    """One class, one split: ``SPLIT/KIND/*``, and in a folder of their own the masks, ``KIND/*``.

    Attributes
    ----------
    FOLDERS : dict
        The folder of every split that the set has.
    NORMAL : str
        The folder of normal pictures; training and validation have no other.
    TRUTH : str
        That of the masks. A class without it is scored at image level.
    MASK : str
        A mask's file; ``{}`` stands for its picture's stem.
    """

    FOLDERS: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}
    NORMAL: ClassVar[str] = "good"
    TRUTH: ClassVar[str] = "ground_truth"
    MASK: ClassVar[str] = "{}_mask.png"

    def _list(self, split: str) -> Listing:
        truth = self.folder / self.TRUTH
        has_masks = is_folder(truth)
        if split not in self.FOLDERS:
            return Listing([], has_masks)
        folder, names = self.folder / self.FOLDERS[split], [self.NORMAL]
        if split == "test":
            names = [p.name for p in visible(folder) if p != truth and is_folder(p)] if is_folder(folder) else []
        entries = []
        for name in names:
            files = pictures(folder / name)
            kind = GOOD if name == self.NORMAL else name
            if kind == GOOD or not has_masks:
                entries += [Entry(file, kind) for file in files]
                continue
            for file, masks in zip(files, self._masks(files, truth / name), strict=True):
                if not masks:
                    wanted, shown = str(truth / name / self.MASK.format(file.stem)), str(file)
                    raise DataError(
                        f"no mask for {shown!r}: add {wanted!r}, or remove {truth.name} to score images only"
                    )
                entries.append(Entry(file, kind, masks))
        return Listing(entries, has_masks)

    @staticmethod
    def _masks(files: list[Path], folder: Path) -> list[tuple[Path, ...]]:
        """The masks of pictures of one kind, whatever their suffixes; empty where a picture has none."""
        by_stem = {p.stem: p for p in reversed(pictures(folder))}
        masks = [by_stem.get(f"{file.stem}_mask") or by_stem.get(file.stem) for file in files]
        return [(mask,) if mask else () for mask in masks]

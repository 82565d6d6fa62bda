"""Layouts with a folder for every split, and within it one for every kind of picture.

每个划分一个文件夹、其中每种图片一个文件夹的布局。
"""

from pathlib import Path
from typing import ClassVar

from datasets.folder import GOOD, Entry, FolderDataset, Listing
from datasets.images import DataError, is_folder
from datasets.walk import spelled, visible, walk


class KindFolders(FolderDataset):
    """One class, one split: ``SPLIT/KIND/*``, and in a folder of their own the masks, ``KIND/*``.

    Folders within those are read, too. Upper and lower case are the same in the names of splits, of ``NORMAL`` and of
    the masks' folders.

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
        truth = spelled(self.folder, self.TRUTH)
        has_masks = is_folder(truth)
        if split not in self.FOLDERS:
            return Listing([], has_masks)
        folder = spelled(self.folder, self.FOLDERS[split])
        kinds = [p for p in visible(folder) if p != truth and is_folder(p)] if is_folder(folder) else []
        entries = []
        for place in kinds:
            kind = GOOD if place.name.lower() == self.NORMAL else place.name
            if split != "test" and kind != GOOD:
                continue
            files = walk(place).pictures
            if kind == GOOD or not has_masks:
                entries += [Entry(file, kind) for file in files]
                continue
            names = [file.relative_to(place).with_suffix("") for file in files]
            for file, name, masks in zip(files, names, self._masks(names, spelled(truth, kind)), strict=True):
                if not masks:
                    wanted, shown = str(truth / kind / name.parent / self.MASK.format(name.name)), str(file)
                    raise DataError(
                        f"no mask for {shown!r}: add {wanted!r}, or remove {truth.name} to score images only"
                    )
                entries.append(Entry(file, kind, masks))
        return Listing(entries, has_masks)

    @staticmethod
    def _masks(names: list[Path], folder: Path) -> list[tuple[Path, ...]]:
        """The masks of pictures of one kind, whatever their suffixes; empty where a picture has none.

        ``names`` are the pictures' paths below their kind's folder, without suffixes: ``folder`` has the same below it.
        """
        found = {p.relative_to(folder).with_suffix(""): p for p in reversed(walk(folder).pictures)}
        masks = [found.get(name.with_name(f"{name.name}_mask")) or found.get(name) for name in names]
        return [(mask,) if mask else () for mask in masks]

"""Layouts with a folder for every split, and within it one for every kind of picture.

每个划分一个文件夹、其中每种图片一个文件夹的布局。
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from datasets.folder import GOOD, Entry, FolderDataset, Listing
from datasets.images import DataError, is_folder, is_picture
from datasets.walk import spelled, visible, walk

# 用户常给正常图片、给掩码起的文件夹名；比较时不论大小写与标点
_NORMAL = frozenset({
    "good", "ok", "okay", "normal", "normals", "nominal", "pass", "passed", "fine", "clean", "healthy", "intact",
    "sound", "correct", "undamaged", "nondefective", "nondefect", "defectfree", "nodefect", "nodefects", "faultfree",
    "正常", "正常品", "良", "良品", "合格", "合格品", "好", "好品", "完好", "无缺陷",
})  # fmt: skip
_MASKS = frozenset({"mask", "masks", "gt", "gts", "groundtruth", "groundtruths", "掩码", "掩膜", "标注"})
_NAMED_AS_MASK = re.compile(r"(.+)[-_. ](?:mask|gt|ground_?truth)", re.IGNORECASE)


class KindFolders(FolderDataset):
    """One class, one split: ``SPLIT/KIND/*``, and in a folder of their own the masks, ``KIND/*``.

    Folders within those are read, too. Upper and lower case are the same in the names of splits, of ``NORMAL`` and of
    the masks' folders. Files that look like masks are no pictures: those in a folder so named, and ``X_mask`` beside
    ``X``.

    Attributes
    ----------
    FOLDERS : dict
        The folder of every split that the set has.
    NORMAL : str
        The folder of normal pictures; training and validation have no other.
    WITHIN : str
        The folder within a kind's that holds its pictures; empty where they lie there themselves.
    TRUTH : str
        That of the masks. A class without it is scored at image level.
    MASK : str
        A mask's file; ``{}`` stands for its picture's stem.
    IGNORED : frozenset of str
        Folders with something else, which nobody expects to be read.
    """

    FOLDERS: ClassVar[dict[str, str]] = {"train": "train", "validation": "validation", "test": "test"}
    NORMAL: ClassVar[str] = "good"
    WITHIN: ClassVar[str] = ""
    TRUTH: ClassVar[str] = "ground_truth"
    MASK: ClassVar[str] = "{}_mask.png"
    IGNORED: ClassVar[frozenset[str]] = frozenset()

    def _list(self, split: str) -> Listing:
        folder = spelled(self.folder, self.FOLDERS[split])
        kinds = (
            [p for p in visible(folder) if is_folder(p) and _plain(p.name) not in _MASKS] if is_folder(folder) else []
        )
        if split == "test":
            self._check(folder, kinds)
        else:
            kinds = [p for p in kinds if p.name.lower() == self.NORMAL]
        has_masks, entries = self._has_masks(), []
        for place in kinds:
            kind, within = GOOD if place.name.lower() == self.NORMAL else place.name, spelled(place, self.WITHIN)
            files = _without_masks(walk(within).pictures, within)
            if kind == GOOD or not has_masks:
                entries += [Entry(file, kind) for file in files]
                continue
            names, truth = [file.relative_to(within).with_suffix("") for file in files], self._truth(kind)
            for file, name, masks in zip(files, names, self._masks(names, truth), strict=True):
                if not masks:
                    wanted, shown = str(truth / name.parent / self.MASK.format(name.name)), str(file)
                    folders = self.TRUTH.rpartition("/")[2]
                    raise DataError(f"no mask for {shown!r}: add {wanted!r}, or remove {folders} to score images only")
                entries.append(Entry(file, kind, masks))
        return Listing(entries, has_masks)

    def _has_masks(self) -> bool:
        return is_folder(spelled(self.folder, self.TRUTH))

    def _truth(self, kind: str) -> Path:
        """The folder with the masks of a kind."""
        return spelled(self.folder, f"{self.TRUTH}/{kind}")

    @staticmethod
    def _masks(names: list[Path], folder: Path) -> list[tuple[Path, ...]]:
        """The masks of pictures of one kind, whatever their suffixes; empty where a picture has none.

        ``names`` are the pictures' paths below their kind's folder, without suffixes: ``folder`` has the same below it.
        """
        found = {p.relative_to(folder).with_suffix(""): p for p in reversed(walk(folder).pictures)}
        masks = [found.get(name.with_name(f"{name.name}_mask")) or found.get(name) for name in names]
        return [(mask,) if mask else () for mask in masks]

    def _check(self, folder: Path, kinds: list[Path]) -> None:
        """Raise DataError for test pictures that would count as none, or as another kind than they are."""
        loose = [p for p in visible(folder) if is_picture(p) and p.is_file()] if is_folder(folder) else []
        if loose:
            raise DataError(
                f"{str(loose[0])!r} lies directly in {folder.name!r}: put normal pictures into "
                f"{str(folder / self.NORMAL)!r}, and those with a defect into a folder beside it, one a kind of defect"
            )
        if any(p.name.lower() == self.NORMAL for p in kinds):
            return
        for place in kinds:
            if _plain(place.name) in _NORMAL and walk(place).pictures:
                raise DataError(
                    f"{str(place)!r} would count as a kind of defect, and no {self.NORMAL!r} is beside it: if its "
                    f"pictures are normal, call it {self.NORMAL!r}, else give it another name"
                )

    def unread(self, read: Collection[Path]) -> list[str]:
        found, known = walk(self.folder), set(read)
        places = [spelled(self.folder, place) for place in (*self.FOLDERS.values(), self.TRUTH)]
        below = [p.relative_to(self.folder) for p in found.pictures if p not in known]
        below = [p for p in below if self.IGNORED.isdisjoint(p.parts)]
        others = [p.relative_to(self.folder) for p in found.others if any(place in p.parents for place in places)]
        others = [p for p in others if self.IGNORED.isdisjoint(p.parts)]
        truth = spelled(self.folder, self.TRUTH)
        lost = [p for p in below if truth in (self.folder / p).parents]
        masks = [p for p in below if p not in lost and _may_be_mask(p)]
        test, a_mask = self.FOLDERS["test"], f"{self.TRUTH}/KIND/{self.MASK.format('NAME')}"
        return [
            *_named(lost, "masks", "belong to no picture with a defect"),
            *_named(
                masks,
                "pictures",
                f"look like masks and are not read: call their folder {self.TRUTH!r}, where the mask of "
                f"{test}/KIND/NAME.png is {a_mask}",
            ),
            *_named(
                [p for p in below if p not in lost and p not in masks],
                "pictures",
                f"are not read: {self.MARKS[0]} trains, {test}/{self.NORMAL} and {test}/KIND test",
            ),
            *_named(others, "files", "are not read: convert them to PNG, or move them away"),
        ]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _without_masks(files: list[Path], folder: Path) -> list[Path]:
    """The files below a folder but those in one that is called masks, and those called ``X_mask`` beside ``X``."""
    stems = {p.with_suffix("") for p in files}

    def is_mask(path: Path) -> bool:
        own = _NAMED_AS_MASK.fullmatch(path.stem)
        within = path.relative_to(folder).parts[:-1]
        return any(_plain(part) in _MASKS for part in within) or bool(own and path.with_name(own[1]) in stems)

    return [path for path in files if not is_mask(path)]


def _may_be_mask(path: Path) -> bool:
    """Whether a file that is not read may have been meant as a mask."""
    places = [_plain(part) for part in path.parts[:-1]]
    named = any(place in _MASKS or "mask" in place or "groundtruth" in place for place in places)
    return named or _NAMED_AS_MASK.fullmatch(path.stem) is not None


def _named(files: list[Path], what: str, words: str) -> list[str]:
    """A line about files, with their number and the first of them; none where there are no files."""
    return [f"{len(files)} {what}, such as {files[0].as_posix()!r}, {words}"] if files else []

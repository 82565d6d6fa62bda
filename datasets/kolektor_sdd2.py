"""KolektorSDD2: surfaces of one product, tall and narrow.

KolektorSDD2：一种产品的表面，图片又高又窄。

The whole set is one class; a picture is normal where its mask is all zero::

    train/NNNNN.png, train/NNNNN_GT.png
    test/NNNNN.png, test/NNNNN_GT.png

PaDiM learns from normal pictures alone: training pictures with a defect are left out.

References
----------
Božič et al., "Mixed supervision for surface-defect detection: From weakly to fully supervised learning", Computers in
Industry 2021.
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import ClassVar

from datasets.folder import GOOD, Entry, FolderDataset, Listing
from datasets.images import DataError, is_folder, is_picture
from datasets.masks import read_mask
from datasets.walk import visible


class KolektorSDD2Dataset(FolderDataset):
    """KolektorSDD2, one split; see `FolderDataset`."""

    NAME: ClassVar[str] = "kolektor_sdd2"
    CLASSES: ClassVar[tuple[str, ...]] = (NAME,)
    MARKS: ClassVar[tuple[str, ...]] = ("train", "test")
    SOURCE: ClassVar[str] = "get KolektorSDD2: https://www.vicos.si/resources/kolektorsdd2"

    @classmethod
    def folder_of(cls, root: Path, name: str) -> Path:
        return root

    @classmethod
    def is_class(cls, folder: Path) -> bool:
        return False  # 根目录之下没有类别的文件夹：整个数据集就是一类

    @classmethod
    def found(cls, root: Path, names: Collection[str] | None = None) -> list[str]:
        is_there = all(is_folder(root / mark) for mark in cls.MARKS)
        return [cls.NAME] if is_there and any(p.stem.endswith("_GT") for p in visible(root / "train")) else []

    def _list(self, split: str) -> Listing:
        place = self.folder / split
        by_stem = {p.stem: p for p in (visible(place) if is_folder(place) else ()) if is_picture(p)}
        files = [p for stem, p in by_stem.items() if stem.isdecimal()]  # 其余是掩码或副本
        masks = [by_stem.get(f"{p.stem}_GT") for p in files]
        for file, mask in zip(files, masks, strict=True):
            if mask is None:
                raise DataError(f"no mask for {str(file)!r}: add {str(file.with_stem(f'{file.stem}_GT'))!r}")
        with ThreadPoolExecutor() as pool:
            defects = list(pool.map(_has_defect, filter(None, masks)))
        entries = [
            Entry(file, "defect" if defect else GOOD, (mask,) if mask and defect else ())
            for file, mask, defect in zip(files, masks, defects, strict=True)
        ]
        kept = [entry for entry in entries if split != "train" or entry.kind == GOOD]
        return Listing(kept, left_out=len(entries) - len(kept))


def _has_defect(mask: Path) -> bool:
    state = mask.stat()
    return _decoded(mask, state.st_mtime_ns, state.st_size)


@cache  # 一次运行要列出几遍：三千张掩码只解码一遍
def _decoded(mask: Path, changed: int, size: int) -> bool:
    return read_mask(mask).getextrema() != (0, 0)

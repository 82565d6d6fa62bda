"""The data sets by name, and which of them a folder holds.

各数据集的名称，以及一个文件夹里是哪个数据集。
"""

import os
from collections.abc import Sequence
from pathlib import Path

from datasets.btad import BTADDataset
from datasets.elpv import ELPVDataset, ELPVLotsDataset
from datasets.folder import FolderDataset
from datasets.kolektor_sdd2 import KolektorSDD2Dataset
from datasets.mvtec import MVTecDataset
from datasets.mvtec_3d import MVTec3DDataset
from datasets.mvtec_ad_2 import MVTecAD2Dataset
from datasets.mvtec_loco import MVTecLOCODataset
from datasets.visa import VisADataset
from datasets.walk import visible
from system.errors import UserError

DATASETS: dict[str, type[FolderDataset]] = {
    dataset.NAME: dataset
    for dataset in (
        MVTecDataset,
        VisADataset,
        BTADDataset,
        MVTecLOCODataset,
        MVTecAD2Dataset,
        MVTec3DDataset,
        KolektorSDD2Dataset,
        ELPVDataset,
        ELPVLotsDataset,
    )
}
# 认的次序，特征多的在前：MVTec AD 2、LOCO 与 3D-AD 的类别也有 MVTec 的特征
_BY_MARKS = sorted(DATASETS.values(), key=lambda dataset: -len("/".join(dataset.MARKS).split("/")))


def locate(
    dataset: type[FolderDataset], path: Path, names: Sequence[str] | None = None
) -> tuple[Path, Sequence[str] | None]:
    """The folder that holds the classes, and the classes wanted, for a folder that may itself be a class.

    A folder with the marks of a class in which no class is found is a class; its name is the folder's.

    Raises
    ------
    UserError
        If another class than that one is named, or a link leads nowhere.
    """
    if not dataset.is_class(path) or any(map(dataset.is_class, visible(path))):
        return path, names
    path = path.resolve()  # "." 也有名字
    if set(names or ()) - {path.name}:
        raise UserError(f"{str(path)!r} is the class {path.name!r}; leave out --classes, or give its parent folder")
    return path.parent, [path.name]


def find_classes(dataset: type[FolderDataset], root: Path, names: Sequence[str] | None = None) -> list[str]:
    """The classes to run: those named, else the data set's own that are there, else all found.

    Raises
    ------
    UserError
        If ``root`` is no folder, holds no class, lacks a named one, or holds classes of another data set, or a link
        there leads nowhere.
    """
    if not root.is_dir():
        raise UserError(
            f"no data folder {str(root)!r}; give the folder that holds the classes with --data_path, "
            f"or {dataset.SOURCE.format(root)}"
        )
    found = _found(dataset, root, names)
    own = found.pop(dataset, [])
    if found and own:
        each = ", ".join(f"{classes[0]} ({other.NAME})" for other, classes in ({dataset: own} | found).items())
        raise UserError(
            f"{str(root)!r} holds classes of several data sets: {each}; give each a folder of its own, or name those "
            "of one with --classes"
        )
    others = [*found, *(other for other in _BY_MARKS if other is not dataset and other.is_class(root))]
    if others and not own:
        raise UserError(f"{str(root)!r} looks like {others[0].NAME}; give --dataset {others[0].NAME}")
    marks = " and ".join(dataset.MARKS)
    for name in names or ():
        if name not in own:
            if (root / name).is_dir() and not os.access(root / name, os.R_OK | os.X_OK):
                raise UserError(f"cannot read {str(root / name)!r}; mend its permissions, or leave it out of --classes")
            readable = [p for p in visible(root) if os.access(p, os.X_OK)]
            known = [p.name for p in readable if all((p / mark).is_dir() for mark in dataset.MARKS)] or own
            raise UserError(
                f"no class {name!r} (a folder with {marks}) in {str(root)!r}; found: {', '.join(known) or 'none'}; "
                "see --classes"
            )
    if names:
        return list(dict.fromkeys(names))
    if not own:
        raise UserError(f"no class (a folder with {marks}) in {str(root)!r}; see --data_path")
    return [name for name in dataset.CLASSES if name in own] or own


def _found(
    wanted: type[FolderDataset], root: Path, names: Sequence[str] | None
) -> dict[type[FolderDataset], list[str]]:
    """The classes at ``root``, each of one set; of sets in one layout it is the wanted one."""
    found: dict[type[FolderDataset], list[str]] = {}
    taken: set[str] = set()
    for dataset in _BY_MARKS:
        if dataset is not wanted and dataset.MARKS == wanted.MARKS:  # 同一些文件的另一种划分
            continue
        if classes := [name for name in dataset.found(root, names) if name not in taken]:
            found[dataset] = classes
            taken |= set(classes)
    return found

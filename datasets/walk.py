"""What lies in a folder: pictures at any depth, and files that are none.

文件夹里有什么：任意深度的图片，以及不是图片的文件。
"""

import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from datasets.images import is_folder, is_picture
from system.errors import UserError

_OF_THE_SYSTEM = {"thumbs.db", "desktop.ini"}  # Windows 自己放的，在那里是隐藏的


class Found(NamedTuple):
    """The pictures below a folder, sorted, and the other files there."""

    pictures: list[Path]
    others: list[Path]


def visible(folder: Path) -> list[Path]:
    """What is in a folder, by name, but for hidden files."""
    return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)


def spelled(folder: Path, place: str) -> Path:
    """A folder below another one, as its name is spelled there: ``good`` may be ``Good``; else as it is given."""
    for name in place.split("/"):
        if not os.path.lexists(folder / name) and folder.is_dir():
            folder = next((p for p in visible(folder) if p.name.lower() == name.lower()), folder / name)
        else:
            folder /= name
    return folder


def walk(folder: Path, but: Collection[Path] = ()) -> Found:
    """All files in and below a folder but the hidden ones; none where there is no such folder.

    Links are followed, no folder is entered twice.

    Parameters
    ----------
    folder : Path
    but : collection of Path
        Folders that are left out, resolved.

    Raises
    ------
    UserError
        If a folder cannot be read, or a link leads nowhere.
    """

    def unreadable(problem: OSError) -> None:
        raise UserError(
            f"cannot read folder {problem.filename!r} ({problem.strerror}); mend it or leave it out"
        ) from problem

    found, seen = Found([], []), set(but)
    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable) if is_folder(folder) else ():
        here = Path(place)
        if (real := here.resolve()) in seen:  # 指回上层的链接，或自己写出的图
            folders.clear()
            continue
        seen.add(real)
        # 名字像图片的文件夹当作图片：读它时会报出
        found.pictures.extend(here / name for name in folders if is_picture(here / name))
        folders[:] = sorted(name for name in folders if not (name.startswith(".") or is_picture(here / name)))
        for path in (here / name for name in files):
            if is_picture(path):
                found.pictures.append(path)
            elif not path.name.startswith(".") and path.name.lower() not in _OF_THE_SYSTEM:
                is_folder(path)  # 断了的链接：本来也许是一个文件夹的图片
                found.others.append(path)
    return Found(sorted(found.pictures), sorted(found.others))

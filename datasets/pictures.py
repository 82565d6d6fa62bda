"""Pictures without labels, from files and folders.

没有标注的图片：来自文件与文件夹。
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.images import DataError, read_picture
from datasets.preprocessing import Preprocessing, words
from datasets.walk import walk
from system.errors import UserError

_LONGEST = 200  # 字节；文件名至多 255，还要加序号、.png 与临时的扩展名


class Picture(NamedTuple):
    """A picture, and a name for its figure that no other picture has."""

    file: Path
    figure: Path


def find_pictures(inputs: list[Path], own: Mapping[Path, str] | None = None) -> list[Picture]:
    """The pictures named, and those in and below the folders named, sorted within each.

    Links are followed; hidden files and folders are left out.

    Parameters
    ----------
    inputs : list of Path
        Files and folders.
    own : mapping, optional
        Folders that are left out, too, and what is to go there: ``{Path("scored/pictures"): "figures"}``.

    Returns
    -------
    list of Picture

    Raises
    ------
    UserError
        If an input is not there or is one of ``own``, a folder holds no picture or cannot be read, or a
        link in it leads nowhere.
    """
    found: list[Picture] = []
    taken: dict[Path, int] = {}  # 图名 → 同名的下一张的编号
    own = own or {}
    for place in inputs:
        for folder, what in own.items() if place.exists() else ():
            if place.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"{str(place)!r} is where {what} go ({str(folder)!r}); give another --out")
        if place.is_dir():
            below = walk(place, [folder.resolve() for folder in own]).pictures
            files = [(file, place.resolve().name / file.relative_to(place)) for file in below]
            if not files:
                there = [f" but in {str(folder)!r}, where {what} go" for folder, what in own.items() if folder.is_dir()]
                raise UserError(
                    f"no picture in {str(place)!r}{','.join(there)}; PNG, JPEG, WebP, BMP, TIFF and the like count"
                )
        elif place.exists():
            files = [(place, Path(place.name))]
        else:
            raise UserError(f"no picture or folder {str(place)!r}; give what is there")
        for file, name in files:
            first = figure = _figure_of(name)
            while figure in taken:  # 不同文件夹里的同名图片
                taken[first] += 1
                figure = first.with_stem(f"{first.stem}_{taken[first]}")
            taken[figure] = 1
            found.append(Picture(file, figure))
    return found


def _figure_of(name: Path) -> Path:
    """A picture's name as that of a PNG; one that would be too long for a file's, with what is added to it, is cut."""
    own = name.stem if name.suffix == ".png" else name.name
    while len(own.encode("utf-8", "surrogateescape")) > _LONGEST:
        own = own[:-1]
    return name.with_name(f"{own}.png")


def find_others(inputs: list[Path], out: Path | None = None) -> list[Path]:
    """The files in and below the folders named that are no pictures, but for those in ``out``."""
    own = [out.resolve()] if out else []
    return [file for place in inputs if place.is_dir() for file in walk(place, own).others]


class NewPictures:
    """Pictures to score, prepared as the training pictures were.

    An item is ``(picture, index, readable, size)``: uint8 (H, W, 3), resized and cropped; ``numpy.int64``;
    ``numpy.bool_``; width and height of the file's picture, int64 (2,). Of a picture that cannot be used the first
    and the last are zero, and ``problems[index]`` says why.

    Parameters
    ----------
    files : list of Path
    preprocessing : Preprocessing
    size : (int, int)
        Height and width that must come out.

    Attributes
    ----------
    problems : dict
        ``{index: message}`` of the pictures read so far that cannot be used.
    """

    def __init__(self, files: list[Path], preprocessing: Preprocessing, size: tuple[int, int]):
        self.files, self.preprocessing, self.size = files, preprocessing, size
        self.problems: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int64, np.bool_, np.ndarray]:
        file = self.files[index]
        try:
            picture = read_picture(file, self.preprocessing.bits)
            self._check(file, picture)
            framed, size, readable = self.preprocessing.framed(picture), picture.size, True  # (H, W, 3)
        except DataError as problem:
            self.problems[index] = str(problem)
        except MemoryError:
            self.problems[index] = f"no memory to prepare {str(file)!r}; cut it down, or give a smaller --num_workers"
        if index in self.problems:
            framed, size, readable = np.zeros((*self.size, 3), np.uint8), (0, 0), False
        return framed, np.int64(index), np.bool_(readable), np.array(size, np.int64)

    def _check(self, file: Path, picture: Image.Image) -> None:
        size = self.preprocessing.output_size(picture.size, file)
        if size != self.size:
            raise DataError(
                f"{str(file)!r} comes out at {words(*size)}, the features are of {words(*self.size)} (height x width); "
                "cut it to that shape, or fit with --resize HEIGHTxWIDTH"
            )

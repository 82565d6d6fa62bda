"""Pictures without labels, from files and folders.

没有标注的图片：来自文件与文件夹。
"""

import io
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.images import DataError, read_picture
from datasets.preprocessing import Preprocessing, words
from datasets.walk import walk
from system.errors import UserError

_NAMES = 1 << 16  # 字节；一次至多读入这么多的文件名
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
    figure, own = _figures(), own or {}
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
        found += [Picture(file, figure(name)) for file, name in files]
    return found


def arriving(names: io.TextIOWrapper | None, own: Collection[Path] = ()) -> Iterator[list[Picture]]:
    """The pictures named by a stream, in its order, as many at a time as have arrived.

    Whether a file is there shows when it is read: it may be gone, or come back, at any time.

    Parameters
    ----------
    names : TextIOWrapper, or None where there is none
        Not read yet; one name a line, empty lines are skipped.
    own : collection of Path
        Folders whose files are left out, where figures go for instance: who watches a folder names these, too.

    Raises
    ------
    UserError
        If the stream cannot be read.
    """
    figure, own = _figures(), [folder.resolve() for folder in own]
    for lines in _lines(names):
        files = [Path(line) for line in lines if line.strip()]
        yield [Picture(file, figure(Path(file.name))) for file in files if not _is_below(file, own)]


def _lines(stream: io.TextIOWrapper | None) -> Iterator[list[str]]:
    """Whole lines without their ends, as many as have arrived."""
    rest, chunk = b"", b"?"
    while chunk:
        try:
            if stream is None:
                raise OSError("there is none")
            chunk = stream.buffer.read1(_NAMES)  # type: ignore[attr-defined]  # 有多少读多少，没有才等
        except OSError as problem:
            reason = problem.strerror or problem
            raise UserError(f"no names from standard input ({reason}); pipe them into predict.py") from problem
        *lines, rest = (rest + chunk).split(b"\n")
        whole = lines if chunk else [rest]  # 最后一行也许没有行尾
        yield [line.removesuffix(b"\r").decode(stream.encoding, "surrogateescape") for line in whole]


def _is_below(file: Path, folders: list[Path]) -> bool:
    if not folders or "\0" in str(file):  # 不能是文件名的，读的时候再说
        return False
    real = Path(os.path.realpath(file))  # 不用 resolve：链接成环时它会抛错
    return any(real.is_relative_to(folder) for folder in folders)


def _figures() -> Callable[[Path], Path]:
    """A function from pictures' names to those of their figures, each of which it gives once."""
    taken: dict[Path, int] = {}  # 图名 → 同名的下一张的编号

    def figure_of(name: Path) -> Path:
        first = figure = _figure_of(name)
        while figure in taken:  # 不同文件夹里的同名图片
            taken[first] += 1
            figure = first.with_stem(f"{first.stem}_{taken[first]}")
        taken[figure] = 1
        return figure

    return figure_of


def _figure_of(name: Path) -> Path:
    """A picture's name as that of a PNG; one that would be too long for a file's, with what is added to it, is cut."""
    own = name.stem if name.suffix == ".png" else name.name
    while len(own.encode("utf-8", "surrogateescape")) > _LONGEST:
        own = own[:-1]
    return name.parent / f"{own}.png"


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

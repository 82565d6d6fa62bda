"""Pictures without labels, from files and folders."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from datasets.images import DataError, is_picture, read_image
from datasets.preprocessing import Preprocessing, words


class Picture(NamedTuple):
    """A picture, and a name for its figure that no other picture has."""

    file: Path
    figure: Path


def find_pictures(inputs: list[Path], out: Path | None = None) -> list[Picture]:
    """The pictures named, and those in and below the folders named, sorted within each.

    Links are followed; hidden files and folders are left out, and ``out`` with what is below it.

    Raises
    ------
    DataError
        If an input is not there, or a folder holds no picture.
    """
    found, taken = [], set()
    for place in inputs:
        if place.is_dir():
            files = [(place / below, place.resolve().name / below) for below in _below(place, out)]
            if not files:
                raise DataError(f"no picture in {str(place)!r}; PNG, JPEG, BMP and TIFF count")
        elif place.exists():
            files = [(place, Path(place.name))]
        else:
            raise DataError(f"no picture or folder {str(place)!r}; give what is there")
        for file, name in files:
            first = figure = name if name.suffix == ".png" else name.with_name(f"{name.name}.png")
            again = 1
            while figure in taken:  # 不同文件夹里的同名图片
                again += 1
                figure = first.with_stem(f"{first.stem}_{again}")
            taken.add(figure)
            found.append(Picture(file, figure))
    return found


def _below(folder: Path, out: Path | None) -> list[Path]:
    found, seen = [], {out.resolve()} if out else set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # 指回上层的链接，或自己写出的图
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [(here / name).relative_to(folder) for name in files if is_picture(here / name)]
    return sorted(found)


class NewPictures(Dataset):
    """Pictures to score, prepared as the training pictures were.

    An item is ``(image, index, readable)``: float32 (3, H, W), normalised; int64 (); bool (). Of a
    picture that cannot be used the image is zero, and ``problems[index]`` says why.

    Parameters
    ----------
    files : list of Path
    preprocessing : Preprocessing
    size : (int, int)
        Height and width that must come out.
    """

    def __init__(self, files: list[Path], preprocessing: Preprocessing, size: tuple[int, int]):
        self.files, self.preprocessing, self.size = files, preprocessing, size
        self.problems: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        file = self.files[index]
        try:
            picture = read_image(file)
            self._check(file, picture)
            image, readable = self.preprocessing.image(picture), True  # (3, H, W)
        except DataError as problem:
            self.problems[index] = str(problem)
            image, readable = torch.zeros(3, *self.size), False
        return image, torch.tensor(index), torch.tensor(readable)

    def _check(self, file: Path, picture: Image.Image) -> None:
        size = self.preprocessing.output_size(picture.size, file)
        if size != self.size:
            raise DataError(
                f"{str(file)!r} comes out at {words(*size)}, the features are of {words(*self.size)} (height x width); "
                "cut it to that shape, or fit with --resize HEIGHTxWIDTH"
            )

"""The region of pictures that is looked at: drawn as a mask is, prepared as the pictures are.

图片中要看的区域：画法同掩码，预处理同图片。
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datasets.images import is_folder, is_picture
from datasets.masks import read_mask
from datasets.preprocessing import Preprocessing, words
from datasets.walk import visible
from system.errors import UserError


def read_region(
    path: Path | None, name: str, preprocessing: Preprocessing, pictures: Iterable[tuple[Path, tuple[int, int]]] = ()
) -> np.ndarray | None:
    """A class's region.

    Parameters
    ----------
    path : Path or None
        A picture, non-zero where it is looked at (as in masks); or a folder with one for each class, ``CLASS.png``.
        None for all of the picture.
    name : str
        The class.
    preprocessing : Preprocessing
        That of the class's pictures.
    pictures : iterable of (Path, (int, int))
        Pictures that it is for, with their widths and heights: it must be of their shape, not of their size.

    Returns
    -------
    ndarray, (H, W) bool, or None
        As prepared.

    Raises
    ------
    UserError
        If there is no such picture, it is of another shape, or nothing of it is looked at.
    """
    if path is None:
        return None
    file = path / f"{name}.png" if is_folder(path) else path
    if not file.exists():
        there = [each.name for each in visible(path) if is_picture(each)] if path.is_dir() else []
        found = f"{str(path)!r} holds {', '.join(there[:5]) or 'no picture'}" if path.is_dir() else "no such file"
        raise UserError(f"no region {str(file)!r} for class {name!r} ({found}); see --region")
    mask = read_mask(file)
    for picture, size in pictures:
        # 缩小了画的，边长各舍入到整数：差半个像素之内，仍是同样的形状
        if 2 * abs(size[0] * mask.height - size[1] * mask.width) > sum(size):
            raise UserError(
                f"region {str(file)!r} is {words(*mask.size[::-1])}, picture {str(picture)!r} {words(*size[::-1])} "
                "(height x width); draw the region on a picture of the class, see --region"
            )
    region = preprocessing.mask(mask)[0] != 0  # (H, W)
    if not region.any():
        after = ", once it is resized and cropped as the pictures are" if np.asarray(mask).any() else ""
        raise UserError(
            f"region {str(file)!r} is black: nothing is looked at{after}; what is not black is, see --region"
        )
    return region


def fingerprint(region: np.ndarray | None) -> str | None:
    """SHA-256 over a region's pixels (a hex string); None stays None."""
    return None if region is None else hashlib.sha256(np.packbits(region).tobytes()).hexdigest()

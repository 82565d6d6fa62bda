"""Masks: which pixels of a picture are defect.

掩码：图片的哪些像素是缺陷。
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Transpose

from datasets.images import opened, read_header

_FEW = 16  # 至多这么多种非零的值：几种缺陷各有其值（VisA），不是灰阶
_BRIGHT = 128  # 编号到不了这么大；渐变的掩码到得了
# EXIF 的方向 → 照它转
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip


class Mask(NamedTuple):
    """A mask as it is stored: (H, W) bool, and whether it has many values and was cut at half of its range."""

    defect: np.ndarray
    is_graded: bool


def decode_mask(path: Path) -> Mask:
    """Decode a mask: visible pixels that are not black are defect.

    Where it has many values, as one saved as JPEG or scaled smoothly has, those above half of the highest are.

    Raises
    ------
    DataError
        If the file cannot be decoded; the message names it.
    """
    with opened(path) as file:
        file.load()
        mask = ImageOps.exif_transpose(file)
        if mask.has_transparency_data:
            mask = mask.convert("RGBA")
        elif mask.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):  # 这些模式里，零不一定是黑
            mask = mask.convert("RGB")
        values = np.asarray(mask)  # 不经 convert("L")：1/65535 或 (0, 0, 1) 也不是零
        if mask.mode == "RGBA":
            values = values[..., :3] * (values[..., 3:] > 0)  # 全透明的像素看不见，不算缺陷
        if values.ndim == 3:
            values = values.max(-1)
        highest = values.max()
        is_graded = bool(highest >= _BRIGHT) and _count(values) > _FEW
        return Mask(values > highest / 2 if is_graded else values != 0, is_graded)


def _count(values: np.ndarray) -> int:
    """How many values there are but zero."""
    if values.dtype == np.uint8:
        return sum(map(bool, Image.fromarray(values).histogram()[1:]))  # 比排序快十几倍
    return len(np.unique(values[values != 0]))


def read_mask(path: Path) -> Image.Image:
    """A mask in Pillow's mode ``L``, 0 and 255; see `decode_mask`."""
    return Image.fromarray(decode_mask(path).defect.astype(np.uint8) * 255)


def read_mask_of(path: Path, picture: Path, size: tuple[int, int]) -> Image.Image:
    """The mask of a picture of this width and height; one that fits the picture as it is stored is turned with it."""
    mask = read_mask(path)
    if mask.size == size:
        return mask
    return mask.transpose(_TURNS[read_header(picture).orientation])

"""The files of new pictures: figures; raw maps and masks in pixels of the picture itself, resize and crop undone.

新图片的文件：定位图；原始异常图与掩码，以原图的像素计：缩放与裁剪已还原。
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from datasets.preprocessing import Preprocessing
from experiment.files.signed import save_signed
from experiment.report.colours import Colours
from experiment.scoring.answers import Scored
from system.resources import cores


def full_size(raw: np.ndarray, preprocessing: Preprocessing, size: tuple[int, int]) -> np.ndarray:
    """A raw map at the size of its picture, bilinear; NaN where the picture was cropped, or is not looked at.

    Parameters
    ----------
    raw : ndarray, (H, W) float32
    preprocessing : Preprocessing
        What the picture went through.
    size : (int, int)
        Width and height of the picture.

    Returns
    -------
    ndarray, (height, width) float32
    """
    (columns, x), (rows, y) = _places(raw, preprocessing, size)
    full = np.full(size[::-1], np.nan, np.float32)
    smooth, nearest = _between(_between(raw, y).T, x).T, raw[np.ix_(y.astype(int), x.astype(int))]  # 先行后列
    full[rows, columns] = np.where(np.isnan(smooth), nearest, smooth)  # 紧挨着不看的地方：取像素自己的值
    return full


def full_mask(mask: np.ndarray, preprocessing: Preprocessing, size: tuple[int, int]) -> np.ndarray:
    """A predicted mask (H, W) bool at the size of its picture, as `full_size`: (height, width) uint8, 255 is defect."""
    (columns, x), (rows, y) = _places(mask, preprocessing, size)
    full = np.zeros(size[::-1], np.uint8)
    full[rows, columns] = 255 * mask[np.ix_(y.astype(int), x.astype(int))]  # 与图上、区域的是同一个：不再插值
    return full


def _places(
    values: np.ndarray, preprocessing: Preprocessing, size: tuple[int, int]
) -> Iterator[tuple[slice, np.ndarray]]:
    """Of x and y: the picture's pixels within the crop; where their centres lie on the map (pixel i: i to i + 1)."""
    for whole, resized, cut, left in zip(size, *preprocessing.placement(size), values.shape[::-1], strict=True):
        at = (2 * np.arange(whole) + 1) * resized / (2 * whole) - cut
        inside = slice(*np.searchsorted(at, (0, left)).tolist())
        yield inside, at[inside]


def _between(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Rows (n, W) of values (H, W), interpolated linearly between the centres of two; at the rim the rim's own."""
    place = np.clip(at - 0.5, 0, len(values) - 1)
    before = place.astype(int)
    after, share = np.minimum(before + 1, len(values) - 1), (place - before).astype(np.float32)[:, None]
    return values[before] * (1 - share) + values[after] * share


@contextmanager
def files_below(
    out: Path, size: tuple[int, int], preprocessing: Preprocessing, colours: Colours, figures: bool, maps: bool
) -> Iterator[Callable[[list[Scored]], object]]:
    """A function that writes a block's ``figures``, and its ``maps``, as they are asked for.

    All are called as `datasets.pictures.Picture.figure` says: ``pictures/NAME.png``; ``maps/NAME.tif``, float32, and
    ``masks/NAME.png``.

    Parameters
    ----------
    out : Path
    size : (int, int)
        Height and width of the raw maps.
    preprocessing : Preprocessing
        What the pictures went through.
    colours : Colours
    figures, maps : bool
    """
    if figures:
        from experiment.report.figures import canvas_for, save_figure  # 连带 matplotlib

        canvas = canvas_for(*size, colours.bar)  # 只画一次，此后只是数组运算与压缩：线程就够

    def write(one: Scored) -> None:
        name, raw = one.found.figure, one.raw
        if one.picture is not None:
            save_figure(canvas.draw(one.picture, None, raw, colours), out / "pictures" / name)
        if maps:
            save_signed(full_size(raw, preprocessing, one.size), (out / "maps" / name).with_suffix(".tif"))
            if (mask := colours.mask(raw)) is not None:
                save_signed(full_mask(mask, preprocessing, one.size), out / "masks" / name)

    with ThreadPoolExecutor(cores()) as pool:
        yield lambda block: list(pool.map(write, block))

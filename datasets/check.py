"""What is checked of a class before a run, and what a user should know of its pictures: one line a kind of trouble.

开始之前对一个类别的检查，以及关于它的图片应当告诉用户的话：每种问题一行。
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.folder import SPLITS, FolderDataset
from datasets.images import Header, highest_value, read_header
from datasets.masks import decode_mask
from datasets.preprocessing import Preprocessing, words
from datasets.region import read_region
from system.errors import UserError

LONG = 1.15  # 长边超过短边的这么多倍，居中的方形裁剪就会丢掉两端
_MOST = 0.5  # 掩码多半超过这么大，黑白就可能反了
_STRIDE = 32  # 网络的步长：边长取它的整数倍


class CheckedClass(NamedTuple):
    """What is known of a class beforehand: numbers of pictures, and height and width as prepared.

    ``longest`` is the height and width of the most elongated picture as it is, ``cut_off`` the least and the largest
    share of a training picture that the crop cuts off, ``remarks`` are lines for the user. ``region`` is what is looked
    at, (H, W) bool as prepared; None is all of it.
    """

    n_train: int
    n_test: int
    size: tuple[int, int]
    longest: tuple[int, int]
    cut_off: tuple[float, float]
    remarks: list[str]
    region: np.ndarray | None = None


def check_class(
    dataset: type[FolderDataset],
    root: Path,
    name: str,
    preprocessing: Preprocessing | None = None,
    region: Path | None = None,
) -> CheckedClass:
    """Check what can be known of a class without decoding a picture; ``region`` is as `read_region` takes it.

    Raises
    ------
    UserError
        For fewer than two training pictures, a file that is no picture, a defect picture without
        mask, a mask of another size, pictures that are not of one size once they are prepared, or
        as `read_region`; the message names the file and the remedy.
    """
    preprocessing = preprocessing or Preprocessing()
    train, validation, test = (dataset(root, name, split, preprocessing) for split in SPLITS)
    folder = str(train.folder / dataset.MARKS[0])
    if not train.files:
        others = "".join(f"; {line}" for line in train.unread([]))
        raise UserError(f"no training pictures in {folder!r}; put normal pictures there{others}")
    if len(train.files) == 1:
        raise UserError(f"a single training picture in {folder!r}; a covariance needs at least two")

    def check(file: Path, masks: tuple[Path, ...]) -> tuple[Header, tuple[int, int]]:
        header = read_header(file)
        for mask in masks:
            (w, h), own = header.size, read_header(mask)
            if own.size != (w, h) and (own.size != (h, w) or header.orientation < 5 or own.orientation != 1):
                turned = " as its EXIF rotation turns it" if header.orientation >= 5 else ""
                raise UserError(
                    f"mask {str(mask)!r} is {words(*own.size)}, its picture {w}x{h}{turned}; they must be of one size"
                )
        return header, preprocessing.output_size(header.size, file)

    splits = train, validation, test
    files, masks = ([each for split in splits for each in getattr(split, key)] for key in ("files", "masks"))
    with ThreadPoolExecutor() as pool:
        checked = list(pool.map(check, files, masks))
        first = checked[0][1]
        for file, (_, prepared) in zip(files, checked, strict=True):
            if prepared != first:
                raise UserError(
                    f"{str(file)!r} comes out at {words(*prepared)}, {str(files[0])!r} at {words(*first)} (height x "
                    "width); a class has one size: give --resize HEIGHTxWIDTH, or a --crop"
                )
    headers = [header for header, _ in checked]
    longest = max((header.size[::-1] for header in headers), key=elongation)
    remarks = [
        *_left_out(train),
        *_masks(test, headers[len(files) - len(test) :]),
        *_depth(files, headers, preprocessing.bits),
        *train.unread([*files, *chain.from_iterable(masks)]),
    ]
    sizes = [header.size for header in headers[: len(train)]]
    lost = [preprocessing.cut_off(size) for size in sizes]
    seen = read_region(region, name, preprocessing, zip(train.files, sizes, strict=True))
    return CheckedClass(len(train), len(test), first, longest, (min(lost), max(lost)), remarks, seen)


def elongation(size: tuple[int, int]) -> float:
    """How many times as long as wide."""
    return max(size) / min(size)


def common_size(checked: dict[str, CheckedClass]) -> tuple[int, int]:
    """The height and width that all classes of a run share.

    Raises
    ------
    UserError
        If there is more than one.
    """
    (name, first), *others = checked.items()
    for other, found in others:
        if found.size != first.size:
            raise UserError(
                f"class {name!r} comes out at {words(*first.size)}, class {other!r} at {words(*found.size)} (height x "
                "width); a run has one size: give --resize HEIGHTxWIDTH, a --crop, or one of them with --classes"
            )
    return first.size


def _left_out(train: FolderDataset) -> list[str]:
    return [f"{train.LEFT_OUT}: {train.left_out}"] if train.left_out else []


def _masks(test: FolderDataset, headers: list[Header]) -> list[str]:
    """Lines about masks that mark nothing or nearly everything, have many values, or may not lie right."""
    jobs = [(mask, header) for header, masks in zip(headers, test.masks, strict=True) for mask in masks]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda job: _examined(*job), jobs))

    def line(is_so: Callable[["_Facts"], bool], words: str, least: float = 0) -> list[str]:
        some = [mask for (mask, _), facts in zip(jobs, found, strict=True) if is_so(facts)]
        if not some or len(some) < least * len(jobs):
            return []
        return [f"{len(some)} of {len(jobs)} masks, such as {some[0].relative_to(test.folder).as_posix()!r}, {words}"]

    return [
        *line(lambda mask: mask.share == 0, "mark nothing: what is not black, and not transparent, is defect"),
        *line(lambda mask: mask.share > _MOST, "mark most of the picture: black is what is no defect", 0.5),
        *line(
            lambda mask: mask.is_graded, "have many values and are cut at half of the highest: save 0 and 255 as PNG"
        ),
        *line(
            lambda mask: mask.is_unclear,
            "belong to pictures that EXIF turns, and are not turned themselves: their size does not tell whether they "
            "were drawn on the turned picture, as is assumed; see in the figures whether they lie right",
        ),
    ]


class _Facts(NamedTuple):
    """What share of a mask is defect, whether it has many values, and whether it may have to be turned."""

    share: float
    is_graded: bool
    is_unclear: bool


def _examined(mask: Path, picture: Header) -> _Facts:
    (width, height), own, decoded = picture.size, read_header(mask), decode_mask(mask)
    fits_both_ways = own.orientation == 1 < picture.orientation and (picture.orientation < 5 or width == height)
    return _Facts(float(decoded.defect.mean()), decoded.is_graded, fits_both_ways)


def _depth(files: list[Path], headers: list[Header], given: int | None) -> list[str]:
    """A line about deep pictures that use less than an eighth of their range: few greys are left of them."""
    deep = [(file, given or header.bits) for file, header in zip(files, headers, strict=True) if 8 < header.bits <= 16]
    highest = 0
    for file, bits in deep:
        highest = max(highest, highest_value(file))
        if highest >= 1 << bits - 3:  # 多半第一张就够了
            return []
    if not deep:
        return []
    usual, bits = next(bits for bits in (8, 10, 12, 14) if highest < 1 << bits), deep[0][1]  # 相机的位数
    return [
        f"pictures of {bits} bits whose values end at {highest}: {(highest >> bits - 8) + 1} of 256 levels are left of "
        f"them; --bits {usual} takes 0 to {(1 << usual) - 1} as black to white"
    ]


def cut_off(longest: tuple[int, int], preprocessing: Preprocessing, room: float) -> str | None:
    """What a user should know of a square crop out of elongated pictures, and the options that keep everything.

    Parameters
    ----------
    longest : (int, int)
        Height and width of the most elongated picture.
    preprocessing : Preprocessing
    room : float
        How many times as many pixels as now fit into memory.
    """
    resize, crop = preprocessing.resize, preprocessing.crop
    if elongation(longest) <= LONG or not (crop and isinstance(resize, int) and isinstance(crop, int)):
        return None
    published = "the published preprocessing, " if preprocessing.is_published else ""
    told = (
        f"pictures up to {elongation(longest):.1f} times as long as wide; {published}--resize {resize} --crop {crop} "
        f"cuts off {100 * preprocessing.cut_off(longest[::-1]):.0f} % of their area; "
    )
    square = f"--resize {words(crop, crop)} --crop 0"
    # 短边如裁剪后那么长，装不下就再短些；长边按比例
    for short in (crop, *range((crop - 1) // _STRIDE * _STRIDE, 0, -_STRIDE)):
        long = max(_STRIDE, round(short * elongation(longest) / _STRIDE) * _STRIDE)
        if short * long <= room * crop**2:
            kept = words(*((long, short) if longest[0] > longest[1] else (short, long)))
            return f"{told}--resize {kept} --crop 0 keeps all of it, and so does {square}, stretched to a square"
    return f"{told}{square} keeps all of it, stretched to a square"

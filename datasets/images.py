"""Picture files: decoded as a viewer shows them, 8-bit RGB.

图片文件的读取：按看图软件所示解码。
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from system.errors import UserError

SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".avif", ".gif", ".jp2", ".j2k", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
})  # fmt: skip
_LOST = "a symbolic link that is circular or leads nowhere"
# 扩展名之下可能是别的格式；只认像素格式：Pillow 遇到 EPS 会去运行 Ghostscript
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM")

_DEEP = re.compile(r"(RGBA?;16)([BLN])")  # 16 位彩色在文件里的排法：大端、小端、本机
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class DataError(UserError):
    """A picture, or a class of pictures, that cannot be used as it is; whoever can do without it catches this."""


def is_picture(path: Path) -> bool:
    """Whether ``path`` has a picture's suffix and is not hidden (as ``._x.png`` of macOS is)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder.

    Raises
    ------
    DataError
        If it is a symbolic link that is circular or leads nowhere, since pictures would be missed in silence.
    """
    if path.is_dir():
        return True
    if path.is_symlink() and not path.exists():
        raise DataError(f"{str(path)!r} is {_LOST}; mend it or remove it")
    return False


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """The picture, not yet decoded; whatever goes wrong with it here or in the block is a `DataError`."""
    try:
        if not path.is_file():  # 命名管道会让 open 永远等下去
            raise ValueError(_no_file(path))
        tga = ("TGA",) if path.suffix.lower() == ".tga" else ()  # 没有标志的格式，只凭扩展名
        with Image.open(path, formats=(*_FORMATS, *tga)) as picture:
            yield picture
    except MemoryError:  # 不是文件的错
        raise
    except Exception as problem:  # 损坏的文件能让 Pillow 抛出任何类型
        raise _problem(path, problem) from problem


def _no_file(path: Path) -> str:
    if path.is_symlink():
        return _LOST
    return "not a regular file" if path.exists() else "no such file"


def _problem(path: Path, problem: Exception) -> DataError:
    reason = " ".join(str(problem).split()) or type(problem).__name__
    return DataError(f"cannot read picture {str(path)!r} ({reason}); replace it or remove it")


def _shifted(values: np.ndarray, bits: int) -> np.ndarray:
    """The high byte of values of so many bits, uint8."""
    if values.dtype.kind == "f" or values.min() < 0 or values.max() >= 1 << bits:
        found = f"values from {values.min():g} to {values.max():g}"
        raise ValueError(f"{found}, not 0 to {(1 << bits) - 1}: convert it to 8 or 16 bits a channel, or see --bits")
    return (values >> (bits - 8)).astype(np.uint8)


def _grey_to_8_bit(picture: Image.Image, tags: Mapping[int, Any], bits: int | None) -> Image.Image:
    """Deep grey as a viewer shows it: the high byte (Pillow's own conversion would clip at 255).

    ``tags`` are a TIFF's: 258 is the number of bits, 262 is 0 where zero means white.
    """
    own = tags.get(258, (16,))[0]
    if own > 16:
        raise ValueError(f"pixel type {picture.mode}: convert it to 8 or 16 bits a channel")
    grey = _shifted(np.asarray(picture), bits or own)
    return Image.fromarray(255 - grey if tags.get(262) == 0 else grey)


def _turned(file: ImageFile) -> Image.Image:
    """The picture, decoded and turned as EXIF says."""
    file.load()  # before its orientation is asked for: TIFF 在解码时已按方向标签转好，标签随之消失
    ImageOps.exif_transpose(file, in_place=True)
    return file


def _is_deep_colour(picture: ImageFile) -> bool:
    """Whether colours of 16 bits lie in a file of which Pillow keeps the high bytes; before it is loaded."""
    return (
        picture.mode in ("RGB", "RGBA") and all(_deep_order(tile.args) for tile in picture.tile) and bool(picture.tile)
    )


def _deep_order(arguments: Any) -> re.Match[str] | None:
    layout = arguments if isinstance(arguments, str) else next(iter(arguments or ()), None)
    return _DEEP.fullmatch(layout) if isinstance(layout, str) else None


def _deep_colour(path: Path, high: Image.Image) -> np.ndarray:
    """All 16 bits of a colour picture, uint16 (H, W, 3), given its high bytes."""

    def swapped(arguments: Any) -> Any:
        order = _deep_order(arguments)
        assert order is not None
        other = order[1] + _OTHER_ORDER[order[2]]
        return other if isinstance(arguments, str) else (other, *arguments[1:])

    # 照另一种字节序再读一遍，Pillow 留下的就是低字节
    with Image.open(path, formats=_FORMATS) as file:
        file.tile = [tile._replace(args=swapped(tile.args)) for tile in file.tile]
        low = np.asarray(_turned(file))[..., :3]
    return np.asarray(high)[..., :3].astype(np.uint16) << 8 | low


def read_picture(path: Path, bits: int | None = None) -> Image.Image:
    """Decode a picture to 8-bit RGB.

    16-bit values keep their high byte, transparent pixels lie on white, palettes are looked up,
    the EXIF rotation is applied; of an animation the first frame counts.

    Parameters
    ----------
    path : Path
    bits : int, optional
        How many of the 16 bits of a deep picture are used, 8 to 16: 0 is black, 2^bits − 1 white. By default what
        the file says itself. Pictures of 8 bits are read as always.

    Raises
    ------
    DataError
        If the file cannot be decoded, or has more than 179 million pixels (twice Pillow's
        ``MAX_IMAGE_PIXELS``: a decompression bomb), or a value has more than ``bits`` bits; the message names it.
    """
    with opened(path) as file:
        tags, deep_colour = dict(getattr(file, "tag_v2", {})), bits is not None and _is_deep_colour(file)
        size = _header(file).size
        picture = _turned(file)
        if picture.size != size:  # 开始前的检查只读了文件头
            raise ValueError("its orientation stands behind its pixels; save it again")
        if picture.mode.startswith("I") or picture.mode == "F":
            picture = _grey_to_8_bit(picture, tags, bits)
        elif deep_colour and bits:
            colours = Image.fromarray(_shifted(_deep_colour(path, picture), bits))
            if picture.mode == "RGBA":
                colours.putalpha(picture.getchannel("A"))
            picture = colours
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)  # 透明处见白底
        return picture if picture.mode == "RGB" else picture.convert("RGB")  # 免去一次整图复制


def highest_value(path: Path) -> int:
    """The highest value of a picture of more than 8 bits a channel.

    Raises
    ------
    DataError
        If the file cannot be decoded.
    """
    with opened(path) as file:
        is_colour = _is_deep_colour(file)
        picture = _turned(file)
        return int((_deep_colour(path, picture) if is_colour else np.asarray(picture)).max())


class Header(NamedTuple):
    """What is known of a picture before it is decoded.

    Attributes
    ----------
    size : (int, int)
        Width and height in pixels, as displayed.
    orientation : int
        EXIF's, 1 to 8: how the stored picture is turned to be displayed; from 5 on width and height change places.
    bits : int
        A channel.
    """

    size: tuple[int, int]
    orientation: int
    bits: int


def read_header(path: Path) -> Header:
    """What a picture's header says.

    Raises
    ------
    DataError
        If the file is not a picture; the message names it.
    """
    with opened(path) as picture:
        return _header(picture)


def _header(picture: ImageFile) -> Header:
    tags = getattr(picture, "tag_v2", {})
    deep = tags.get(258, (16,))[0] if picture.mode.startswith("I") else 16 if _is_deep_colour(picture) else 8
    # PNG 的 getexif 会触发解码；TIFF 的 size 已按方向转好
    if picture.format == "TIFF":
        return Header(picture.size, tags.get(274, 1), deep)
    if picture.format == "PNG" and {"exif", "xmp", "XML:com.adobe.xmp"}.isdisjoint(picture.info):
        return Header(picture.size, 1, deep)
    orientation = picture.getexif().get(0x0112, 1)
    # 方向标签 5 至 8：显示时行列互换
    return Header(picture.size[::-1] if orientation >= 5 else picture.size, orientation, deep)

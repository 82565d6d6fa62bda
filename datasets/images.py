"""Picture files: decoded as a viewer shows them, 8-bit RGB; masks as what is not zero.

图片文件的读取：图片按看图软件所示解码，掩码为非零处。
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from system.errors import UserError

SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".avif", ".gif", ".jp2", ".j2k", ".jpx", ".jpf", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
})  # fmt: skip
_LOST = "a symbolic link that is circular or leads nowhere"
# 扩展名之下可能是别的格式；只认像素格式：Pillow 遇到 EPS 会去运行 Ghostscript
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM")


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
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture, not yet decoded; whatever goes wrong with it here or in the block is a `DataError`."""
    try:
        if not path.is_file():  # 命名管道会让 open 永远等下去
            raise ValueError(_no_file(path))
        tga = ("TGA",) if path.suffix.lower() == ".tga" else ()  # 没有标志的格式，只凭扩展名
        with Image.open(path, formats=(*_FORMATS, *tga)) as image:
            yield image
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


def _to_8_bit(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Deep grey as a viewer shows it: the high byte (Pillow's own conversion would clip at 255).

    ``tags`` are a TIFF's: 258 is the number of bits, 262 is 0 where zero means white.
    """
    bits = tags.get(258, (16,))[0]
    values = np.asarray(image)
    if values.dtype.kind == "f" or bits > 16 or values.min() < 0 or values.max() >= 1 << bits:
        raise ValueError(f"pixel type {image.mode}: convert it to 8 or 16 bits a channel")
    grey = (values >> (bits - 8)).astype(np.uint8)  # 只留高 8 位
    return Image.fromarray(255 - grey if tags.get(262) == 0 else grey)


def read_image(path: Path) -> Image.Image:
    """Decode a picture to 8-bit RGB.

    16-bit values keep their high byte, transparent pixels lie on white, palettes are looked up,
    the EXIF rotation is applied; of an animation the first frame counts.

    Raises
    ------
    DataError
        If the file cannot be decoded, or has more than 179 million pixels (twice Pillow's
        ``MAX_IMAGE_PIXELS``: a decompression bomb); the message names it.
    """
    with _opened(path) as image:
        tags = dict(getattr(image, "tag_v2", {}))
        size = _displayed_size(image)
        image.load()  # TIFF 在解码时已按方向标签转好，标签随之消失，故先解码再查方向
        ImageOps.exif_transpose(image, in_place=True)
        if image.size != size:  # 开始前的检查只读了文件头
            raise ValueError("its orientation stands behind its pixels; save it again")
        if image.mode.startswith("I") or image.mode == "F":
            image = _to_8_bit(image, tags)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)  # 透明处见白底
        return image if image.mode == "RGB" else image.convert("RGB")  # 免去一次整图复制


def read_mask(path: Path) -> Image.Image:
    """Decode a mask to an ``L`` image of 0 and 255: visible pixels that are not black are defect.

    Raises
    ------
    DataError
        If the file cannot be decoded; the message names it.
    """
    with _opened(path) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
        elif image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):  # 这些模式里，零不一定是黑
            image = image.convert("RGB")
        values = np.asarray(image)  # 不经 convert("L")：1/65535 或 (0, 0, 1) 也不是零
        if image.mode == "RGBA":
            values = values[..., :3] * (values[..., 3:] > 0)  # 全透明的像素看不见，不算缺陷
        defect = values != 0
        return Image.fromarray((defect.any(-1) if defect.ndim == 3 else defect).astype(np.uint8) * 255)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels, as displayed, from the header alone.

    Raises
    ------
    DataError
        If the file is not a picture; the message names it.
    """
    with _opened(path) as image:
        return _displayed_size(image)


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    # PNG 的 getexif 会触发解码；TIFF 的 size 已按方向转好
    if image.format == "PNG":
        stored = not {"exif", "xmp", "XML:com.adobe.xmp"}.isdisjoint(image.info)
    else:
        stored = image.format != "TIFF"
    # 方向标签 5 至 8：显示时行列互换
    turned = stored and image.getexif().get(0x0112, 1) >= 5
    return image.size[::-1] if turned else image.size

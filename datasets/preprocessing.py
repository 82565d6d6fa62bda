"""How pictures and their masks are prepared for the network (paper, sections IV.A and IV.B); Pillow and NumPy only.

图片与掩码的预处理（论文第 IV.A、IV.B 节），只用 Pillow 与 NumPy。

References
----------
Defard et al., arXiv 2011.08785, section IV.B: resize and centre crop; section IV.A: the random
rotation and crop of Rd-MVTec AD, the non-aligned protocol.
"""

import hashlib
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from datasets.images import DataError
from system.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet 的，RGB
_MEAN, _STD = (np.array(v, np.float32).reshape(3, 1, 1) for v in (MEAN, STD))
ROTATION = 10  # 度：Rd-MVTec AD 的旋转在 ±10° 之内
PROTOCOLS = ("aligned", "rd")
BITS = range(8, 17)

Extent = int | tuple[int, int]


@dataclass(frozen=True)
class Preprocessing:
    """Resize, on request rotate, crop, normalise; the defaults are the published ones.

    Attributes
    ----------
    resize : int or (int, int)
        Pixels of the shorter side, or height and width exactly.
    crop : int or (int, int)
        Side, or height and width; 0 for no crop.
    protocol : str
        ``aligned`` crops at the centre. ``rd`` (Rd-MVTec AD) first turns by a random angle within
        ±`ROTATION` degrees, then crops at a random place.
    seed : int
        Of the random angles and places; without effect on ``aligned``.
    bits : int, optional
        How many bits of deep pictures are used, see `datasets.images.read_picture`.
    """

    resize: Extent = 256
    crop: Extent = 224
    protocol: str = "aligned"
    seed: int = 1024
    bits: int | None = None

    def record(self) -> dict[str, Any]:
        """What is stored with the features; `from_record` is its inverse."""
        resize, crop = (v if isinstance(v, int) else list(v) for v in (self.resize, self.crop))
        record = {"resize": resize, "crop": crop, "interpolation": "lanczos", "mean": list(MEAN), "std": list(STD)}
        # aligned 不抽随机数，也就不记种子；没有给的位数也不记
        drawn = {} if self.protocol == "aligned" else {"protocol": self.protocol, "seed": self.seed}
        return record | drawn | ({} if self.bits is None else {"bits": self.bits})

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Preprocessing":
        """The preprocessing that a record describes.

        Raises
        ------
        UserError
            If it is none of this program's.
        """
        made: Preprocessing | None
        try:
            resize, crop = (v if isinstance(v, int) else (v[0], v[1]) for v in (record["resize"], record["crop"]))
            more = record.get("protocol", cls.protocol), record.get("seed", cls.seed), record.get("bits", cls.bits)
            made = cls(resize, crop, *more)
            numbers = (*_pair(resize), *_pair(crop), made.seed, 8 if made.bits is None else made.bits)
            if not all(type(n) is int for n in numbers) or numbers[-1] not in BITS:  # 布尔值与浮点数不算
                made = None
        except (AttributeError, TypeError, LookupError):
            made = None
        if made is None or made.protocol not in PROTOCOLS or made.record() != record:
            raise UserError(f"no preprocessing of this program: {record}; fit again")
        return made

    def scaled(self, numerator: int, denominator: int) -> "Preprocessing":
        """The same with so much smaller images, rounded down."""

        def less(extent: Extent) -> Extent:
            if isinstance(extent, int):
                return extent * numerator // denominator
            height, width = extent
            return height * numerator // denominator, width * numerator // denominator

        return replace(self, resize=less(self.resize), crop=less(self.crop))

    @property
    def is_published(self) -> bool:
        """Whether this is what the published metrics were computed with."""
        return self.record() == Preprocessing().record()

    def output_size(self, size: tuple[int, int], file: Path) -> tuple[int, int]:
        """Height and width of what a picture becomes.

        Parameters
        ----------
        size : (int, int)
            Width and height of the picture, as Pillow and `datasets.images.read_header` give them.
        file : Path
            Its name, for the error.

        Raises
        ------
        DataError
            If the resized picture would have more than twice Pillow's ``MAX_IMAGE_PIXELS``, as a thin one
            of few pixels can, or the crop is larger than it.
        """
        height, width = self._resized(size)
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and height * width > 2 * most:
            raise DataError(
                f"{str(file)!r}, {words(*size[::-1])} (height x width), would be {words(height, width)} after --resize "
                f"{words(self.resize)}, more than {2 * most} pixels; give --resize HEIGHTxWIDTH, or remove the picture"
            )
        if not self.crop:
            return height, width
        crop = _pair(self.crop)
        if crop[0] > height or crop[1] > width:
            raise DataError(
                f"{str(file)!r} is {words(height, width)} after --resize {words(self.resize)}, smaller than "
                f"--crop {words(self.crop)}; give a larger --resize, a smaller --crop, or --crop 0"
            )
        return crop

    def cut_off(self, size: tuple[int, int]) -> float:
        """The share of a picture's area, of this width and height, that the crop cuts off."""
        height, width = self._resized(size)
        h, w = _pair(self.crop) if self.crop else (height, width)
        return 1 - h * w / (height * width)

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        if not isinstance(self.resize, int):
            return self.resize
        short, long = min(size), max(size)
        other = int(self.resize * long / short)  # 与 torchvision 的取整一致
        return (other, self.resize) if size[0] <= size[1] else (self.resize, other)

    def image(self, picture: Image.Image, key: str | None = None) -> np.ndarray:
        """An RGB picture as the network takes it.

        Parameters
        ----------
        picture : PIL.Image.Image
            RGB.
        key : str, optional
            The picture's path within its data set: what the draws of ``rd`` depend on, beside the
            seed. Without one, as for new pictures, the picture is not turned, and cropped at the
            centre.

        Returns
        -------
        ndarray of float32, (3, H, W)
            Normalised, contiguous; H and W are those of `output_size`.
        """
        return to_images(self.framed(picture, key))

    def framed(self, picture: Image.Image, key: str | None = None) -> np.ndarray:
        """An RGB picture resized and cropped, (H, W, 3) uint8; as `image`, but not normalised."""
        return np.array(self._frame(picture, Resampling.LANCZOS, Resampling.BILINEAR, key))  # 缩放同原代码

    def placement(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where a picture without a ``key`` is in what becomes of it.

        Parameters
        ----------
        size : (int, int)
            Width and height of the picture.

        Returns
        -------
        (int, int)
            Width and height of the resized picture.
        (int, int)
            How many of its pixels are cut off at the left and at the top.
        """
        height, width = self._resized(size)
        h, w = _pair(self.crop) if self.crop else (height, width)
        return (width, height), (_start(width, w), _start(height, h))

    def mask(self, mask: Image.Image, key: str | None = None) -> np.ndarray:
        """A mask, framed as its picture with the same ``key`` is.

        Parameters
        ----------
        mask : PIL.Image.Image
            Of one channel.
        key : str, optional
            That of the picture.

        Returns
        -------
        ndarray of uint8, (1, H, W)
            1 where the mask is not zero.
        """
        framed = self._frame(mask, Resampling.NEAREST, Resampling.NEAREST, key)  # 最近邻：不插出中间值
        return (np.asarray(framed)[None] > 0).astype(np.uint8)  # (1, H, W)

    def _frame(self, picture: Image.Image, scaling: Resampling, turning: Resampling, key: str | None) -> Image.Image:
        height, width = self._resized(picture.size)
        centred = self.protocol == "aligned" or key is None
        # 论文 IV.B：缩放，中心裁剪；结果逐位相同时一步做完，裁掉的部分就不必算
        in_one_step = centred and self.crop and scaling == Resampling.LANCZOS
        if in_one_step and (cropped := _resized_centre(picture, (height, width), _pair(self.crop))) is not None:
            return cropped
        if picture.size != (width, height):
            # Rows, then columns, each a step of its own: Pillow 一步做完时，次序因版本与尺寸而异，而每步都取整到字节
            picture = picture.resize((width, picture.height), scaling).resize((width, height), scaling)
        if centred:
            return _cropped_centre(picture, _pair(self.crop)) if self.crop else picture
        # 随机数只取决于种子与路径：与次序、线程、批大小无关，图与掩码相同
        digest = hashlib.sha256(f"{self.seed}/{key}".encode("utf-8", "surrogateescape")).digest()
        draws = random.Random(int.from_bytes(digest, "big"))
        # 论文 IV.A 的 Rd-MVTec AD：先随机旋转，再在随机处裁剪
        picture = picture.rotate(draws.uniform(-ROTATION, ROTATION), turning, fillcolor="black")
        if not self.crop:
            return picture
        h, w = _pair(self.crop)
        top, left = draws.randint(0, height - h), draws.randint(0, width - w)
        return picture.crop((left, top, left + w, top + h))


def _cropped_centre(picture: Image.Image, crop: tuple[int, int]) -> Image.Image:
    (h, w), (width, height) = crop, picture.size
    top, left = _start(height, h), _start(width, w)
    return picture.crop((left, top, left + w, top + h))


def _start(whole: int, part: int) -> int:
    """Where a centred part begins."""
    return round((whole - part) / 2)  # 与 torchvision 的取整一致


def _resized_centre(picture: Image.Image, resized: tuple[int, int], crop: tuple[int, int]) -> Image.Image | None:
    """The centre of the resized picture without what surrounds it; None where its bits might be others.

    Pillow takes the box in float32 and places each pixel's filter in float64. Where a picture's pixels in
    one resized pixel (900/256, say) and the box are float32 numbers, nothing on the way is rounded: the
    filters are those of the whole picture. Only squares: of others Pillow may take the columns first.
    """
    source, whole, part = picture.width, resized[0], crop[0]
    are_squares = (picture.height, resized[1], crop[1]) == (source, whole, part)
    start = _start(whole, part)
    if not are_squares or not all(_is_float32(n * source, whole) for n in (1, start, part, start + part)):
        return None
    first, last = start * source / whole, (start + part) * source / whole  # 裁剪框在原图上的坐标
    return picture.resize(crop, Resampling.LANCZOS, box=(first, first, last, last))


def _is_float32(numerator: int, denominator: int) -> bool:
    return float(np.float32(numerator / denominator)) * denominator == numerator


def _pair(extent: Extent) -> tuple[int, int]:
    return (extent, extent) if isinstance(extent, int) else extent


def words(*extent: Any) -> str:
    """``256``, or ``256x512``, height first, as the options are written."""
    extent = extent[0] if len(extent) == 1 else extent
    return str(extent) if isinstance(extent, int) else "x".join(map(str, extent))


def to_images(pictures: np.ndarray) -> np.ndarray:
    """Normalise: uint8 (..., H, W, 3) → float32 (..., 3, H, W), contiguous, as the network takes them."""
    images = np.moveaxis(pictures, -1, -3).astype(np.float32, order="C")  # (..., 3, H, W)
    # 逐步照 torchvision 的 to_tensor 与 normalize，全程 float32：逐位相同
    images /= 255
    images -= _MEAN
    images /= _STD
    return images


def to_pictures(images: np.ndarray) -> np.ndarray:
    """Undo the normalisation, exactly: float32 (B, 3, H, W) → uint8 (B, H, W, 3)."""
    # to_images 的三步，逆着做一遍
    pictures = images * _STD
    pictures += _MEAN
    pictures *= 255
    pictures = pictures.round(out=pictures).clip(0, 255, out=pictures)
    return pictures.astype(np.uint8).transpose(0, 2, 3, 1)  # (B, H, W, 3)

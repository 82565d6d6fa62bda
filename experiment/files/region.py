"""The region of a class as it stands in records: a PNG, as text. Imports no torch.

记录里一类的区域：PNG，写成文本。
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def to_text(region: np.ndarray | None) -> str | None:
    """A region (H, W) bool as a PNG of one bit a pixel, in base64; None, for all of the picture, stays None."""
    if region is None:
        return None
    Image.fromarray(region).save(file := io.BytesIO(), "png")
    return base64.b64encode(file.getvalue()).decode()


def from_text(text: str | None) -> np.ndarray | None:
    """What `to_text` was given."""
    if text is None:
        return None
    with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
        return np.array(image.convert("1"))


def is_region(text: str | None, size: Sequence[int]) -> bool:
    """Whether a record's text is a region of this height and width in which anything is looked at."""
    try:
        region = from_text(text)
    except Exception:  # 文本可以是任何东西，Pillow 抛什么都有可能
        return False
    return region is None or (region.shape == tuple(size) and bool(region.any()))

"""Picture files that say what wrote them, so that a later run knows them again. Imports no torch.

图片文件里写着是谁写的：后来的运行凭此认出自己的。
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from system.files import replacing

_SOFTWARE, _TAG = "PaDiM", 305  # TIFF 以编号称呼 Software 这一项


def save_signed(values: np.ndarray, path: Path, **options: Any) -> None:
    """Write an array as PNG or TIFF, by the path's suffix; what can be made again need not be on the disk at once."""
    if path.suffix == ".png":
        (said := PngInfo()).add_text("Software", _SOFTWARE)
        options |= {"format": "png", "pnginfo": said}
    else:
        options |= {"format": "tiff", "software": _SOFTWARE}
    with replacing(path, sync=False) as temporary:
        Image.fromarray(values).save(temporary, **options)


def is_signed(path: Path) -> bool:
    """Whether `save_signed` has written this file."""
    with suppress(Exception), Image.open(path, formats=["PNG", "TIFF"]) as image:  # 坏的、别人的
        tags = getattr(image, "tag_v2", None) or {}
        return _SOFTWARE in (image.info.get("Software"), tags.get(_TAG))
    return False

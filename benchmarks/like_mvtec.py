"""Pictures like MVTec AD's: its fifteen classes, with its numbers of pictures and their sizes, drawn once.

与 MVTec AD 的类别、张数、大小都相同的图片，画一次。
"""

from pathlib import Path

from datasets.mvtec import TEXTURES
from datasets.sample import Drawn, write_classes

# 训练图、测试图的张数，边长（像素）：共 3629 与 1725 张
NUMBERS = {
    "bottle": (209, 83, 900),
    "cable": (224, 150, 1024),
    "capsule": (219, 132, 1000),
    "carpet": (280, 117, 1024),
    "grid": (264, 78, 1024),
    "hazelnut": (391, 110, 1024),
    "leather": (245, 124, 1024),
    "metal_nut": (220, 115, 700),
    "pill": (267, 167, 800),
    "screw": (320, 160, 1024),
    "tile": (230, 117, 840),
    "toothbrush": (60, 42, 1024),
    "transistor": (213, 100, 1024),
    "wood": (247, 79, 1024),
    "zipper": (240, 151, 1024),
}


def like_mvtec(work: Path, divisor: int = 1, side: int | None = None) -> Path:
    """The folder of the pictures below ``work``, drawn if they are not there.

    Parameters
    ----------
    work : Path
    divisor : int
        Of the numbers of pictures, of which at least four and three are left: for trials.
    side : int, optional
        In pixels, of all pictures: for trials.
    """
    out = work / f"like_mvtec_{divisor}_{side or 'full'}"
    if not out.exists():
        classes = {}
        for name, (n_train, n_test, size) in NUMBERS.items():
            recipe = "linen" if name in TEXTURES else "flange"
            classes[name] = Drawn(recipe, max(4, n_train // divisor), max(3, n_test // divisor), side or size)
        write_classes(out, classes)
    return out

"""MVTec AD, and any folder in its layout (the paper's section IV.A).

MVTec AD 数据集，以及任何同样布局的文件夹（论文第 IV.A 节）。

A class is a folder::

    CLASS/train/good/*.png              normal pictures
    CLASS/validation/good/*.png         in a folder of one's own: more normal pictures, which train nothing
    CLASS/test/good/*.png               normal pictures
    CLASS/test/TYPE/NAME.png            pictures with a defect of that type
    CLASS/ground_truth/TYPE/NAME_mask.png   their masks (NAME.png is taken too)

``python -m datasets.mvtec --download DIR`` fetches MVTec AD (see `datasets.download`).

References
----------
Bergmann et al., "MVTec AD: A Comprehensive Real-World Dataset for Unsupervised Anomaly
Detection", CVPR 2019.
"""

import sys
from typing import ClassVar

from datasets.kind_folders import KindFolders

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    "bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper",
)  # fmt: skip
CLASSES = tuple(sorted(TEXTURES + OBJECTS))


class MVTecDataset(KindFolders):
    """One class of MVTec AD, or of any folder in its layout, one split; see `FolderDataset`."""

    NAME: ClassVar[str] = "mvtec"
    CLASSES: ClassVar[tuple[str, ...]] = CLASSES
    MARKS: ClassVar[tuple[str, ...]] = ("train/good",)
    SOURCE: ClassVar[str] = "fetch MVTec AD with: python -m datasets.mvtec --download {}"


if __name__ == "__main__":
    from datasets import download  # 别处用不到

    sys.exit(download.main(CLASSES))

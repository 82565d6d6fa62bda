"""BTAD, beanTech anomaly detection: three industrial products.

BTAD：beanTech 的三种工业产品。

A class is a folder; PNG and BMP are mixed, and a mask may have another suffix than its picture::

    CLASS/train/ok/*                    normal pictures
    CLASS/test/ok/*, CLASS/test/ko/*    normal pictures, and pictures with a defect
    CLASS/ground_truth/ko/*             their masks, by the pictures' stems

References
----------
Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization", ISIE 2021.
"""

from typing import ClassVar

from datasets.kind_folders import KindFolders


class BTADDataset(KindFolders):
    """One class of BTAD, one split; see `FolderDataset`."""

    NAME: ClassVar[str] = "btad"
    CLASSES: ClassVar[tuple[str, ...]] = ("01", "02", "03")
    MARKS: ClassVar[tuple[str, ...]] = ("train/ok",)
    SOURCE: ClassVar[str] = "get BTAD: https://github.com/pankajmishra000/VT-ADL"
    NORMAL: ClassVar[str] = "ok"
    MASK: ClassVar[str] = "{}.png"

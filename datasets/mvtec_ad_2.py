"""MVTec AD 2: large pictures under changing light.

MVTec AD 2：光照多变的大图。

A class is a folder::

    CLASS/train/good/*.png              normal pictures
    CLASS/validation/good/*.png         more normal pictures, which train nothing
    CLASS/test_public/good/*.png        normal pictures
    CLASS/test_public/bad/NAME.png      pictures with a defect
    CLASS/test_public/ground_truth/bad/NAME_mask.png    their masks
    CLASS/test_private*/*.png           pictures without labels: for predict.py

References
----------
Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly Detection", arXiv 2503.21622.
"""

from typing import ClassVar

from datasets.kind_folders import KindFolders


class MVTecAD2Dataset(KindFolders):
    """One class of MVTec AD 2, one split; see `FolderDataset`."""

    NAME: ClassVar[str] = "mvtec_ad_2"
    CLASSES: ClassVar[tuple[str, ...]] = (
        "can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts",
    )  # fmt: skip
    MARKS: ClassVar[tuple[str, ...]] = ("train/good", "test_public")
    SOURCE: ClassVar[str] = "get MVTec AD 2: https://www.mvtec.com/company/research/datasets/mvtec-ad-2"
    FOLDERS: ClassVar[dict[str, str]] = {"train": "train", "validation": "validation", "test": "test_public"}
    TRUTH: ClassVar[str] = "test_public/ground_truth"
    IGNORED: ClassVar[frozenset[str]] = frozenset({"test_private", "test_private_mixed"})

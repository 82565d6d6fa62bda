"""MVTec 3D-AD: objects as colour pictures and as point clouds, of which the pictures are read.

MVTec 3D-AD：每件物体有彩色图与点云；这里只读彩色图。

A class is a folder, and every kind has folders of its own::

    CLASS/train/good/rgb/NNN.png        normal pictures
    CLASS/validation/good/rgb/NNN.png   more normal pictures, which train nothing
    CLASS/test/good/rgb/NNN.png         normal pictures
    CLASS/test/KIND/rgb/NNN.png         pictures with a defect
    CLASS/test/KIND/gt/NNN.png          their masks
    CLASS/*/*/xyz/NNN.tiff              point clouds, which are not read

References
----------
Bergmann et al., "The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and Localization", VISAPP 2022.
"""

from pathlib import Path
from typing import ClassVar

from datasets.images import is_folder
from datasets.kind_folders import KindFolders
from datasets.walk import spelled, visible


class MVTec3DDataset(KindFolders):
    """One class of MVTec 3D-AD's pictures, one split; see `FolderDataset`."""

    NAME: ClassVar[str] = "mvtec_3d"
    CLASSES: ClassVar[tuple[str, ...]] = (
        "bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire",
    )  # fmt: skip
    MARKS: ClassVar[tuple[str, ...]] = ("train/good/rgb",)
    SOURCE: ClassVar[str] = "get MVTec 3D-AD: https://www.mvtec.com/company/research/datasets/mvtec-3d-ad"
    WITHIN: ClassVar[str] = "rgb"
    TRUTH: ClassVar[str] = "gt"
    IGNORED: ClassVar[frozenset[str]] = frozenset({"xyz", "gt"})

    def _has_masks(self) -> bool:
        folder = self.folder / "test"
        return is_folder(folder) and any(is_folder(self._truth(place.name)) for place in visible(folder))

    def _truth(self, kind: str) -> Path:
        return spelled(self.folder, f"test/{kind}/gt")

"""MVTec LOCO AD: logical and structural anomalies.

MVTec LOCO AD：逻辑异常与结构异常。

A class is a folder; the masks of a picture, one for each defect in it, are joined::

    CLASS/train/good/*.png              normal pictures
    CLASS/validation/good/*.png         more normal pictures, which train nothing
    CLASS/test/good/*.png               normal pictures
    CLASS/test/KIND/NAME.png            logical_anomalies, structural_anomalies
    CLASS/ground_truth/KIND/NAME/000.png, 001.png, …    their masks

References
----------
Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and Localization",
IJCV 2022.
"""

from pathlib import Path
from typing import ClassVar

from datasets.kind_folders import KindFolders
from datasets.walk import walk


class MVTecLOCODataset(KindFolders):
    """One class of MVTec LOCO AD, one split; see `FolderDataset`."""

    NAME: ClassVar[str] = "mvtec_loco"
    CLASSES: ClassVar[tuple[str, ...]] = (
        "breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors",
    )  # fmt: skip
    MARKS: ClassVar[tuple[str, ...]] = ("train/good", "test/logical_anomalies")
    SOURCE: ClassVar[str] = "get MVTec LOCO AD: https://www.mvtec.com/company/research/datasets/mvtec-loco"
    APART: ClassVar[tuple[str, ...]] = ("logical_anomalies", "structural_anomalies")
    MASK: ClassVar[str] = "{}/000.png"

    @staticmethod
    def _masks(names: list[Path], folder: Path) -> list[tuple[Path, ...]]:
        return [tuple(walk(folder / name).pictures) for name in names]

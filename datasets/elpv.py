"""ELPV: electroluminescence pictures of solar cells, which a package index delivers.

ELPV：太阳能电池的电致发光图片，用 pip 即可装得。

The whole set lies in one folder; a table says how probable a defect is, as experts judged::

    labels.csv              images/NAME.png, probability (0, 0.33, 0.67, 1), mono or poly; spaces between them
    images/cellNNNN.png     the cells, one a picture; those of a module stand together in the numbering

Cells with probability 0 are good, those with 0.67 and 1 defective; those with 0.33 are left out. There are no masks.
The set has no split of its own: `ELPVDataset` and `ELPVLotsDataset` are two.

References
----------
Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated electroluminescence images", Machine Vision
and Applications 2021.
Buerhop-Lutz et al., "A benchmark for visual identification of defective solar cells in electroluminescence imagery",
European PV Solar Energy Conference 2018.
"""

import random
import re
import sysconfig
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

from datasets.folder import GOOD, Entry, FolderDataset, Listing
from datasets.images import DataError, is_folder
from datasets.walk import walk

TABLE = "labels.csv"
PACKAGE = "elpv_dataset"
_ROW = re.compile(r"images[/\\](\S+)\s+([01](?:\.\d+)?)\s+(mono|poly)\s*")
_SHARE = 0.6  # 好图中用来训练的一份


class _Cell(NamedTuple):
    """A row of the table: its line, the picture's name, the probability of a defect."""

    line: int
    name: str
    probability: float


class ELPVDataset(FolderDataset):
    """One class of ELPV, one split, see `FolderDataset`: the good cells are shuffled, so modules are in both splits."""

    NAME: ClassVar[str] = "elpv"
    CLASSES: ClassVar[tuple[str, ...]] = ("elpv_mono", "elpv_poly")
    MARKS: ClassVar[tuple[str, ...]] = ("images", TABLE)
    SOURCE: ClassVar[str] = "get ELPV with: python -m pip install -r requirements-elpv.txt"
    LEFT_OUT: ClassVar[str] = "pictures left out because experts were unsure of a defect (probability 0.33)"

    @classmethod
    def default_root(cls) -> Path:
        """Where the package's pictures are, or would be if it were installed; nothing of it is imported."""
        package = find_spec(PACKAGE)
        places = package.submodule_search_locations if package else None
        return Path(places[0] if places else f"{sysconfig.get_path('purelib')}/{PACKAGE}") / "data"

    @classmethod
    def folder_of(cls, root: Path, name: str) -> Path:
        return root

    @classmethod
    def is_class(cls, folder: Path) -> bool:
        return False  # 根目录之下没有类别的文件夹：两类图片混放

    @classmethod
    def found(cls, root: Path, names: Collection[str] | None = None) -> list[str]:
        # images 与 labels.csv 是常见的名字：表里真有这样的行，才是 ELPV
        if not is_folder(root / "images") or not (root / TABLE).is_file():
            return []
        lines = (root / TABLE).read_text(encoding="utf-8", errors="replace").splitlines()
        kinds = {row[3] for row in map(_ROW.fullmatch, lines) if row}
        return [name for name in cls.CLASSES if name.removeprefix("elpv_") in kinds]

    def _list(self, split: str) -> Listing:
        if split == "validation":
            return Listing([], has_masks=False)
        cells = self._cells()
        good = [cell for cell in cells if cell.probability < 0.1]
        training = set(self._training(good, int(_SHARE * len(good))))
        defective = [cell for cell in cells if cell.probability > 0.5]
        if split == "train":
            chosen = [cell for cell in good if cell in training]
        else:
            chosen = [cell for cell in good if cell not in training] + defective
        files = {path.name: path for path in walk(self.folder / "images").pictures}
        for cell in chosen:
            if cell.name not in files:
                table, file = str(self.folder / TABLE), str(self.folder / "images" / cell.name)
                raise DataError(f"{table!r}, line {cell.line}: no file {file!r}; put it there, or take the row out")
        entries = [
            Entry(files[cell.name], GOOD if cell.probability < 0.1 else f"{cell.probability:.2f}") for cell in chosen
        ]
        left_out = len(cells) - len(good) - len(defective) if split == "train" else 0
        return Listing(entries, has_masks=False, left_out=left_out)

    @staticmethod
    def _training(good: list[_Cell], count: int) -> list[_Cell]:
        """Those of the good cells, given in the table's order, that train."""
        shuffled = good.copy()
        random.Random(0).shuffle(shuffled)  # 与 --seed 无关：划分总是同一个
        return shuffled[:count]

    def _cells(self) -> list[_Cell]:
        """The class's rows of the table."""
        table, cells = self.folder / TABLE, []
        kind = self.name.removeprefix("elpv_")
        try:
            lines = table.read_text(encoding="utf-8-sig").splitlines()
        except (ValueError, OSError) as problem:
            raise DataError(f"cannot read {str(table)!r} ({problem}); take it from the package {PACKAGE}") from problem
        for number, line in enumerate(lines, 1):
            row = _ROW.fullmatch(line)
            if row is None and line.strip():
                raise DataError(
                    f"{str(table)!r}, line {number}: no row of ELPV (images/NAME probability mono|poly): "
                    f"{line[:60]!r}; mend it"
                )
            if row and row[3] == kind:
                cells.append(_Cell(number, row[1], float(row[2])))
        return cells


class ELPVLotsDataset(ELPVDataset):
    """As `ELPVDataset`, but the first of the good cells train: those that test are of other modules."""

    NAME: ClassVar[str] = "elpv_lots"

    @staticmethod
    def _training(good: list[_Cell], count: int) -> list[_Cell]:
        return good[:count]

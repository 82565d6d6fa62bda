"""VisA, visual anomaly: twelve classes of objects.

VisA：十二类物体。

A class is a folder; a table beside the classes says which normal pictures train and which test::

    split_csv/1cls.csv                  object,split,label,image,mask; paths are below the root
    CLASS/Data/Images/Normal/*.JPG      normal pictures
    CLASS/Data/Images/Anomaly/*.JPG     pictures with a defect
    CLASS/Data/Masks/Anomaly/*.png      their masks: kinds of defect as small numbers

References
----------
Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and Segmentation", ECCV 2022.
"""

import csv
from pathlib import Path, PureWindowsPath
from typing import ClassVar

from datasets.folder import GOOD, Entry, FolderDataset, Listing
from datasets.images import DataError

TABLE = "split_csv/1cls.csv"
_KNOWN = {("train", "normal"), ("test", "normal"), ("test", "anomaly")}


class VisADataset(FolderDataset):
    """One class of VisA, one split; see `FolderDataset`."""

    NAME: ClassVar[str] = "visa"
    CLASSES: ClassVar[tuple[str, ...]] = (
        "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3",
        "pcb4", "pipe_fryum",
    )  # fmt: skip
    MARKS: ClassVar[tuple[str, ...]] = ("Data/Images/Normal",)
    SOURCE: ClassVar[str] = "get VisA: https://github.com/amazon-science/spot-diff"

    def _list(self, split: str) -> Listing:
        table = self.folder.parent / TABLE
        entries = []
        for line, row in self._rows(table):
            where = f"{str(table)!r}, line {line}"
            if (row["split"], row["label"]) not in _KNOWN:
                raise DataError(f"{where}: no split and label of VisA: {row['split']!r}, {row['label']!r}; mend it")
            if row["split"] != split:
                continue
            picture = self._file(row["image"], where)
            if row["label"] == "normal":
                entries.append(Entry(picture, GOOD))
            else:
                entries.append(Entry(picture, "anomaly", (self._file(row["mask"], where),)))
        return Listing(entries)

    def _rows(self, table: Path) -> list[tuple[int, dict[str, str]]]:
        """The class's rows, with their lines."""
        mend = "take it from VisA's archive"
        try:
            with open(table, encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file, restval="")
                columns = set(reader.fieldnames or ())
                rows = [(reader.line_num, row) for row in reader if row.get("object") == self.name]
        except FileNotFoundError as problem:
            raise DataError(f"no {str(table)!r}, which says what trains and what tests; {mend}") from problem
        except (ValueError, csv.Error, OSError) as problem:
            raise DataError(f"cannot read {str(table)!r} ({problem}); {mend}") from problem
        if missing := {"object", "split", "label", "image", "mask"} - columns:
            raise DataError(f"{str(table)!r} has no column {', '.join(sorted(missing))}; {mend}")
        if not rows:
            raise DataError(f"{str(table)!r} has no row of class {self.name!r}; {mend}, or name others with --classes")
        return rows

    def _file(self, text: str, where: str) -> Path:
        path = PureWindowsPath(text)  # 两种分隔符与盘符都认
        if path.anchor or ".." in path.parts or path.parts[:1] != (self.name,):
            raise DataError(f"{where}: {text!r} is not below {str(self.folder)!r}; mend the row")
        file = self.folder.parent.joinpath(*path.parts)
        if not file.is_file():
            raise DataError(f"{where}: no file {str(file)!r}; put it there, or take the row out")
        return file

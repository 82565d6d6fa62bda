"""Where every file of a result folder lies; its lock; the arrays of a class's test set. Imports no torch.

结果文件夹里每个文件的位置；锁；一类测试集的数组。

Every file appears under its name only when it is complete, and what is there goes only when all that replaces it is
written (`system.files.Staged`). A pickle vouches for its JSON and its projection, the small arrays for a class's maps,
pictures and row of the results, and the left-out pictures for the scores in the JSON: these are removed first and
renamed last, so that what is there always belongs together.
"""

import csv
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiment.files.arrays import INTERVALS, LEFT_OUT, METRICS, SCORED, read_npz, write_npz
from experiment.files.records import LEVELS, is_results, is_studies, read_record
from system.errors import UserError
from system.files import TEXT, Staged, allocate, close, without_leftovers, write_json
from system.lock import lock


@dataclass(frozen=True)
class Store:
    """The files of one model below ``root`` (``--save_path``).

    Attributes
    ----------
    root : Path
    key : str
        The model's: the architecture for PaDiM.
    """

    root: Path
    key: str

    def fitted(self, name: str) -> Path:
        """The pickle of a fitted class."""
        return self.root / f"temp_{self.key}" / f"train_{name}.pkl"

    def maps(self, name: str) -> Path:
        """Raw maps, (N, H, W) float32."""
        return self.root / f"scores_{self.key}" / f"{name}_maps.npy"

    def pictures(self, name: str) -> Path:
        """Cropped pictures, (N, H, W, 3) uint8."""
        return self.root / f"scores_{self.key}" / f"{name}_images.npy"

    def arrays(self, name: str) -> Path:
        """The small arrays of a class's test set."""
        return self.root / f"scores_{self.key}" / f"{name}.npz"

    def left_out(self, name: str) -> Path:
        """The training pictures with the highest left-out scores."""
        # 不与得分放在一处：那里有一类叫 NAME_left_out 时，名字会相撞
        return self.root / f"temp_{self.key}" / f"train_{name}_left_out.npz"

    def figure(self, name: str, index: int) -> Path:
        """A localization figure."""
        return self.root / f"pictures_{self.key}" / f"{name}_{index}.png"

    @property
    def _lock(self) -> Path:
        return self.root / f".lock_{self.key}"

    @property
    def roc_curve(self) -> Path:
        """The ROC figure, both panels."""
        return self.root / f"roc_curve_{self.key}.png"

    @property
    def results(self) -> Path:
        """The results; the table lies beside it as CSV."""
        return self.root / f"results_{self.key}.json"

    @property
    def ablation(self) -> Path:
        """The studies."""
        return self.root / f"ablation_{self.key}.json"

    def written(self) -> list[tuple[str, Path]]:
        """What is there after a run, and where."""
        candidates = [
            ("training features", self.fitted("").parent),
            ("anomaly maps and scores", self.arrays("").parent),
            ("localization figures", self.figure("", 0).parent),
            ("ROC curves", self.roc_curve),
            ("results", self.results),
            ("results as a table", self.results.with_suffix(".csv")),
        ]
        return [(what, path) for what, path in candidates if path.exists()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only run that writes this model's files; what killed runs left behind is deleted.

        Raises
        ------
        UserError
            If another run is writing them.
        """
        places = [(p.parent, "") for p in (self.fitted(""), self.arrays(""), self.figure("", 0))]
        places += [(self.root, f"{kind}_{self.key}.") for kind in ("results", "roc_curve", "ablation")]
        with lock(self._lock, "give another --save_path"), without_leftovers(places):
            yield

    def check_there(self) -> None:
        """Raise UserError if the folder that `locked` holds was deleted or replaced meanwhile."""
        if not self._lock.exists():
            raise UserError(f"{str(self.root)!r} was deleted or replaced during the run; see --save_path")

    def holds(self, name: str) -> bool:
        """Whether something stands that was made of a class's Gaussians."""
        return any(path.exists() for path in (self.fitted(name), self.left_out(name), self.arrays(name)))

    def figures(self, name: str) -> list[Path]:
        """A class's localization figures that are there."""
        folder, own = self.figure(name, 0).parent, re.compile(re.escape(name) + r"_\d+\.png")
        return [path for path in folder.iterdir() if own.fullmatch(path.name)] if folder.is_dir() else []

    @contextmanager
    def score_files(
        self, name: str, shape: tuple[int, int, int], staged: Staged
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Path]]:
        """Maps (N, H, W) float32 and pictures (N, H, W, 3) uint8 to fill, and where the maps lie meanwhile."""
        with ExitStack() as open_:
            maps_path = open_.enter_context(staged.writing(self.maps(name)))
            pictures_path = open_.enter_context(staged.writing(self.pictures(name)))
            maps = allocate(maps_path, np.float32, shape)
            open_.callback(close, maps)  # Windows 不许改名仍映射着的文件
            pictures = allocate(pictures_path, np.uint8, (*shape, 3))
            open_.callback(close, pictures)
            yield maps, pictures, maps_path
            maps.flush()
            pictures.flush()

    def write_arrays(self, name: str, arrays: dict[str, Any], staged: Staged | None = None) -> None:
        """Write the small arrays; None becomes an empty array, which `read_arrays` undoes."""
        write_npz(self.arrays(name), arrays, staged)

    def read_arrays(self, name: str) -> dict[str, Any] | None:
        """The small arrays as written, or None where the class has none.

        Raises
        ------
        UserError
            If the file is damaged, or an array is not of its type and shape, or not finite.
        """
        return read_npz(self.arrays(name), SCORED, "delete it and score the class again")

    def write_left_out(self, name: str, arrays: dict[str, Any], staged: Staged | None = None) -> None:
        """Write the training pictures with the highest left-out scores, and every training picture's lot."""
        write_npz(self.left_out(name), arrays, staged)

    def read_left_out(self, name: str) -> dict[str, Any] | None:
        """Those pictures' ``files``, ``scores``, ``maps``, ``images``, the highest first; the ``lots`` of all of them.

        None where there are none.

        Raises
        ------
        UserError
            As by `read_arrays`.
        """
        return read_npz(self.left_out(name), LEFT_OUT, "delete it and run main.py --leave_out one again")

    def read_results(self) -> dict[str, Any] | None:
        """The results as written, or None where there are none; UserError where the file holds something else."""
        return read_record(self.results, is_results, "is no results file of this program; move it away")

    def read_studies(self) -> dict[str, Any] | None:
        """The studies as written, or None where there are none; UserError where the file holds something else."""
        return read_record(self.ablation, is_studies, "is no file of ablation.py, or is damaged; move it away")

    def write_results(self, results: dict, staged: Staged | None = None) -> None:
        """Write the results as JSON, and their rows as CSV."""
        columns = (*METRICS, "threshold", "image_threshold", "threshold_origin", "n_train", "n_test")
        nested = [(kind, level) for kind in ("published", "difference") for level in LEVELS]
        ends = [f"{key}_{end}" for key in INTERVALS for end in ("low", "high")]
        table = self.results.with_suffix(".csv")
        with Staged() if staged is None else nullcontext(staged) as files:
            write_json(self.results, results, files)
            with files.writing(table) as temporary, open(temporary, "w", newline="", **TEXT) as file:
                writer = csv.writer(file)
                writer.writerow(["class", *columns, "seconds", *map("_".join, nested), *ends])
                for name, row in results["classes"].items():
                    last = [(row[kind] or {}).get(level) for kind, level in nested]
                    last += [end for key in INTERVALS for end in row[key] or (None, None)]
                    writer.writerow([name, *(row.get(c) for c in columns), row["seconds"]["total"], *last])

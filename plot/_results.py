"""Reading a result folder for the plot scripts: every mistake is one line with its remedy.

供各绘图脚本读取结果文件夹；出错时一行，含补救的办法。
"""

import _root  # noqa: F401, I001

import argparse
import multiprocessing
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiment.files.gaussians import check_covariances, map_fitted
from experiment.files.records import is_fitted_record
from experiment.files.folder import Store
from experiment.methods import METHODS, place, split_key
from experiment.report.colours import Colours, colours_of, scale_of
from experiment.report.results import half_replaced
from experiment.report.style import arch_label, class_order
from experiment.report.threshold import class_thresholds
from system.errors import UserError
from system.files import read_json

# 缺了什么的方法，与说这件事的话
WITHOUT_MAPS = {name: "scores whole pictures and has no anomaly maps" for name, m in METHODS.items() if not m.has_maps}
NEITHER = "stores neither Gaussians nor left-out scores"
WITHOUT_GAUSSIANS = {name: NEITHER for name, method in METHODS.items() if not method.has_gaussians}
EVERY: Mapping[str, str] = {}
Which = Literal["scored", "left_out", "every"]


@dataclass(frozen=True)
class Results:
    """One model's results below one folder.

    Attributes
    ----------
    store : Store
    content : dict
        The results file.
    which : str
        Which classes are drawn: ``scored`` are those whose test pictures were scored, ``left_out`` those whose
        training pictures have left-out scores, ``every`` is for what needs the fit alone.
    """

    store: Store
    content: dict[str, Any]
    which: Which = "scored"

    @property
    def command(self) -> str:
        """What made these results."""
        return self.content["run"]["command"]

    @property
    def storing(self) -> str:
        """What makes them with the Gaussians beside, and where these are drawn with the left-out scores."""
        made = re.sub(r" --no_f\w*", "", self.command)  # --no_features，或其缩写
        return f"{made} --leave_out one" if self.which == "left_out" and "--leave_out" not in made else made

    @property
    def with_left_out(self) -> str:
        """What makes them with the left-out scores beside."""
        return replace(self, which="left_out").storing

    @cached_property
    def classes(self) -> list[str]:
        """The classes that are drawn, in the order of every figure."""
        return [n for n in class_order(self.content["classes"]) if self.which == "every" or self.scores(n).exists()]

    def scores(self, name: str) -> Path:
        """The file that a class has once it was scored."""
        return self.store.left_out(name) if self.which == "left_out" else self.store.arrays(name)

    def row(self, name: str) -> dict[str, Any]:
        """What the results file says of a class."""
        return self.content["classes"][name]

    def arrays(self, name: str) -> dict[str, Any]:
        """A class's small arrays."""
        path = self.store.arrays(name)
        try:
            arrays = self.store.read_arrays(name)
        except UserError as problem:
            raise self._unusable(path) from problem
        if arrays is None:
            raise self._unusable(path)
        return arrays

    def measured(self, curve: str, metric: str, what: str) -> dict[str, tuple[dict[str, Any], float]]:
        """The arrays and the metric of every class that has this curve; raises UserError where there is no ``what``."""
        found = {name: (self.arrays(name), self.row(name)[metric]) for name in self.classes}
        # 要有掩码与缺陷
        found = {n: (a, value) for n, (a, value) in found.items() if a[curve] is not None and value is not None}
        if not found:
            raise UserError(f"no class in {str(self.store.results)!r} has both masks and defects: no {what}")
        return found

    def left_out(self, name: str) -> tuple[list[float], list[float] | None, dict[str, Any]]:
        """The left-out scores of all of a class's training pictures, and the arrays of the most unusual ones.

        Between them the scores of pictures that were left out alone, where the first are of pictures left out by lots.
        """
        record, path = self.provenance(name), self.store.left_out(name)
        scores, alone = record["left_out_scores"], record["left_out_alone_scores"]
        try:
            unusual = self.store.read_left_out(name)
        except UserError as problem:
            raise self._not_stored(path) from problem
        if scores is None or unusual is None:
            raise UserError(f"{name} has no left-out scores below {str(path.parent)!r}; make them with: {self.storing}")
        if any(each is not None and len(each) != len(scores) for each in (alone, unusual["lots"])):  # 不是一次写的
            raise self._not_stored(path)
        return scores, alone, unusual

    def good_scores(self, name: str) -> list[float] | None:
        """The scores that a class's threshold comes from where no labels give one: validation or left-out ones."""
        return self._scores_of_good(name, "validation_scores") or self._scores_of_good(name, "left_out_scores")

    def alone_scores(self, name: str) -> list[float] | None:
        """What the left-out scores would be, had each picture been left out alone; None where each was."""
        return self._scores_of_good(name, "left_out_alone_scores")

    def _scores_of_good(self, name: str, key: str) -> list[float] | None:
        return self.provenance(name)[key] if self.store.fitted(name).with_suffix(".json").exists() else None

    def scale(self, name: str) -> str:
        """The scale of a class's heat maps where ``--colours`` is not given."""
        return scale_of(self.content, name)

    def colours(self, name: str, arrays: Mapping[str, Any], wanted: str | None) -> Colours:
        """The colours and the mask of a class's raw maps, given its small arrays and ``--colours``."""
        return colours_of(class_thresholds(self.store, name, arrays), wanted or self.scale(name))

    def pixels(self, name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Raw maps (N, H, W) and pictures (N, H, W, 3), mapped; N must be ``count``."""
        loaded = []
        for path in (self.store.maps(name), self.store.pictures(name)):
            try:
                # 映射文件：只读进要画的几张图
                loaded.append(np.load(path, mmap_mode="r"))
            except (FileNotFoundError, ValueError, EOFError):
                raise self._unusable(path) from None
            if len(loaded[-1]) != count:
                raise self._unusable(path)
        return loaded[0], loaded[1]

    def provenance(self, name: str) -> dict[str, Any]:
        """What a class's Gaussians were made from; for this their pickle need not be there."""
        path = self.store.fitted(name).with_suffix(".json")
        record = read_json(path)
        if not is_fitted_record(record):
            raise self._not_stored(path)
        return record

    def fitted(self, name: str) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """A class's mean (P, d), covariance (P, d, d), both mapped, and grid (H, W)."""
        record = self.provenance(name)
        grid = record["layers"][0]["height"], record["layers"][0]["width"]
        path = self.store.fitted(name)
        if not path.exists() or record["pickle_bytes"] != path.stat().st_size:  # 被截断，或不是一对
            raise self._not_stored(path)
        try:
            # 文件里按 (d, P)、(d, d, P) 存放，转置即得，不必复制
            return *map_fitted(path, grid[0] * grid[1], len(record["dimensions"])), grid
        except UserError as problem:
            raise UserError(f"{problem}; make it again with: {self.storing}") from problem

    def check(self, name: str, covariances: np.ndarray, first: int = 0) -> None:
        """Raise UserError unless these (n, d, d) of a class, from position ``first`` on, can be covariances."""
        try:
            check_covariances(self.store.fitted(name), covariances, first)
        except UserError as problem:
            raise UserError(f"{problem}; make it again with: {self.storing}") from problem

    def _not_stored(self, path: Path) -> UserError:
        return self._unusable(path, self.storing)

    def _unusable(self, path: Path, command: str | None = None) -> UserError:
        state = "is not what main.py writes, or is damaged" if path.exists() else "is not there"
        return UserError(f"{str(path)!r} {state}; make it with: {command or self.command}")


def architectures(root: Path, kind: str = "results") -> list[str]:
    """The keys of the models with ``results`` (or an ``ablation``) below ``root``, in the order of every figure."""
    return sorted((p.stem.removeprefix(f"{kind}_") for p in root.glob(f"{kind}_*.json")), key=place)


def open_results(
    root: Path, archs: Sequence[str] | None, lacking: Mapping[str, str] = EVERY, which: Which = "scored"
) -> list[Results]:
    """The results of these models, or of every one that has some.

    Parameters
    ----------
    root : Path
    archs : sequence of str, optional
        Models' keys; the order is kept.
    lacking : mapping
        The methods that do not have what is to be drawn, and the words for that: left out unless named.
    which : str
        As in `Results`.

    Raises
    ------
    UserError
        If there are none, or the file is foreign; the message names the command that makes them.
    """
    found, named = architectures(root), list(dict.fromkeys(archs or ()))
    drawable = [key for key in found if split_key(key)[0] not in lacking]
    for key in named or ([] if drawable else found):
        if why := lacking.get(split_key(key)[0]):
            others = f"give --arch {' or '.join(drawable)}" if drawable else f"make PaDiM's results with: {_make(root)}"
            raise UserError(f"{arch_label(key)} {why}; {others}")
    missing = [key for key in named if key not in found]
    if missing or not found:
        what = f"no results of {missing[0]}" if missing else "no results"
        demo = f"; results of the sample data are in {str(root / 'demo')!r}" if architectures(root / "demo") else ""
        raise UserError(f"{what} in {str(root)!r} (--result); make them with: {_make(root, *missing[:1])}{demo}")
    return [_open(root, key, which) for key in named or drawable]


def _make(root: Path, key: str = "wide_resnet50_2") -> str:
    """The command that makes a model's results."""
    method, arch = split_key(key)
    chosen = "" if method == "padim" else f"--method {method} "
    return f"python main.py {chosen}--arch {arch} --data_path FOLDER_OF_MVTEC_AD --save_path {root}"


def _open(root: Path, arch: str, which: Which) -> Results:
    store = Store(root, arch)
    if (content := store.read_results()) is None:
        raise UserError(f"{str(store.results)!r} was deleted meanwhile; see --result")
    results = Results(store, content, which)
    rows = content["classes"].values()
    if rows and not any(row["n_test"] for row in rows) and which == "scored":
        raise UserError(
            f"{str(store.results)!r} is of classes without test pictures, which this is drawn from: put some into "
            f"CLASS/test/good and CLASS/test/KIND_OF_DEFECT, then: {results.command}"
        )
    if not results.classes:
        of_training = f"left-out scores; make some with: {results.storing}"
        of_test = f"scored class yet; make some with: {results.command}"
        raise UserError(f"{str(store.results)!r} has no {of_training if which == 'left_out' else of_test}")
    note(half_replaced(content, store))
    return results


def chosen_classes(args: argparse.Namespace, *models: Results) -> list[str]:
    """The class of ``--class``, with ``--all`` every class of these models, else the first."""
    classes = class_order(name for each in models for name in each.classes)
    if args.all:
        return classes
    if args.name is None:
        return classes[:1]
    if not any(args.name in each.content["classes"] for each in models):  # 有而没有打分的，读取时会说明
        files = " or ".join(repr(str(each.store.results)) for each in models)
        raise UserError(f"no class {args.name!r} in {files}; there are {', '.join(classes)}")
    return [args.name]


def check_same_pictures(name: str, models: Sequence[Results], remedy: str | None = None) -> None:
    """Raise UserError unless these models were run on the same test pictures of a class, and a region of them."""
    for other in models[1:]:
        if any(other.row(name)[key] != models[0].row(name)[key] for key in ("test_files", "region")):
            both = " and ".join(repr(str(each.store.results)) for each in (models[0], other))
            option = "--arch" if other.store.root == models[0].store.root else "--result"
            remedy = remedy or f"leave one of them out with {option}"
            raise UserError(f"{both} are of different test pictures of {name}, or regions of them; {remedy}")


def score_range(arrays: dict[str, Any]) -> tuple[float, float]:
    """What a class's ``image_scores`` were normalised by: the raw maps' range, unless a method scores images itself."""
    low, high = (arrays.get(f"image_{key}", arrays[key]) for key in ("score_min", "score_max"))
    return low, high


def raw_scores(arrays: dict[str, Any]) -> np.ndarray:
    """A class's image scores (N,) as the method gave them; PaDiM's are on the scale of the left-out scores."""
    low, high = score_range(arrays)
    return low + arrays["image_scores"].astype(np.float64) * (high - low)


_said: set[str] = set()


def note(lines: Iterable[str]) -> None:
    """Say each line once, on standard error; of several processes the first does."""
    if multiprocessing.parent_process() is None:
        for line in {*lines} - _said:
            print(f"note: {line}", file=sys.stderr, flush=True)
            _said.add(line)

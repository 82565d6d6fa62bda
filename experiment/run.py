"""One run of the experiment: classes, data, the stored-or-fit decision, stages, resumption.

一次运行：类别、数据、用已存的还是重新拟合、各阶段、中断后接着做。
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from datasets.folder import FolderDataset, common_size
from datasets.preprocessing import Preprocessing
from experiment import results as report
from experiment.figures import Drawer, Drawings, chosen_figures, roc_figure
from experiment.images import Images, Part
from experiment.opening import begin, prepare_data
from experiment.options import options
from experiment.published import published
from experiment.ranks import SOLO, RankError, join
from experiment.saving import Saving, load_if_same
from experiment.score_files import ScoreFiles
from experiment.store import Store
from experiment.threshold import hold_out
from padim.apart import evaluate_apart
from padim.backbone import ARCHITECTURES, find_architecture
from padim.device import pick_device
from padim.metrics import evaluate_maps
from padim.model import PaDiM
from system.resources import peak_memory


@dataclass(frozen=True)
class Current:
    """The class at work.

    Attributes
    ----------
    name : str
    data : dict
        From `DataFolder.record`.
    fitted, held : list of int
        The training pictures to fit, and those to hold out for a threshold.
    watch : Stopwatch
    start, waited : float
        When the class began, and the seconds of communication before it.
    """

    name: str
    data: dict[str, Any]
    fitted: list[int]
    held: list[int]
    watch: report.Stopwatch
    start: float
    waited: float


class Run:
    """One run, as a context: once entered, all that can be checked beforehand is, and the folder is locked.

    Of several processes (`experiment.ranks`) each calls the same methods in the same order; the leader alone checks,
    writes and speaks.

    Parameters
    ----------
    args : argparse.Namespace
        From `experiment.options.experiment`.

    Attributes
    ----------
    model : PaDiM
    leads : bool
        Whether this process is the one that writes and speaks.
    add : callable or None
        Sums a tensor over several processes.

    Raises
    ------
    UserError
        On entering, for what the user must change; nothing is written then.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self._start, self._ranks, self._stack = args, time.perf_counter(), SOLO, ExitStack()
        self._saving: Saving | None = None
        self._drawings: Drawings | None = None

    def __enter__(self) -> "Run":
        with ExitStack() as stack:
            args, self._ranks = self.args, join()
            stack.push(self._ranks.speak_once)
            device = pick_device(args.device, self._ranks.local_rank, self._ranks.local_size)
            self._preprocessing = Preprocessing(args.resize, args.crop, args.protocol, args.seed)
            self._store = Store(args.save_path, args.arch)
            self._data, self._checked = self._ranks.agree(lambda: prepare_data(args, self._preprocessing, self._store))
            with self._ranks.leader_first():
                chosen = {"precision": args.precision, "layers": args.layers, "reduction": args.reduction}
                size = common_size(self._checked)
                self.model = PaDiM(args.arch, args.weights, args.rd, args.seed, device, size, **chosen)
            if self._ranks.size > 1:
                names = [self._data.file_names(name) for name in self._checked]
                self._ranks.check_same(names, self.model.weights_sha256, self.model.dimensions, device.type)
            opened = self._checked, self._data, self._store, self.model, self._ranks, stack
            content = self._ranks.agree(lambda: begin(args, *opened))
            own_layers = find_architecture(args.arch, args.layers) is ARCHITECTURES.get(args.arch)
            as_published = self._preprocessing.is_published and own_layers and args.reduction == "random"
            reference = published(self.model.is_imagenet and as_published, args.dataset)
            self._results = report.ResultsFile(self._store, content, reference, self.model.key, self._checked)
            self._drawer = Drawer()
            stack.push(self._settle)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *problem: Any) -> bool | None:
        return self._stack.__exit__(*problem)

    @property
    def leads(self) -> bool:
        return self._ranks.leads

    @property
    def add(self) -> Callable[[Tensor], Tensor] | None:
        return self._ranks.sum if self._ranks.size > 1 else None

    def classes(self) -> Iterator[str]:
        """The classes that are not finished yet."""
        left = [name for name in self._checked if not self._results.is_finished(name)]
        if self._ranks.size > 1 and left:
            self._say(f"{len(left)} classes on {self._ranks.size} processes: the images of each class are divided")
        for name in left:
            self._store.check_there()
            yield name

    def datasets(self, name: str) -> tuple[FolderDataset, FolderDataset]:
        """A class's training and test pictures; it is the class at work from here on."""
        watch, start, waited = report.Stopwatch(), time.perf_counter(), self._ranks.seconds
        train, test = self._data.train_and_test(name)
        with watch.stage("fingerprint"):
            data = self._ranks.agree(lambda: self._data.record(name))
        divided = None if test.is_labelled or self.args.no_features else hold_out(len(train), self.args.seed)
        fitted, held = divided or (list(range(len(train))), [])
        self._class = Current(name, data, fitted, held, watch, start, waited)
        return train, test

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A context whose seconds are kept in the class's row."""
        return self._class.watch.stage(name)

    def load_fitted(self) -> bool:
        """Whether the model has got stored Gaussians that are this run's: same configuration, same pictures."""
        now, path = self._class, self._store.fitted(self._class.name)
        state = "none"
        if not (self.args.no_features or self.args.refit):
            with self.stage("load"):
                state = load_if_same(self.model, path, self._made_from(), bool(now.held), self._ranks)
        if state == "loaded":
            self._say(f"{now.name}: using the stored features {path}")
            return True
        if state == "damaged" and self.leads:
            print(f"warning: {path} is damaged; fitting {now.name} again", file=sys.stderr)
        elif state == "other data":
            self._say(f"{now.name}: the training pictures have changed since {path} was made; fitting again")
        elif state == "no threshold":
            why = "no labelled test set any more; fitting again, to hold training pictures out for a threshold"
            self._say(f"{now.name}: {why}")
        if self.leads and not self.args.no_features:
            self._store.check_room(now.name, self.model.positions, len(self.model.dimensions))
        return False

    def _made_from(self) -> dict[str, Any]:
        return {"preprocessing": self._preprocessing.record(), "training_files": self._class.data["training_files"]}

    def batches(self, dataset: FolderDataset, split: str) -> Images:
        """This process's part of the pictures to fit (``train``) or to score (``test``)."""
        chosen = self._class.fitted if split == "train" else range(len(dataset))
        return self._images(dataset, split, chosen)

    def held_out(self, train: FolderDataset) -> Images | None:
        """Training pictures that are scored before they are fitted, where no labelled test set gives a threshold."""
        return self._images(train, "held out", self._class.held) if self._class.held else None

    def _images(self, dataset: FolderDataset, split: str, chosen: list[int] | range) -> Images:
        part = Part(dataset, [chosen[i] for i in self._ranks.share(len(chosen))])
        title = f"feature extraction | {split} | {self._class.name}"
        return Images(part, title, self.args.batch_size, self.args.num_workers, not self.leads)

    def save_fitted(self) -> None:
        """Store the fitted model; the writing goes on in the background."""
        held = self.model.held_out_scores
        scores = None if held is None else [score for part in self._ranks.gather(held) for score in part]
        if self.leads and not self.args.no_features:
            made_from = self._made_from() | {"held_out_scores": scores}
            self._saving = Saving(self.model, self._store.fitted(self._class.name), **made_from)

    def before_factors(self) -> None:
        """Wait until the covariances have been read for the pickle: scoring is about to write over them."""
        if self._saving:
            self._saving.wait_read()

    @contextmanager
    def score_files(self, test: FolderDataset) -> Iterator[ScoreFiles]:
        """What takes the test pictures' scores."""
        if self.leads and not len(test):
            self._store.clear_scores(self._class.name)
        shape = len(test), self.model.size, len(self.model.dimensions)
        with self.stage("score"), ScoreFiles(self._store, self._ranks, self._class.name, *shape) as files:
            yield files

    def finish(self, test: FolderDataset, files: ScoreFiles) -> None:
        """Evaluate the class, record its row, and have its figures drawn while the next class is computed."""
        with self.stage("save"):
            self._finish_saving()
        self.model.release()  # 评估不需要高斯，先让出内存
        if not self.leads:
            return
        now, arrays, row = self._class, dict[str, Any](), dict(report.UNSCORED)
        if len(test):
            with self.stage("evaluate"):
                arrays, row = self._evaluate(test, files)
        else:
            command = f"python predict.py --model {shlex.quote(str(self._store.fitted(now.name)))} PICTURES"
            how = "nothing is stored (--no_features)" if self.args.no_features else f"score others with: {command}"
            self._say(f"{now.name}: no test pictures, nothing is scored; {how}")
        seconds = now.watch.seconds
        if self._ranks.size > 1:
            seconds["communication"] = round(self._ranks.seconds - now.waited, 3)  # 含等待；分散在各阶段之内
        seconds["total"] = round(time.perf_counter() - now.start, 3)
        counts = {"n_train": len(now.fitted) + len(now.held), "n_test": len(test)}
        self._results.record(now.name, row | counts | {"seconds": seconds} | now.data)
        wanted = chosen_figures(len(test), self.args.figures)
        self._finish_drawings(self._drawer.draw(self._store, now.name, wanted, arrays))

    def _evaluate(self, test: FolderDataset, files: ScoreFiles) -> tuple[dict[str, Any], dict[str, Any]]:
        name = self._class.name
        maps = np.load(self._store.maps(name), mmap_mode="r")
        pixels = maps, test.labels, files.masks if test.has_masks else None
        arrays, row = evaluate_maps(*pixels)
        arrays |= {"files": np.array(test.names()), "kinds": np.array(test.kinds), "patches": files.centres}
        self._store.clear_pictures(name)
        self._store.write_arrays(name, arrays)
        return arrays, row | evaluate_apart(*pixels, test.kinds, test.APART)

    def report(self) -> None:
        """At the end: the ROC figure, the results, the table, the files, the verdict."""
        self._store.check_there()
        if self.leads:
            roc_figure(report.curves(self._results.content, self._store), self._store.roc_curve)  # 最后一类的图还在画
        self._finish_drawings(None)
        peak = sum(self._ranks.gather(peak_memory() or 0)) or None
        if not self.leads:
            return
        defaults = {name: option.default for name, option in options().items()}
        seconds = round(time.perf_counter() - self._start, 1)
        self._results.complete(vars(self.args), defaults, seconds=seconds, peak_memory_bytes=peak)
        print(report.ending(self._results.content, self._store.written(), self.args.weights == "random"))

    # 后台的工作

    def _say(self, message: str) -> None:
        if self.leads:
            print(message, flush=True)

    def _finish_saving(self) -> None:
        if self._saving:
            try:
                self._saving.finish()
            except Exception:  # 说一次就够；Ctrl-C 打断的等待不算等过：还要能放弃它
                self._saving = None
                raise
            self._saving = None

    def _finish_drawings(self, following: Drawings | None) -> None:
        """Wait for the previous class's figures; only then it is finished."""
        before, self._drawings = self._drawings, following
        if before is not None:
            before.finish()
            self._results.finish(before.name)

    def _settle(self, kind: type[BaseException] | None, problem: BaseException | None, _: TracebackType | None) -> None:
        """Bring what goes on in the background to its end; on Ctrl-C, or where another process has died, give it up."""
        try:
            # 已算完的类、已拟合的特征，不因后来的错误而作废
            if kind is None or (issubclass(kind, Exception) and not issubclass(kind, RankError)):
                try:
                    self._finish_saving()
                finally:
                    self._finish_drawings(None)
        finally:
            if self._saving:
                self._saving.abort()
            self._drawer.stop()
        if kind is None:
            self._ranks.leave()

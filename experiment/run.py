"""One run of the experiment: classes, data, the stored-or-fit decision, stages, resumption.

一次运行：类别、数据、用已存的还是重新拟合、各阶段、中断后接着做。

Nothing here imports torch at once: mistakes in the data are told, and pictures decoded, before it is there.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from datasets.check import common_size
from datasets.folder import FolderDataset
from datasets.region import fingerprint
from experiment.batches import Images, Part, decode_early
from experiment.checks import begin, check_data
from experiment.current import Current, Stopwatch
from experiment.evaluation import Evaluator
from experiment.files.folder import Store
from experiment.good_scores import GoodScores, left_out_by, outdated
from experiment.lots import OwnLots, remarks, to_leave_out
from experiment.methods import key_of
from experiment.models import build, is_as_published
from experiment.options import decoding_threads, defaults
from experiment.ranks import RankError, join
from experiment.report.published import published
from experiment.report.results import ResultsFile, curves, ending, remark
from experiment.saving import Saving, load_if_same, stored_record
from experiment.score_files import ScoreFiles
from system.command import importing
from system.files import Staged, check_room
from system.resources import peak_memory

if TYPE_CHECKING:
    from padim.model import PaDiM


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
    model : Pretrained

    Raises
    ------
    UserError
        On entering, for what the user must change; nothing is written then.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self._start = args, time.perf_counter()
        self._saving: Saving | None = None
        self._staged: list[Staged] = []  # 各类的；没有换上的，结束时删去

    def __enter__(self) -> "Run":
        with ExitStack() as stack:
            args, self._ranks = self.args, join()
            stack.push(self._ranks.speak_once)
            self._store = Store(args.save_path, key_of(args.method, args.arch))
            self._data, self._checked = self._ranks.agree(lambda: check_data(args, self._store))
            self._early = decode_early(args, self._data, self._checked, self._store)
            if self._early:
                stack.callback(self._early.close)
            with importing():  # 连带 torch、torchvision：装入之时，图片已在解码
                from padim.device import pick_device

                device = pick_device(args.device, self._ranks.local_rank, self._ranks.local_size)
                with self._ranks.leader_first():
                    self.model = build(args, device, common_size(self._checked), self._store)
            if self._ranks.size > 1:
                names = [self._data.file_names(name) for name in self._checked]
                self._ranks.check_same(names, self.model.weights_sha256, self.model.choices, device.type)
            content = self._ranks.agree(
                lambda: begin(args, self._checked, self._data, self._store, self.model, self._ranks, stack)
            )
            reference = published(self.model.is_imagenet and is_as_published(args), args.dataset)
            self._results = ResultsFile(self._store, content, reference, self._checked)
            self._evaluator = Evaluator(self._store, self._results, args.figures)
            stack.push(self._settle)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *problem: Any) -> bool | None:
        return self._stack.__exit__(*problem)

    @property
    def padim(self) -> "PaDiM":
        """The model, for what PaDiM alone has."""
        return cast("PaDiM", self.model)

    @property
    def together(self) -> dict[str, Any]:
        """What fitting is given where several processes fit one model."""
        ranks = self._ranks
        if ranks.size == 1:
            return {}
        return {"add": ranks.sum, "leads": ranks.leads} if self.args.method == "padim" else {"gather": ranks.gather}

    @property
    def waiting(self) -> dict[str, Any]:
        """What scoring is given while a pickle is written: factors overwrite covariances, which must be read first."""
        return {} if self._saving is None else {"before_factors": self._saving.wait_read}

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
        watch, waited = Stopwatch(), self._ranks.seconds
        train, test = self._data.train_and_test(name)
        with watch.stage("fingerprint"):
            data = self._ranks.agree(lambda: self._data.record(name))
        found = self._checked[name]
        self.model.region = found.region
        made_from = {"preprocessing": self._data.preprocessing.record(), "cut_off": found.cut_off}
        made_from["training_files"] = data["training_files"]
        data |= {"n_train": len(train), "remarks": [*found.remarks], "region": fingerprint(found.region)}
        stored = self._ranks.agree(lambda: stored_record(self._store.fitted(name)))
        scores = outdated(stored, found.region)
        again = left_out_by(stored) if stored and scores else None  # 另一区域里留出过的，重新留出
        self._class = Current(name, data, made_from, watch, waited, stored, scores, self.args.leave_out or again)
        if scores:
            self._class.staged.remove(self._store.left_out(name))
        if again and self.args.no_features:
            self._say(f"{name}: its left-out scores were of another region and go; --leave_out {again} makes new ones")
        if self._ranks.leads:
            self.remark(*self._data.repeated(name))
        self._staged.append(self._class.staged)
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
                state = load_if_same(self.padim, path, now.made_from, self._ranks)
        if state == "loaded":
            self._say(f"{now.name}: using the stored features {path}")
            return True
        if state == "damaged" and self._ranks.leads:
            print(f"warning: {path} is damaged; fitting {now.name} again", file=sys.stderr)
        elif state == "other data":
            self._say(f"{now.name}: the training pictures have changed since {path} was made; fitting again")
        if self._ranks.leads:
            another = "give another --save_path"
            if not self.args.no_features:
                # 那里若有别的拟合的 pickle，--no_features 不许与它并存
                check_room(path, self.model.state_bytes, another if path.exists() else f"{another}, or --no_features")
            scratch = self.model.scratch_bytes(now.data["n_train"]) * self._ranks.local_size
            check_room(self._store.root, scratch, another)
        return False

    def batches(self, dataset: FolderDataset, split: str, lots: OwnLots | None = None) -> Images:
        """This process's part of the pictures; ``split`` says in the progress bar what they are for."""
        begun = self._early.of(dataset) if self._early else dataset
        part = Part(begun, lots.pictures if lots else self._ranks.share(len(dataset)))
        title = f"feature extraction | {split} | {self._class.name}"
        threads = decoding_threads(self.args.num_workers, self.model.device.type)
        return Images(part, title, self.args.batch_size, threads, not self._ranks.leads)

    def save_fitted(self) -> None:
        """Store the fitted model; the writing goes on in the background."""
        if self._ranks.leads and not self.args.no_features:
            now = self._class
            staged = now.staged if self._store.holds(now.name) else None
            now.staged.remove(self._store.left_out(now.name))  # 是旧的高斯的
            self._saving = Saving(self.padim, self._store.fitted(now.name), staged, **now.made_from)

    def validation(self) -> FolderDataset | None:
        """Good pictures that train nothing, for a threshold; None where the data set has none, or nothing is stored."""
        pictures = self._data.split(self._class.name, "validation")
        return pictures if len(pictures) and not self.args.no_features else None

    def lots(self, train: FolderDataset, test: FolderDataset) -> OwnLots | None:
        """This process's part of the groups to leave out; None where there is no need, or their scores are stored."""
        if self.args.no_features:  # 得分无处可存
            return None
        now, path = self._class, self._store.left_out(self._class.name)
        is_new = self._ranks.agree(lambda: self._saving is not None)
        asked = self.args.leave_out if is_new else now.leave_out
        lots, words = to_leave_out(asked, now.name, train, self._data.split(now.name, "validation"), test)
        if lots and not is_new and self._ranks.agree(lambda: path.exists() and now.has_left_out(asked)):
            return None
        if words:
            self.remark(words, file=sys.stdout)
        return lots.share(self._ranks.rank, self._ranks.size) if lots else None

    @contextmanager
    def good_scores(self, pictures: FolderDataset, lots: OwnLots | None = None) -> Iterator[GoodScores]:
        """What takes the scores of good pictures: of training pictures left out in these groups, or of validation."""
        with self.stage("leave_out" if lots else "validation"):
            collected = GoodScores(lots.pictures if lots else self._ranks.share(len(pictures)))
            yield collected
            found = collected.gather(self._ranks)
        if self._ranks.leads:
            now = self._class
            now.scores.update(found.record(lots.all if lots else None))
            if lots:
                self._store.write_left_out(now.name, found.arrays(pictures.names(), lots.all), now.staged)
                self.remark(*remarks(lots.all, found.scores, found.alone, pictures.names()), file=sys.stdout)

    @contextmanager
    def score_files(self, test: FolderDataset) -> Iterator[ScoreFiles]:
        """What takes the test pictures' scores."""
        now = self._class
        files = ScoreFiles(self._store, self._ranks, now.name, len(test), self.model, now.staged)
        with self.stage("score"), files.filling():
            yield files

    def finish(self, test: FolderDataset, files: ScoreFiles) -> None:
        """Hand the class over: it is evaluated, recorded and drawn while the next one is computed."""
        now = self._class
        with self.stage("save"):
            record = self._finish_saving() or now.stored
        self.model.release()  # before the evaluation begins; 评估不需要高斯，先让出内存
        if not self._ranks.leads:
            return
        if self._ranks.size > 1:
            now.watch.seconds["communication"] = round(self._ranks.seconds - now.waited, 3)  # 含等待；分散在各阶段之内
        self._evaluator.hand_over(now, test, files, record and record | now.scores)

    def report(self) -> None:
        """At the end: the ROC figure, the results, the table, the files, the verdict."""
        self._store.check_there()
        from experiment.report.figures import roc_figure  # 连带 matplotlib：装入之时，最后一类在评估

        self._evaluator.finish_row()
        if self._ranks.leads:
            self._results.drop_earlier()
            # 此时最后一类的图还在画
            roc_figure(curves(self._results.content, self._store), self._store.roc_curve)
        self._evaluator.finish()
        peak = sum(self._ranks.gather(peak_memory() or 0)) or None
        if not self._ranks.leads:
            return
        self._results.complete(
            vars(self.args),
            defaults(),
            evaluation_wait_seconds=round(self._evaluator.waited, 3),
            seconds=round(time.perf_counter() - self._start, 1),
            peak_memory_bytes=peak,
        )
        print(ending(self._results.content, self._store))

    def remark(self, *lines: str, file: TextIO | None = None) -> None:
        """Tell what a user should know of the class at work, and keep that in its row."""
        for words in lines if self._ranks.leads else ():
            remark(self._class.name, words, file)
            self._class.data["remarks"].append(words)

    def _say(self, message: str) -> None:
        if self._ranks.leads:
            print(message, flush=True)

    def _finish_saving(self) -> dict[str, Any] | None:
        """Wait for the pickle, if one is being written; returns the content of its JSON."""
        record = None if self._saving is None else self._saving.finish()
        self._saving = None  # Ctrl-C 打断的等待不算等过：还要能放弃它
        return record

    def _settle(self, kind: type[BaseException] | None, *_: object) -> None:
        """Bring what goes on in the background to its end; on Ctrl-C, or where another process has died, give it up."""
        try:
            # 已算完的类、已拟合的特征，不因后来的错误而作废
            if kind is None or (issubclass(kind, Exception) and not issubclass(kind, RankError)):
                try:
                    self._finish_saving()
                finally:
                    self._evaluator.finish()
        finally:
            if self._saving:
                self._saving.abort()
            self._evaluator.stop()
            for staged in self._staged:
                staged.drop()
        if kind is None:
            self._ranks.leave()

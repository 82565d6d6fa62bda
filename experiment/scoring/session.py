"""One prediction: what predict.py opens and checks, the pictures it scores, the answers it gives.

一次预测：打开与检查什么，给哪些图片打分，给出什么回答。
"""

import argparse
import io
import shlex
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.pictures import NewPictures, Picture, arriving, find_others, find_pictures
from datasets.preprocessing import Preprocessing
from datasets.read_ahead import read_ahead
from experiment.files.records import NUMBER, matches
from experiment.files.region import from_text
from experiment.options import decoding_threads
from experiment.report.colours import colours_of
from experiment.report.drift import drift
from experiment.report.threshold import find_thresholds
from experiment.scoring.answers import BELOW, Answer, Scored, alone_in, answers, write_predictions
from experiment.scoring.maps import files_below
from padim import BLOCK
from padim.counts import inside
from system.command import importing
from system.errors import UserError
from system.files import check_writable

if TYPE_CHECKING:
    from experiment.scoring.onnx_model import ExportedModel
    from experiment.scoring.torch_model import StoredModel


STREAM = Path("-")  # 图片的名字来自标准输入
_SAME_SHARE = 0.02  # 被裁掉的份额相差不到这么多，算相同


class Prepared(NamedTuple):
    """A picture before it has a score: as prepared (H, W, 3) uint8, None where no figure is drawn.

    ``size`` is the width and height of the picture itself.
    """

    found: Picture
    size: tuple[int, int]
    picture: np.ndarray | None


class Scoring:
    """One prediction, as a context: once entered, all that can be checked beforehand is, and ``--out`` is locked.

    Parameters
    ----------
    args : argparse.Namespace
        From `experiment.options.prediction`.

    Attributes
    ----------
    unreadable : int
        Pictures that could not be read, so far; each is named as it comes.

    Raises
    ------
    UserError
        On entering, for what the user must change; nothing is written then.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.unreadable = args, 0
        self._waiting: deque[Prepared] = deque()  # 按序，等各自的异常图
        self._reading = 0.0  # 这一块里读图所用的秒数
        self._cut_off: set[float] = set()  # 各图被裁掉的份额
        self._decisions: Counter[str] = Counter()
        self._p_values: list[float] = []
        self._entries: list[dict[str, Any]] = []  # 总记录的各项；没有 --out 就不留

    def __enter__(self) -> "Scoring":
        args = self.args
        self._model = opened(args.model, args.device)
        record, self._threads = self._model.record, decoding_threads(args.num_workers, self._model.device_type)
        self._size: tuple[int, int] = tuple(record["size"])
        self._preprocessing = Preprocessing.from_record(record["preprocessing"])
        self._region = from_text(record["region"])
        self._thresholds = find_thresholds(args.model, record, args.threshold, args.percentile)
        self._colours = colours_of(self._thresholds, args.colours)
        own = {args.out / folder: what for folder, what in BELOW.items()} if args.out else {}
        self._groups: Iterable[list[Picture]]
        self._total = None
        if STREAM in args.pictures:
            if len(args.pictures) > 1:
                raise UserError("- takes names from standard input and stands alone; name the others there, too")
            names = sys.stdin if isinstance(sys.stdin, io.TextIOWrapper) else None
            self._groups = arriving(names, own)
        else:
            found = find_pictures(args.pictures, own)
            self._groups, self._total = [found], len(found)
        if args.out:
            check_writable(args.out)
        self._model.load(args.weights, args.batch_size, self._total or BLOCK)
        tell(f"{self._model.name}: threshold {_number(self._thresholds.decision)} ({self._thresholds.origin})")
        if self._total and (others := find_others(args.pictures, args.out)):
            tell(f"{len(others)} files, such as {str(others[0])!r}, are not read: convert pictures among them to PNG")
        with ExitStack() as stack:
            if args.out:
                stack.enter_context(alone_in(args.out))
            self._write = stack.enter_context(answers(args.out, args.json))
            self._draws = args.figures == "all"
            self._files = None
            if self._draws or args.maps:
                below = files_below(args.out, self._size, self._preprocessing, self._colours, self._draws, args.maps)
                self._files = stack.enter_context(below)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *problem: Any) -> bool | None:
        return self._stack.__exit__(*problem)

    def score(self) -> Iterator[list[Scored]]:
        """The pictures that can be read with their scores, block by block, in order; a progress bar."""
        # 屏幕上逐行出现的结果本身就是进度；还会来多少张也不知道的，没有进度可言
        is_silent = self._total is None or (self.args.out is None and sys.stdout.isatty())
        with tqdm(total=self._total, desc=f"scoring | {self._model.name}", unit="image", disable=is_silent) as bar:
            for group in self._groups:
                yield from self._score(group, bar)

    def _score(self, group: list[Picture], bar: tqdm) -> Iterator[list[Scored]]:
        start, self._reading = perf_counter(), 0.0
        for scores in self._model.score(self._batches(group, bar)):
            seconds = (perf_counter() - start - self._reading) / len(scores.maps)  # 读图的时间不算
            waiting = [self._waiting.popleft() for _ in scores.maps]
            if not np.isfinite(inside(scores.maps, self._region)).all():
                raise UserError(
                    f"an anomaly map near {str(waiting[0].found.file)!r} is not finite: the weights hold NaN "
                    "or are far out of scale; fit with other --weights"
                )
            found = zip(waiting, scores.maps, scores.image_scores, strict=True)
            yield [Scored(*one, raw, score, seconds) for one, raw, score in found]
            start, self._reading = perf_counter(), 0.0

    def take(self, block: list[Scored]) -> None:
        """Answer for a block of pictures: a row or a line each, and on request figures, maps and masks."""
        answered = [self._answer(one) for one in block]
        self._write(answered)
        if self._files:
            self._files(block)
        self._decisions.update(answer.decision for answer in answered)
        self._p_values += [answer.p_value for answer in answered if answer.p_value is not None]
        if self.args.out:
            self._entries += [answer.entry() for answer in answered]

    def report(self) -> None:
        """At the end: the record of all, how many were decided how, how they score, and what was written."""
        out, counts = self.args.out, self._decisions
        if self._entries:
            model = self._model
            write_predictions(out, self.args.model, model.name, model.record, self._thresholds, self._entries)
        decided = (
            "no decision without a threshold" if counts[""] else f"{counts['defect']} defect, {counts['good']} good"
        )
        tell(f"{counts.total()} pictures scored: {decided}" if counts else "no picture could be scored")
        if changed := drift(self._p_values, len(self._thresholds.good or ())):
            tell(changed.sentence)
        self._compare_crops()
        if self._entries:
            tell(f"wrote predictions: {out / 'predictions.csv'}")
            if self.args.json:
                tell(f"wrote predictions with regions: {out / 'predictions.jsonl'}")
            if self._draws:
                tell(f"wrote localization figures: {out / 'pictures'}")
            if self.args.maps:
                tell(f"wrote raw maps: {out / 'maps'}")
                masks = f"wrote masks: {out / 'masks'}"
                tell("no masks without a threshold" if self._colours.threshold is None else masks)
            tell(f"to look at them: python plot/results_page.py --result {shlex.quote(str(out))}")

    def _compare_crops(self) -> None:
        """Tell where the crop cuts off another share of new pictures than of the training pictures."""
        trained: Any = self._model.record.get("cut_off")
        if not (matches(trained, [NUMBER]) and len(trained) == 2 and self._cut_off):
            return
        least, most = min(self._cut_off), max(self._cut_off)
        if least < trained[0] - _SAME_SHARE or most > trained[1] + _SAME_SHARE:
            tell(
                f"the crop cuts off {_percent(least, most)} % of these pictures' area, and {_percent(*trained)} % of "
                "the training pictures': they show another part; give pictures of the same shape, or fit with --crop 0"
            )

    def _answer(self, one: Scored) -> Answer:
        thresholds, regions = self._thresholds, None
        if self.args.json:
            from experiment.scoring.defects import find_defects  # 连带 skimage：只有 --json 才等它

            if (mask := self._colours.mask(one.raw)) is not None:
                regions = find_defects(one.raw, mask, self._preprocessing, one.size)
        decision, rarity = thresholds.decide(one.score), thresholds.p_value(float(one.score))
        figure = (Path("pictures") / one.found.figure).as_posix() if self._draws else None
        file, seconds = str(one.found.file), one.seconds
        return Answer(file, one.score, thresholds.decision, decision, rarity, seconds, regions, figure)

    def _batches(self, group: list[Picture], bar: tqdm) -> Iterator[np.ndarray]:
        """Prepared pictures (B, H, W, 3) uint8; what of each its answer needs waits until its score comes."""
        start = perf_counter()
        for items in self._readable(group, bar):
            self._waiting += items if self._draws else [one._replace(picture=None) for one in items]
            self._cut_off.update(self._preprocessing.cut_off(one.size) for one in items)
            batch = np.array([one.picture for one in items])  # (B, H, W, 3)
            self._reading += perf_counter() - start
            yield batch
            start = perf_counter()
        self._reading += perf_counter() - start

    def _readable(self, group: list[Picture], bar: tqdm) -> Iterator[list[Prepared]]:
        """Batches of the pictures that can be read; the others are named."""
        pictures = NewPictures([picture.file for picture in group], self._preprocessing, self._size)
        threads = min(self._threads, len(group) - 1)  # 只来了一张，不必为它起线程
        with closing(read_ahead(pictures, self.args.batch_size, threads)) as ahead:
            for items in ahead:
                usable = []
                for picture, index, is_readable, size in items:
                    if is_readable:
                        usable.append(Prepared(group[int(index)], tuple(size.tolist()), picture))
                    else:
                        self.unreadable += 1
                        tqdm.write(f"error: {pictures.problems.pop(int(index))}", file=sys.stderr)
                if usable:
                    yield usable
                bar.update(len(items))


def opened(path: Path, device: str) -> "ExportedModel | StoredModel":
    """What is to score: only the stored features import torch.

    Raises
    ------
    UserError
        For stored features where there is no PyTorch; else as the model's own class.
    """
    if path.suffix.lower() == ".onnx":
        from experiment.scoring.onnx_model import ExportedModel

        return ExportedModel(path, device)
    if find_spec("torch") is None:
        raise UserError(
            f"--model {str(path)!r} is no exported model (.onnx), and stored features need PyTorch, which is not "
            "installed: python -m pip install -r requirements.txt, or give what export.py made of them"
        )
    with importing():
        from experiment.scoring.torch_model import StoredModel

    return StoredModel(path, device)


def tell(message: str) -> None:
    """Say something that is no result: on standard error."""
    print(message, file=sys.stderr, flush=True)


def _percent(least: float, most: float) -> str:
    """Shares as percent, one or two of them."""
    low, high = f"{100 * least:.0f}", f"{100 * most:.0f}"
    return low if low == high else f"{low} to {high}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"

"""Score new pictures with the features that main.py stored: a CSV row, and on request a figure, for each.

用 main.py 存下的特征给新图片打分：每张一行 CSV，可附定位图。

Rows ``file,score,decision,p_value`` go to standard output, with --out DIR to DIR/predictions.csv, and with what they
were made from to DIR/predictions.json; progress and messages go to standard error. A picture that cannot be read is
named there, the others go on, and the exit status is 2.
"""

import csv
import os
import shlex
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from experiment import options
from system import command
from system.errors import FULL, UserError
from system.files import without_leftovers
from system.lock import lock
from system.resources import cores

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    import torch

    from datasets.pictures import NewPictures
    from experiment.threshold import Thresholds


def predict(args: "Namespace", unreadable: list[int]) -> None:
    """Score the pictures.

    Parameters
    ----------
    args : argparse.Namespace
        From `experiment.options.prediction`.
    unreadable : list of int
        Gets the numbers of the pictures that cannot be read, as soon as that is said.

    Raises
    ------
    UserError
        For what the user must change.
    """
    import numpy as np

    from datasets.pictures import NewPictures, find_pictures
    from datasets.preprocessing import Preprocessing, to_pictures
    from experiment import memory
    from experiment.fitted import DamagedError
    from experiment.predictions import Predicted, predictions_of, write_predictions
    from experiment.records import read_fitted_record
    from experiment.saving import load, model_of
    from experiment.store import Store
    from experiment.threshold import find_thresholds
    from padim.device import pick_device
    from padim.extraction import BLOCK

    # 先查后做：能预先发现的错误都在写任何东西之前报出
    device = pick_device(args.device)
    record = read_fitted_record(args.model)
    name = args.model.stem.removeprefix("train_")
    preprocessing = Preprocessing.from_record(record["preprocessing"])
    thresholds = find_thresholds(args.model, record, args.threshold, args.percentile)
    found = find_pictures(args.pictures, args.out / "pictures" if args.out else None)
    if args.out:
        Store(args.out, record["arch"]).check_writable()
    if record["precision"] == "tf32" and device.type != "cuda":
        raise UserError(f"{str(args.model)!r} was made with --precision tf32, which needs a GPU; see --device")
    model = model_of(record, args.weights or record["weights"], device)
    count = min(len(found), BLOCK)
    memory.check(model, name, args.batch_size, 0, count, evaluated=False, remedy="a smaller --batch_size")
    try:
        load(model, args.model)
    except DamagedError as problem:
        raise UserError(f"{problem}; fit again with --refit") from problem
    tell(f"{name}: threshold {_number(thresholds.decision)} ({thresholds.origin})")

    drawing, threads = args.figures == "all", options.decoding_threads(args.num_workers, device.type)
    pictures = NewPictures([picture.file for picture in found], preprocessing, model.size)
    waiting: deque = deque()  # (下标, 供作图的 uint8 图片或 None)，按序，等各自的异常图

    def images() -> "Iterator[torch.Tensor]":
        for batch, indices in readable(pictures, name, args, threads, unreadable):
            shown = to_pictures(batch.numpy()) if drawing else [None] * len(batch)
            waiting.extend(zip(indices, shown, strict=True))
            yield batch

    predicted: list[Predicted] = []
    with ExitStack() as stack:
        if args.out:
            stack.enter_context(alone_in(args.out))
            predictions_of(args.out).unlink(missing_ok=True)  # 是从前的图片的
        write = stack.enter_context(table(args.out))
        draw = stack.enter_context(figures(args.out, model.size, thresholds)) if drawing else None
        for scores in model.score(images()):
            block = [waiting.popleft() for _ in scores.maps]
            if not np.isfinite(scores.maps).all():
                raise UserError(
                    f"an anomaly map near {str(found[block[0][0]].file)!r} is not finite: the weights hold NaN or are "
                    "far out of scale; fit with other --weights"
                )
            for (index, _), score in zip(block, scores.image_scores, strict=True):
                decision, rarity = thresholds.decide(score), thresholds.p_value(float(score))
                write(found[index].file, score, decision, "" if rarity is None else f"{rarity:.4g}")
                figure = (Path("pictures") / found[index].figure).as_posix() if drawing else None
                predicted.append(Predicted(str(found[index].file), float(score), decision, rarity, figure))
            write()
            if draw:
                draw([(found[i].figure, shown, m) for (i, shown), m in zip(block, scores.maps, strict=True)])
        if args.out and predicted:
            write_predictions(args.out, args.model, record, thresholds, predicted)
    counts = Counter(each.decision for each in predicted)
    decided = "no decision without a threshold" if counts[""] else f"{counts['defect']} defect, {counts['good']} good"
    tell(f"{len(predicted)} pictures scored: {decided}" if predicted else "no picture could be scored")
    if args.out:
        tell(f"wrote predictions: {args.out / 'predictions.csv'}")
    if args.out and predicted:
        if drawing:
            tell(f"wrote localization figures: {args.out / 'pictures'}")
        tell(f"to look at them: python plot/results_page.py --result {shlex.quote(str(args.out))}")


def readable(
    pictures: "NewPictures", name: str, args: "Namespace", threads: int, unreadable: list[int]
) -> "Iterator[tuple[torch.Tensor, list[int]]]":
    """Batches of the pictures that can be read, with their indices; the others are named. A progress bar."""
    from tqdm import tqdm

    from datasets.loader import batches

    on_screen = args.out is None and sys.stdout.isatty()  # 屏幕上逐行出现的结果本身就是进度
    with tqdm(total=len(pictures), desc=f"scoring | {name}", unit="image", disable=on_screen) as bar:
        for batch, indices, good in batches(pictures, args.batch_size, threads):
            for index in indices[~good].tolist():
                unreadable.append(index)
                tqdm.write(f"error: {pictures.problems.pop(index)}", file=sys.stderr)
            yield batch[good], indices[good].tolist()
            bar.update(len(batch))


@contextmanager
def table(out: Path | None) -> Iterator[Callable[..., None]]:
    """A function that writes a row, or without arguments hands on what is written."""
    path = out / "predictions.csv" if out else None
    file = open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") if path else sys.stdout  # noqa: SIM115
    writer = csv.writer(file, lineterminator="\n")

    @contextmanager
    def named() -> Iterator[None]:  # 写入的错误不带文件名
        try:
            yield
        except OSError as problem:
            problem.filename = path and str(path)
            raise

    def write(*row: object) -> None:
        with named():
            writer.writerow(row) if row else file.flush()

    try:
        write("file", "score", "decision", "p_value")
        yield write
        write()
        with named():
            file.close() if path else None
    finally:
        with suppress(OSError):  # 写不下的，已经说了
            file.close() if path else None


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Be the only one that writes to ``out``; what killed predictions left below ``pictures`` is deleted."""
    with lock(out / ".lock_predict", "give another --out"):
        places = [(out, "predictions."), *((Path(place), "") for place, _, _ in os.walk(out / "pictures"))]
        with without_leftovers(places):
            yield


@contextmanager
def figures(
    out: Path, size: tuple[int, int], thresholds: "Thresholds"
) -> "Iterator[Callable[[list[tuple[Path, np.ndarray, np.ndarray]]], object]]":
    """A function that draws a block of (name, picture (H, W, 3) uint8, raw map (H, W)) below ``out/pictures``."""
    import numpy as np

    from experiment.figures import canvas_for, save_picture
    from padim.metrics import normalise

    canvas, scale = canvas_for(*size), (thresholds.low, thresholds.high)
    pixel = None if thresholds.pixel is None else float(normalise(np.float64(thresholds.pixel), *scale))

    def one(job: "tuple[Path, np.ndarray, np.ndarray]") -> None:
        name, picture, raw = job
        save_picture(canvas.draw(picture, None, normalise(raw, *scale), pixel), out / "pictures" / name)

    # 画布只画一次，此后只是数组运算与压缩：线程就够
    with ThreadPoolExecutor(cores()) as pool:
        yield lambda block: list(pool.map(one, block))


def tell(message: str) -> None:
    """Say something that is no result."""
    print(message, file=sys.stderr, flush=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _discard_stdout() -> None:
    """Let what could not be written go: the interpreter would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options.prediction(argv, __doc__ or "")
    unreadable: list[int] = []

    def work() -> int:
        if (sys.stdout.encoding or "").lower() == "utf-8" and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="surrogateescape")  # 文件名原样写出，管道另一头才找得到文件
        try:
            predict(args, unreadable)
        except BrokenPipeError:  # 读者走了（| head）：安静地结束
            _discard_stdout()
        except OSError as problem:
            where = repr(problem.filename or str(args.out)) if problem.filename or args.out else "standard output"
            if not (problem.filename or args.out):
                _discard_stdout()
            remedy = "make room, or give another --out" if problem.errno in FULL else "see --out and --model"
            raise UserError(f"{where}: {problem.strerror or problem}; {remedy}") from problem
        return 2 if unreadable else 0

    return command.run(work, "interrupted; the rows written so far are complete")


if __name__ == "__main__":
    sys.exit(main())

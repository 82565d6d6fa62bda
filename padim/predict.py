"""Score new pictures with the features that main.py stored: a CSV row, and on request a figure, for each.

Rows ``file,score,decision`` go to standard output, with --out DIR to DIR/predictions.csv; progress and
messages go to standard error. A picture that cannot be read is named there, the others go on, and the
exit status is 2.
"""

import argparse
import csv
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim.command import Parser, at_least, leave, load, run

if TYPE_CHECKING:
    import numpy as np
    import torch

    from datasets.pictures import NewPictures
    from padim.threshold import Thresholds


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with every default resolved."""

    def number(low: float, high: float, name: str) -> Any:
        def parsed(text: str) -> float:
            if not low <= float(text) <= high:
                raise ValueError
            return float(text)

        parsed.__name__ = name
        return parsed

    workers = max(1, min(8, (os.cpu_count() or 1) - 1))
    parser = Parser(prog="python -m padim.predict", description=__doc__)
    add = parser.add_argument
    add("pictures", nargs="+", type=Path, metavar="PICTURE_OR_FOLDER", help="folders with all folders below them")
    add("--model", type=Path, required=True, metavar="PKL", help="mvtec_result/temp_ARCH/train_CLASS.pkl")
    add("--out", type=Path, metavar="DIR", help="predictions.csv and pictures/ go there (default: rows on stdout)")
    score = number(-sys.float_info.max, sys.float_info.max, "number")
    add("--threshold", type=score, help="scores from here on are defects (default: the stored one)")
    percentile = number(0, 100, "percentile (0 to 100)")
    add("--percentile", type=percentile, help="of the held-out training scores, as threshold (default 99)")
    add("--figures", choices=["all", "none"], help="localization figures (default all with --out, else none)")
    add("--weights", help="as given to main.py (default: as recorded)")
    add("--batch_size", type=at_least(1), default=32, help="images a forward pass (default 32)")
    add("--num_workers", type=at_least(0), default=workers, help="decoding threads (default %(default)s)")
    add("--device", default="auto", help="auto (default: CUDA if there is one), cpu, cuda or cuda:N")
    args = parser.parse_args(argv)
    if args.figures == "all" and args.out is None:
        parser.error("--figures all needs a folder for them; give --out")
    if args.threshold is not None and args.percentile is not None:
        parser.error("--threshold and --percentile exclude each other; leave out one of them")
    args.figures = args.figures or ("all" if args.out else "none")
    return args


def predict(args: argparse.Namespace, unreadable: list[int]) -> None:
    """Score the pictures; the mistakes are raised as the modules' own errors.

    ``unreadable`` gets the numbers of the pictures that cannot be read, as soon as that is said.
    """
    import numpy as np

    from datasets.pictures import NewPictures, find_pictures
    from datasets.preprocessing import Preprocessing, to_pictures
    from padim import memory
    from padim.device import DeviceError, pick_device
    from padim.metrics import NotFiniteError
    from padim.model import BLOCK, PaDiM
    from padim.provenance import read_record
    from padim.store import DamagedError, Store, StoreError
    from padim.threshold import find_thresholds

    # 先查后做：能预先发现的错误都在写任何东西之前报出
    record = read_record(args.model)
    name = args.model.stem.removeprefix("train_")
    preprocessing = Preprocessing.from_record(record["preprocessing"])
    thresholds = find_thresholds(args.model, record, args.threshold, args.percentile)
    found = find_pictures(args.pictures, args.out / "pictures" if args.out else None)
    if args.out:
        Store(args.out, record["arch"]).check_writable()
    device = pick_device(args.device)
    if record["precision"] == "tf32" and device.type != "cuda":
        raise DeviceError(f"{str(args.model)!r} was made with --precision tf32, which needs a GPU; see --device")
    model = PaDiM.from_record(record, args.weights or record.get("weights", "imagenet"), device)
    memory.check(model, name, args.batch_size, 0, min(len(found), BLOCK), fitted=True)
    try:
        model.load(args.model)
    except DamagedError as problem:
        raise StoreError(f"{problem}; fit again with --refit") from problem
    tell(f"{name}: threshold {_number(thresholds.decision)} ({thresholds.origin})")

    drawing = args.figures == "all"
    pictures = NewPictures([picture.file for picture in found], preprocessing, model.size)
    waiting: deque = deque()  # (下标, 供作图的 uint8 图片或 None)，按序，等各自的异常图

    def images() -> "Iterator[torch.Tensor]":
        for batch, indices in readable(pictures, name, args, unreadable):
            waiting.extend(zip(indices, to_pictures(batch) if drawing else [None] * len(batch), strict=True))
            yield batch

    counts = {"defect": 0, "good": 0, "": 0}
    with ExitStack() as stack:
        if args.out:
            stack.enter_context(alone_in(args.out))
        write = stack.enter_context(table(args.out))
        draw = stack.enter_context(figures(args.out, model.size, thresholds)) if drawing else None
        for scores in model.score(images()):
            block = [waiting.popleft() for _ in scores.maps]
            if not np.isfinite(scores.maps).all():
                raise NotFiniteError(f"an anomaly map near {str(found[block[0][0]].file)!r} is not finite")
            for (index, _), score in zip(block, scores.maps.max(axis=(1, 2)), strict=True):
                decision = thresholds.decide(score)
                counts[decision] += 1
                write(found[index].file, score, decision)
            write()
            if draw:
                draw([(found[i].figure, shown, m) for (i, shown), m in zip(block, scores.maps, strict=True)])
    scored = sum(counts.values())
    decided = "no decision without a threshold" if counts[""] else f"{counts['defect']} defect, {counts['good']} good"
    tell(f"{scored} pictures scored: {decided}" if scored else "no picture could be scored")
    if args.out:
        tell(f"wrote predictions: {args.out / 'predictions.csv'}")
    if drawing and scored:
        tell(f"wrote localization figures: {args.out / 'pictures'}")


def readable(
    pictures: "NewPictures", name: str, args: argparse.Namespace, unreadable: list[int]
) -> "Iterator[tuple[torch.Tensor, list[int]]]":
    """Batches of the pictures that can be read, with their indices; the others are named. A progress bar."""
    from tqdm import tqdm

    from datasets.loader import batches

    on_screen = args.out is None and sys.stdout.isatty()  # 屏幕上逐行出现的结果本身就是进度
    with tqdm(total=len(pictures), desc=f"scoring | {name}", unit="image", disable=on_screen) as bar:
        for batch, indices, good in batches(pictures, args.batch_size, args.num_workers):
            for index in indices[~good].tolist():
                unreadable.append(index)
                tqdm.write(f"error: {pictures.problems.pop(index)}", file=sys.stderr)
            yield batch[good], indices[good].tolist()
            bar.update(len(batch))


@contextmanager
def table(out: Path | None) -> Iterator[Callable[..., None]]:
    """A function that writes a row ``file, score, decision``, or without arguments hands on what is written."""
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
        write("file", "score", "decision")
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
    from padim import files
    from padim.store import StoreError

    try:
        with files.lock(out / ".lock_predict"):
            places = [(Path(place), "") for place, _, _ in os.walk(out / "pictures")]
            with files.without_leftovers(places):
                yield
    except files.LockedError as problem:
        raise StoreError(f"{problem}; wait until it has ended, or give another --out") from problem


@contextmanager
def figures(
    out: Path, size: tuple[int, int], thresholds: "Thresholds"
) -> "Iterator[Callable[[list[tuple[Path, np.ndarray, np.ndarray]]], None]]":
    """A function that draws a block of (name, picture (H, W, 3) uint8, raw map (H, W)) below ``out/pictures``."""
    from PIL import Image

    from padim.figures import LocalizationCanvas
    from padim.metrics import normalise
    from padim.store import replacing

    canvas, scale = LocalizationCanvas(*size), (thresholds.low, thresholds.high)
    pixel = None if thresholds.pixel is None else float(normalise(thresholds.pixel, *scale))

    def one(job: "tuple[Path, np.ndarray, np.ndarray]") -> None:
        name, picture, raw = job
        figure = canvas.draw(picture, None, normalise(raw, *scale), pixel)
        with replacing(out / "pictures" / name) as temporary:
            Image.fromarray(figure).save(temporary, format="png", compress_level=3)

    # 画布只画一次，此后只是数组运算与压缩：线程就够
    with ThreadPoolExecutor() as pool:
        yield lambda block: list(pool.map(one, block))


def tell(message: str) -> None:
    """Say something that is no result."""
    print(message, file=sys.stderr, flush=True)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _discard_stdout() -> None:
    """Let what could not be written go: the interpreter would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args, unreadable = parse(argv), []

    def work() -> None:
        from padim.files import FULL
        from padim.store import StoreError

        if (sys.stdout.encoding or "").lower() == "utf-8" and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="surrogateescape")  # 文件名原样写出，管道另一头才找得到文件
        try:
            load("torchvision")
            predict(args, unreadable)
        except BrokenPipeError:  # 读者走了（| head）：安静地结束
            _discard_stdout()
        except OSError as problem:
            where = repr(problem.filename or str(args.out)) if problem.filename or args.out else "standard output"
            if not (problem.filename or args.out):
                _discard_stdout()
            remedy = "make room, or give another --out" if problem.errno in FULL else "see --out and --model"
            raise StoreError(f"{where}: {problem.strerror or problem}; {remedy}") from problem

    return run(work, "interrupted; the rows written so far are complete") or (2 if unreadable else 0)


if __name__ == "__main__":
    leave(main())

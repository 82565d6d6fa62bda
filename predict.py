"""Score new pictures with what main.py stored or export.py wrote: a row or JSON for each, on request a figure.

用 main.py 存下的特征或 export.py 导出的模型给新图片打分：每张一行 CSV 或 JSON，可附定位图。

Rows ``file,score,decision,p_value`` go to standard output, with --out DIR to DIR/predictions.csv, and with what they
were made from to DIR/predictions.json; progress and messages go to standard error. A picture that cannot be read is
named there, the others go on, and the exit status is 2. An exported model (….onnx) needs no PyTorch.
"""

import os
import shlex
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from experiment import options
from system import command
from system.errors import FULL, UserError

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np

    from datasets.pictures import NewPictures
    from experiment.scoring.onnx_model import Exported
    from experiment.scoring.torch_model import Stored


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
    from datasets.preprocessing import Preprocessing
    from experiment.files.folder import Store
    from experiment.report.threshold import find_thresholds
    from experiment.scoring.answers import Answer, alone_in, answers
    from experiment.scoring.predictions import Predicted, predictions_of, write_predictions

    # 先查后做：能预先发现的错误都在写任何东西之前报出
    model = opened(args.model, args.device)
    record, (height, width) = model.record, model.record["size"]
    preprocessing = Preprocessing.from_record(record["preprocessing"])
    thresholds = find_thresholds(args.model, record, args.threshold, args.percentile)
    found = find_pictures(args.pictures, args.out / "pictures" if args.out else None)
    if args.out:
        Store(args.out, record["arch"]).check_writable()
    model.load(args.weights, args.batch_size, len(found))
    tell(f"{model.name}: threshold {_number(thresholds.decision)} ({thresholds.origin})")
    if drawing := args.figures == "all":
        from experiment.report.figures import drawn_below
    if args.json:
        from experiment.scoring.regions import find_regions

    threads = options.decoding_threads(args.num_workers, model.device_type)
    pictures = NewPictures([picture.file for picture in found], preprocessing, (height, width))
    waiting: deque = deque()  # (下标, 供作图的图片或 None, 原图的宽高)，按序，等各自的异常图
    reading = 0.0

    def batches() -> "Iterator[np.ndarray]":
        nonlocal reading
        start = perf_counter()
        for items in readable(pictures, model.name, args, threads, unreadable):
            waiting.extend(
                (index, picture if drawing else None, tuple(size.tolist())) for picture, index, _, size in items
            )
            batch = np.stack([picture for picture, *_ in items])  # (B, H, W, 3)
            reading += perf_counter() - start
            yield batch
            start = perf_counter()
        reading += perf_counter() - start

    predicted: list[Predicted] = []
    with ExitStack() as stack:
        if args.out:
            stack.enter_context(alone_in(args.out))
            predictions_of(args.out).unlink(missing_ok=True)  # 是从前的图片的
        write = stack.enter_context(answers(args.out, args.json))
        draw = stack.enter_context(drawn_below(args.out / "pictures", (height, width), thresholds)) if drawing else None
        start = perf_counter()
        for scores in model.score(batches()):
            seconds = (perf_counter() - start - reading) / len(scores.maps)  # 读图的时间不算
            block = [waiting.popleft() for _ in scores.maps]
            if not np.isfinite(scores.maps).all():
                raise UserError(
                    f"an anomaly map near {str(found[block[0][0]].file)!r} is not finite: the weights hold NaN or are "
                    "far out of scale; fit with other --weights"
                )
            answered = []
            for (index, _, size), score, raw in zip(block, scores.image_scores, scores.maps, strict=True):
                file, decision = str(found[index].file), thresholds.decide(score)
                rarity = thresholds.p_value(float(score))
                regions = find_regions(raw, thresholds, preprocessing, size) if args.json else None
                answered.append(Answer(file, score, thresholds.decision, decision, rarity, seconds, regions))
                figure = (Path("pictures") / found[index].figure).as_posix() if drawing else None
                predicted.append(Predicted(file, float(score), decision, rarity, figure))
            write(answered)
            if draw:
                draw([(found[i].figure, shown, raw) for (i, shown, _), raw in zip(block, scores.maps, strict=True)])
            start, reading = perf_counter(), 0.0
        if args.out and predicted:
            write_predictions(args.out, args.model, model.name, record, thresholds, predicted)
    counts = Counter(each.decision for each in predicted)
    decided = "no decision without a threshold" if counts[""] else f"{counts['defect']} defect, {counts['good']} good"
    tell(f"{len(predicted)} pictures scored: {decided}" if predicted else "no picture could be scored")
    if args.out:
        tell(f"wrote predictions: {args.out / 'predictions.csv'}")
        if args.json:
            tell(f"wrote predictions with regions: {args.out / 'predictions.jsonl'}")
    if args.out and predicted:
        if drawing:
            tell(f"wrote localization figures: {args.out / 'pictures'}")
        tell(f"to look at them: python plot/results_page.py --result {shlex.quote(str(args.out))}")


def opened(path: Path, device: str) -> "Exported | Stored":
    """What is to score: only the stored features import torch.

    Raises
    ------
    UserError
        For stored features where there is no PyTorch; else as the model's own class.
    """
    if path.suffix.lower() == ".onnx":
        from experiment.scoring.onnx_model import Exported

        return Exported(path, device)
    if find_spec("torch") is None:
        raise UserError(
            f"--model {str(path)!r} is no exported model (.onnx), and stored features need PyTorch, which is not "
            "installed: python -m pip install -r requirements.txt, or give what export.py made of them"
        )
    from experiment.scoring.torch_model import Stored

    return Stored(path, device)


def readable(
    pictures: "NewPictures", name: str, args: "Namespace", threads: int, unreadable: list[int]
) -> Iterator[list]:
    """Batches of the pictures' items that can be read; the others are named. A progress bar."""
    from tqdm import tqdm

    from datasets.read_ahead import read_ahead

    on_screen = args.out is None and sys.stdout.isatty()  # 屏幕上逐行出现的结果本身就是进度
    with (
        tqdm(total=len(pictures), desc=f"scoring | {name}", unit="image", disable=on_screen) as bar,
        closing(read_ahead(pictures, args.batch_size, threads)) as ahead,
    ):
        for items in ahead:
            for _, index, is_readable, _ in items:
                if not is_readable:
                    unreadable.append(int(index))
                    tqdm.write(f"error: {pictures.problems.pop(int(index))}", file=sys.stderr)
            if usable := [item for item in items if item[2]]:
                yield usable
            bar.update(len(items))


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

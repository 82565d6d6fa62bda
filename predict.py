"""Score new pictures with what main.py stored or export.py wrote: a row or JSON for each, on request a figure.

用 main.py 存下的特征或 export.py 导出的模型给新图片打分：每张一行 CSV 或 JSON，可附定位图；- 表示随来随判。

Rows ``file,score,decision,p_value`` go to standard output, with --out DIR to DIR/predictions.csv, and with what they
were made from to DIR/predictions.json; progress and messages go to standard error. A picture that cannot be read is
named there, the others go on, and the exit status is 2. In place of pictures - takes their names from standard input,
and answers each as it comes. An exported model (….onnx) needs no PyTorch.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from experiment import options
from system import command
from system.errors import FULL, UserError

if TYPE_CHECKING:
    from experiment.scoring.session import Scoring

INTERRUPTED = "interrupted; the rows written so far are complete"


def predict(scoring: "Scoring") -> None:
    """The whole prediction.

    Raises
    ------
    UserError
        For what the user must change.
    """
    with scoring as run:  # all is checked before anything is written; 先查后做
        for block in run.score():  # III.C：马氏距离，异常图；异常图的最大值是得分
            run.take(block)  # 按阈值判定，写一行，画一张图
        run.report()  # 总记录，各有几张，写了什么


@contextmanager
def named(out: Path | None) -> Iterator[None]:
    """What cannot be written is an error that names it; a reader of standard output that has gone is none."""
    try:
        yield
    except BrokenPipeError:  # 读者走了（| head）
        command.discard_unwritten(sys.stdout)
    except OSError as problem:
        where = repr(problem.filename or str(out)) if problem.filename or out else "standard output"
        remedy = "make room, or give another --out" if problem.errno in FULL else "see --out and --model"
        raise UserError(f"{where}: {problem.strerror or problem}; {remedy}") from problem


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options.prediction(argv, __doc__ or "")

    def work() -> int:
        from experiment.scoring.session import Scoring  # 连带 NumPy：--help 与参数错误不必等它

        if (sys.stdout.encoding or "").lower() == "utf-8" and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="surrogateescape")  # 文件名原样写出，管道另一头才找得到文件
        scoring = Scoring(args)
        with named(args.out):
            predict(scoring)
        return 2 if scoring.unreadable else 0

    return command.run(work, INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())

"""Every figure that the results at hand allow, and the results page; lists what was drawn, what was skipped and why.

现有结果画得出的所有图与结果网页；列出画了什么，略过了什么、为何。
"""

from _root import HERE  # noqa: I001

import argparse
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from runpy import run_path
from threading import Thread

from _options import Parser, Script, parser, report
from _results import architectures
from results_page import write_page

from experiment.methods import split_key
from experiment.report.style import chinese_font, class_order, look
from system import command
from system.errors import UserError
from system.resources import cores

FIGURES = (  # 按讲述的次序
    "framework", "auroc_table", "complexity", "localization", "model_parameters", "roc_curve", "pro_curve",
    "precision_recall", "score_distribution", "gaussian_parameters", "patch_gaussian", "calibration",
    "localization --compare", "training_pictures", "ablation",
)  # fmt: skip


def _languages(text: str) -> list[str]:
    chosen = text.split(",")
    if set(chosen) - {"en", "zh"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not en, zh or en,zh")
    return chosen


def options() -> Parser:
    """The command line: the common options, where ``--lang`` takes both languages."""
    return parser(__doc__, language=_languages)


@lru_cache
def declared(name: str) -> Script:
    """What a script declares; the script by its file, since ``ablation`` is the name of a command, too."""
    return run_path(str(HERE / f"{name}.py"))["SCRIPT"]


def calls(script_and_options: str, args: argparse.Namespace) -> Iterator[tuple[list[str], list[str]]]:
    """Every call of a script, and the models that it is for: trouble in a model or a class is to cost no other."""
    name, *own = script_and_options.split()
    script = declared(name)
    archs = args.arch or architectures(args.result)
    drawable = [arch for arch in archs if split_key(arch)[0] not in script.lacking]
    least = 2 if own else 1  # --compare：并排至少要两个模型
    if own:
        groups = [drawable] if len(drawable) >= least else []
    elif script.on_request:  # 多半没有做：没有的不提
        there = script.on_request(args.result)
        groups = [[arch] for arch in args.arch or there if arch in there]
    elif script.each_model and archs:
        groups = [[arch] for arch in drawable]
    else:
        groups = [args.arch or []]
    for models in groups:
        counts: Counter[str] = Counter()
        if script.each_class:
            with suppress(UserError):  # 脚本自己会说明
                counts.update(each for results in script.results(args.result, models) for each in results.classes)
        names = class_order(each for each, count in counts.items() if count >= least)
        for of_class in [[f"--class={each}"] for each in names] or [[]]:
            yield [name, *own, *of_class], models


def figure(name: str, *words: str) -> list[Path]:
    """Draw one script's figures, given its options."""
    script = declared(name)
    args = script.options().parse_args(words)
    with look(args.lang) as say:
        return list(script.files(args, say))


def obey_parent() -> None:
    """In a child process: leave Ctrl-C to the parent, and end when the parent has ended, however that was."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # 只在子进程里调用

    def follow() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # 终端的 Ctrl-C 送给整个进程组；子进程由主进程来收
    Thread(target=follow, daemon=True).start()


def draw(args: argparse.Namespace) -> None:
    """Draw with a process a core, and tell in order what was written, then what was skipped.

    Raises
    ------
    UserError
        If no Chinese font is installed for ``--lang zh``.
    OSError
        If a figure cannot be written.
    """
    if "zh" in args.lang:  # 没有字体，哪一张都画不成：不是略过
        chinese_font()
    shared = ["--result", str(args.result), "--out", str(args.out), "--format", ",".join(args.format)]
    shared += ["--dpi", str(args.dpi)]
    planned = [call for each in FIGURES for call in calls(each, args)]
    drawing: list[tuple[list[str], list[str], Future]] = []
    skipped: list[str] = []  # 两种语言的缘由相同，末了只说一次
    # 进程而非线程：matplotlib 的设置是全局的。spawn：各平台行为一致；绘图进程启动只需半秒
    with ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), obey_parent) as pool:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # 子进程承袭它：还没走到 obey_parent 的，也不理 Ctrl-C
        try:
            for call, models in planned:
                words = [*call, *shared, *(["--arch", *models] if models else [])]
                drawing += [(call, models, pool.submit(figure, *words, "--lang", lang)) for lang in args.lang]
        finally:
            signal.signal(signal.SIGINT, before)
        try:
            for call, models, future in drawing:
                try:
                    report(future.result())
                except UserError as problem:  # 数据不全，画不成：记下缘由，接着画别的
                    of_which = f" ({', '.join(models)})" if models else ""
                    skipped.append(f"skipped {' '.join(call)}{of_which}: {problem}")
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():  # 不等手头的图画完
                child.terminate()
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    try:
        report([write_page(args.result)])
    except UserError as problem:
        skipped.append(f"skipped results_page: {problem}")
    for line in dict.fromkeys(skipped):
        print(line)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options().parse_args(argv)
    return command.run(lambda: draw(args))


if __name__ == "__main__":
    sys.exit(main())

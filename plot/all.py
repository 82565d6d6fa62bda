"""Every figure that the results at hand allow; lists what was drawn, and what was skipped and why."""

import _root  # noqa: F401, I001

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from pathlib import Path

from _options import USER_ERRORS, Parser, describe, lenient_console, parser, report
from _results import architectures

from padim.command import obey_parent
from padim.store import StoreError
from padim.style import look

# 各脚本；每个架构一图的，逐个架构画，一个架构的问题不连累另一个
ALL_ARCHITECTURES = ("framework", "auroc_table", "complexity", "localization")
EACH_ARCHITECTURE = (
    "model_parameters", "roc_curve", "pro_curve", "precision_recall", "score_distribution", "gaussian_parameters",
    "patch_gaussian",
)  # fmt: skip


def _languages(text: str) -> list[str]:
    chosen = text.split(",")
    if set(chosen) - {"en", "zh"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not en, zh or en,zh")
    return chosen


def options() -> Parser:
    """The command line: the common options, where ``--lang`` takes both languages."""
    return parser(__doc__, language=_languages)


def figure(script: str, shared: dict, arch: str | None, language: str) -> list[Path]:
    """Draw one script's figures, of every class where it has such an option."""
    module = import_module(script)
    own = vars(module.options().parse_args([]))
    own |= shared | {"lang": language, "arch": arch} | ({"all": True} if "all" in own else {})
    if isinstance(own["result"], Path) and script == "auroc_table":
        own["result"] = [own["result"]]
    with look(language) as say:
        return list(module.draw(argparse.Namespace(**own), say))


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options().parse_args(argv)
    lenient_console()
    shared = {key: getattr(args, key) for key in ("result", "out", "format", "dpi")}
    archs = [args.arch] if args.arch else architectures(args.result) or [None]
    jobs = [(script, args.arch) for script in ALL_ARCHITECTURES]
    jobs += [(script, arch) for script in EACH_ARCHITECTURE for arch in archs]
    if any(args.result.glob("ablation_*.json")):  # 研究是另一条命令，多半没有做
        jobs.append(("ablation", args.arch))
    skipped: list[str] = []
    # spawn：各平台行为一致；绘图进程启动只需半秒
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), obey_parent) as pool:
        drawing = [
            (script, arch, pool.submit(figure, script, shared, arch, language))
            for script, arch in jobs
            for language in args.lang
        ]
        try:
            for script, arch, future in drawing:
                try:
                    report(future.result())
                except StoreError as problem:
                    skipped.append(f"skipped {script}{f' ({arch})' if arch else ''}: {describe(problem)}")
        except USER_ERRORS as problem:
            pool.shutdown(cancel_futures=True)
            print(f"error: {describe(problem)}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.terminate()
            print("interrupted", file=sys.stderr)
            return 130
    for line in dict.fromkeys(skipped):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())

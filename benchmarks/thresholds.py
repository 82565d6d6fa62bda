"""What thresholds from left-out scores are worth: false alarms and defects found on labelled test sets.

留一得分定出的阈值值多少：有标签的测试集上的误报与检出。

python benchmarks/thresholds.py                      ELPV, both splits, efficientnet_lite0
python benchmarks/thresholds.py --arch resnet18      options that are not its own go to main.py
python benchmarks/thresholds.py --result FOLDER …    results that are there
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scipy.stats import binomtest

from benchmarks.tree import measure
from experiment.files.folder import Store
from experiment.files.records import read_fitted_record
from experiment.report.threshold import find_thresholds, how_left_out
from system import command
from system.errors import UserError

RUNS = {  # 结果文件夹，与 main.py 的选项
    "elpv": ["--dataset", "elpv", "--leave_out", "60"],
    "elpv_lots": ["--dataset", "elpv_lots", "--leave_out", "60"],
}
PERCENTILES = (90, 95, 99)
HEAD = [
    "",
    "class",
    "left out",
    "left-out scores",
    "image ROC AUC",
    "good tests",
    *(f"false alarms, {q}th: %" for q in PERCENTILES),
]
HEAD += ["defective", *(f"found, {q}th: %" for q in PERCENTILES)]


def line(cells: list[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |"


def percent(count: int, total: int) -> str:
    """A share and its exact 95 % interval (Clopper and Pearson)."""
    interval = binomtest(count, total).proportion_ci()
    return f"{100 * count / total:.1f} ({100 * interval.low:.1f}–{100 * interval.high:.1f})"


def rows(label: str, store: Store) -> Iterator[str]:
    """A row a class that has left-out scores and a labelled test set; two where lots were left out."""
    results = store.read_results()
    for name, row in results["classes"].items() if results else ():
        model, arrays = store.fitted(name), store.read_arrays(name)
        if not model.exists() or arrays is None or arrays["image_threshold_raw"] is None:
            continue
        record = read_fitted_record(model)
        low, high = arrays["score_min"], arrays["score_max"]
        raw, defective = arrays["image_scores"] * (high - low) + low, arrays["labels"] > 0
        alone = {"left_out_scores": record["left_out_alone_scores"], "left_out": None}
        for each in (record | alone, record):
            if (scores := each["left_out_scores"]) is None:
                continue
            how = how_left_out(each) or "one by one"
            cells = [label, name, how, str(len(scores)), f"{row['image_rocauc']:.3f}"]
            for group in (raw[~defective], raw[defective]):
                limits = [find_thresholds(model, each, None, percentile) for percentile in PERCENTILES]
                above = [sum(limit.decide(score) == "defect" for score in group) for limit in limits]
                cells += [str(len(group)), *(percent(count, len(group)) for count in above)]
            yield line(cells)


def show(label: str, result: Path) -> None:
    """Print the rows of every network whose features lie below ``result``."""
    keys = [path.name.removeprefix("temp_") for path in sorted(result.glob("temp_*"))]
    several = len(keys) > 1
    found = [row for key in keys for row in rows(f"{label}, {key}" if several else label, Store(result, key))]
    if not found:
        raise UserError(
            f"no left-out scores and labelled test pictures below {str(result)!r}; make them with main.py "
            "--leave_out, see --result"
        )
    print("\n".join(found), flush=True)


def work(args: argparse.Namespace, more: list[str]) -> None:
    """The runs and a row for each class; or the rows of results that are there."""
    print(f"{line(HEAD)}\n{line(['---'] * len(HEAD))}", flush=True)
    for result in args.result:
        show(result.name, result)
    for name, options in {} if args.result else RUNS.items():
        words = [sys.executable, str(ROOT / "main.py"), "--arch", "efficientnet_lite0", "--figures", "none", *options]
        measure([*words, "--save_path", str(args.work / name), *more], Path.cwd())
        show(name, args.work / name)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--result", type=Path, nargs="+", default=[], metavar="DIR", help="results that are there")
    parser.add_argument("--work", type=Path, default=Path("data/benchmark/thresholds"), help="where new ones go")
    args, more = parser.parse_known_args(argv)
    if args.result and more:
        parser.error(f"--result takes results as they are; leave out {' '.join(more)}")
    return command.run(lambda: work(args, more))


if __name__ == "__main__":
    sys.exit(main())

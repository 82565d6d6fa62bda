"""What thresholds from left-out scores are worth: false alarms and defects found on labelled test sets.

留一得分定出的阈值值多少：有标签的测试集上的误报与检出，与知道标签的最佳 F1 阈值并列。

python main.py --leave_out one … && python benchmarks/thresholds.py --result mvtec_result
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from experiment.files.folder import Store
from experiment.files.records import read_fitted_record
from experiment.report.threshold import ROUNDING
from system import command
from system.errors import UserError

HEAD = (
    "| {} | training pictures | good test pictures | false alarms: 95th, 99th, best F1 | defective | found: the same |"
)


def rows(store: Store) -> list[str]:
    """A row a class that has left-out scores and a labelled test set."""
    result = []
    for path in sorted(store.fitted("").parent.glob("train_*.json")):
        name = path.stem.removeprefix("train_")
        left_out, arrays = read_fitted_record(path.with_suffix(".pkl"))["left_out_scores"], store.read_arrays(name)
        if left_out is None or arrays is None or arrays["image_threshold_raw"] is None:
            continue
        low, high = arrays["score_min"], arrays["score_max"]
        raw, defective = arrays["image_scores"] * (high - low) + low, arrays["labels"] > 0
        thresholds = [*np.percentile(left_out, [95, 99]), arrays["image_threshold_raw"] * (1 - ROUNDING)]
        false, found = ([int((raw[group] >= t).sum()) for t in thresholds] for group in (~defective, defective))
        counts = (", ".join(map(str, each)) for each in (false, found))
        alarms, detections = counts
        good, bad = int((~defective).sum()), int(defective.sum())
        result.append(f"| {name} | {len(left_out)} | {good} | {alarms} | {bad} | {detections} |")
    return result


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--result", type=Path, default=Path("mvtec_result"))
    args = parser.parse_args()
    return command.run(lambda: show(args.result))


def show(result: Path) -> None:
    """Print a table for each network whose features lie below ``result``."""
    keys = [path.name.removeprefix("temp_") for path in sorted(result.glob("temp_*"))]
    if not keys:
        raise UserError(
            f"no stored features below {str(result)!r}; make them with main.py --leave_out one, see --result"
        )
    for key in keys:
        print("\n".join([HEAD.format(key), "| --- | --- | --- | --- | --- | --- |", *rows(Store(result, key))]))


if __name__ == "__main__":
    sys.exit(main())

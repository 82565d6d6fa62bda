"""One page to look at: a result folder's table, and every picture with its figure, score and decision.

供浏览的一页：结果文件夹里的表，每张图像及其定位图、得分与判定。

``index.html`` goes into the folder itself, which main.py or ``predict.py --out`` wrote. It needs no server and asks
for nothing outside of that folder; its figures are those that are there, by relative links.
"""

import _root  # noqa: F401, I001

import sys
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from _options import Parser, report, write_text
from _results import Results, architectures, open_results, raw_scores
from score_distribution import is_crowded

from experiment.methods import method_of, split_key, tolerance_of
from experiment.report import style
from experiment.report.drift import drift
from experiment.scoring.answers import read_predictions
from experiment.files.records import LEVELS
from experiment.report.threshold import ROUNDING, class_thresholds
from experiment.files.arrays import METRICS
from system import command

PARTS = Path(__file__).with_name("page")
COMPARED = [
    (f"{level}_rocauc", f"{level}_rocauc_interval", f"published_{level}", f"difference_{level}") for level in LEVELS
]
MAIN = tuple(key for each in COMPARED for key in each)
COLUMNS = (*MAIN, *(key for key in METRICS if key not in MAIN), "n_train", "n_test", "seconds")

Entry = dict[str, Any]


def options() -> Parser:
    """The command line: the page has both languages, and goes where the results are."""
    made = Parser(description=(__doc__ or "").splitlines()[0])
    folder = "folder that main.py or predict.py --out wrote (default mvtec_result)"
    made.add_argument("--result", type=Path, metavar="DIR", default=Path("mvtec_result"), help=folder)
    return made


def factored(names: Sequence[str | None]) -> Entry:
    """What all of these names begin with, and the rest of each; None stays None."""
    start = commonprefix([name for name in names if name is not None])  # noqa: RUF071 逐字符才对：文件名也有共同的开头
    return {"start": start, "rest": [None if name is None else name[len(start) :] for name in names]}


def rounded(value: float | None) -> float | None:
    """A number to seven digits, which is what float32 has; decisions allow for `ROUNDING`, which is more."""
    return None if value is None else float(f"{value:.7g}")


def metrics(row: Entry) -> Entry:
    """A row's values of `COLUMNS`, as far as they are known."""
    flat = row | {"seconds": row.get("seconds", {}).get("total")}
    for kind in ("published", "difference"):
        flat |= {f"{kind}_{level}": (row[kind] or {}).get(level) for level in LEVELS}
    return {key: flat[key] for key in COLUMNS if flat.get(key) is not None}


def scored_class(results: Results, name: str, drawn: set[str]) -> Entry:
    """A class's test pictures; ``drawn`` are the figures that are there."""
    arrays, store = results.arrays(name), results.store
    files = arrays["files"].tolist()
    kinds = arrays["kinds"].tolist()
    names = sorted(set(kinds), key=lambda kind: (kind != "good", kind))
    thresholds = class_thresholds(store, name, arrays)
    figures = [store.figure(name, i).relative_to(store.root).as_posix() for i in range(len(files))]
    return {
        "name": name,
        "threshold": rounded(thresholds.decision),
        "origin": thresholds.origin,
        "files": factored(files),
        "labels": arrays["labels"].tolist(),
        "kinds": {"names": names, "of": [names.index(kind) for kind in kinds]},
        "scores": [rounded(score) for score in raw_scores(arrays).tolist()],
        "logarithmic": is_crowded(raw_scores(arrays)),
        "figures": factored([figure if figure in drawn else None for figure in figures]),
    }


def scored_run(results: Results, drawn: set[str]) -> Entry:
    """All that the page shows of one method and network."""
    content, key = results.content, results.store.key
    run, rows = content["run"], content["classes"]
    method, network = method_of(key).label, style.arch_label(split_key(key)[1])
    return {
        "key": key,
        "name": f"{method} · {network}",
        "facts": {
            "method": method,
            "network": network,
            "weights": run["options"].get("weights"),
            "data": ", ".join(sorted({row["data_path"] for row in rows.values()})),
            "date": moment(run.get("date")),
            "device": run.get("device"),
            "command": run["command"],
        },
        "verdict": content.get("verdict"),
        "tolerance": (content.get("verdict") or {}).get("tolerance", tolerance_of(key)),
        "rows": [
            {"name": name, "figures": metrics(rows[name]), "remarks": rows[name]["remarks"]}
            for name in style.class_order(rows)
        ],
        "averages": [{"name": group, "figures": metrics(row)} for group, row in content["averages"].items() if row],
        "classes": [scored_class(results, name, drawn) for name in results.classes if results.scores(name).exists()],
    }


def predicted_run(content: Entry, drawn: set[str]) -> Entry:
    """All that the page shows of predictions: one class, and no table."""
    pictures, thresholds = content["pictures"], content["thresholds"]
    each = {
        "name": content["class"],
        "threshold": rounded(thresholds["decision"]),
        "origin": thresholds["origin"],
        "files": factored([picture["file"] for picture in pictures]),
        "scores": [rounded(picture["score"]) for picture in pictures],
        "logarithmic": is_crowded(np.array([picture["score"] for picture in pictures])),
        "p_values": [rounded(picture["p_value"]) for picture in pictures],
        "figures": factored([picture["figure"] if picture["figure"] in drawn else None for picture in pictures]),
    }
    changed = drift([picture["p_value"] for picture in pictures if picture["p_value"]], content["good_scores"])
    if changed:
        each["drift"] = {"sentence": changed.sentence, "parts": changed.parts}
    network = style.arch_label(content["arch"])
    facts = {
        "network": network,
        "weights": content["weights"],
        "model": content["model"],
        "date": moment(content["date"]),
    }
    return {"key": "predictions", "name": content["class"], "facts": facts, "rows": None, "classes": [each]}


def moment(date: str | None) -> str | None:
    """A record's date in print."""
    return None if date is None else date[:16].replace("T", " ") + " UTC"


def contents(root: Path) -> Entry:
    """What the page shows of a folder.

    Raises
    ------
    UserError
        If there are neither results nor predictions, or a file of them is foreign or damaged.
    """
    drawn = {path.relative_to(root).as_posix() for path in root.glob("pictures*/**/*.png")}
    predictions = read_predictions(root)
    runs = [predicted_run(predictions, drawn)] if predictions else []
    if architectures(root) or not predictions:
        runs = [scored_run(results, drawn) for results in open_results(root, None, which="every")] + runs
    return {"rounding": ROUNDING, "columns": COLUMNS, "runs": runs}


def page(root: Path) -> str:
    """The whole page, in which every name is text."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS), autoescape=True, undefined=jinja2.StrictUndefined
    )
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return templates.get_template("index.html.j2").render(title=f"PaDiM · {root.resolve().name}", data=contents(root))


def write_page(root: Path) -> Path:
    """Write ``index.html`` into the folder."""
    return write_text(root / "index.html", page(root))


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options().parse_args(argv)
    return command.run(lambda: report([write_page(args.result)]))


if __name__ == "__main__":
    sys.exit(main())

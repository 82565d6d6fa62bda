"""What predict.py answers: a picture a line, as CSV or JSON, and below a folder one record of all.

predict.py 的回答：一张图片一行，CSV 或 JSON；写到文件夹时另有一份总记录。
"""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.pictures import Picture
from experiment.files.records import is_predictions, read_record
from experiment.files.signed import is_signed
from experiment.report.threshold import Thresholds
from system.files import without_leftovers, write_json
from system.lock import lock

if TYPE_CHECKING:
    from experiment.scoring.defects import Defect  # 连带 skimage：只有 --json 才等它

BELOW = {"pictures": "figures", "maps": "maps", "masks": "masks"}  # --out 之下的文件夹，其中放什么


@dataclass(frozen=True)
class Scored:
    """A picture with its score.

    Attributes
    ----------
    found : Picture
        Its file, and its figure's name.
    size : (int, int)
        Width and height of the picture itself.
    picture : ndarray, (H, W, 3) uint8, or None
        As prepared; None where no figure is drawn.
    raw : ndarray, (H, W) float32
        Its anomaly map, NaN where it is not looked at.
    score : numpy.float32
        The map's maximum.
    seconds : float
        From the prepared picture to its map and score.
    """

    found: Picture
    size: tuple[int, int]
    picture: np.ndarray | None
    raw: np.ndarray
    score: np.float32
    seconds: float


@dataclass(frozen=True)
class Answer:
    """What became of a picture.

    Attributes
    ----------
    file : str
        As it was given.
    score : numpy.float32
        The maximum of its raw map.
    threshold : float or None
        Of the decision.
    decision : str
        ``defect``, ``good``, or empty without a threshold.
    p_value : float or None
    seconds : float
        From the prepared picture to its map and score.
    regions : list of Defect, or None
        None without a pixel threshold.
    figure : str or None
        Its localization figure, as a POSIX path below ``--out``.
    """

    file: str
    score: np.float32
    threshold: float | None
    decision: str
    p_value: float | None
    seconds: float
    regions: "list[Defect] | None"
    figure: str | None

    def row(self) -> tuple[object, ...]:
        """Its row of the CSV."""
        return self.file, self.score, self.decision, "" if self.p_value is None else f"{self.p_value:.4g}"

    def line(self) -> str:
        """Its line of JSON, with the digits that the row has; ASCII, so that any reader has the file's name."""
        rarity = None if self.p_value is None else float(f"{self.p_value:.4g}")
        own = {"score": float(str(self.score)), "p_value": rarity, "seconds": round(self.seconds, 6)}
        content = vars(self) | own
        del content["figure"]
        return json.dumps(content, allow_nan=False, default=vars) + "\n"

    def entry(self) -> dict[str, Any]:
        """What the record of all keeps of it."""
        kept = {key: getattr(self, key) for key in ("file", "score", "decision", "p_value", "figure")}
        return kept | {"score": float(self.score)}


class _Lines:
    """A text file, or standard output: what is written is handed on at once, and errors carry the file's name."""

    def __init__(self, path: Path | None):
        self._path, self._file = path, sys.stdout
        if path:
            self._file = open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115

    def write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as problem:
            problem.filename = self._path and str(self._path)
            raise

    def close(self) -> None:
        if self._path:
            with suppress(OSError):  # 写不下的，已经说了
                self._file.close()


def _as_csv(rows: Iterable[tuple[object, ...]]) -> str:
    """Rows as text, which a file gets at once."""
    csv.writer(text := io.StringIO(), lineterminator="\n").writerows(rows)
    return text.getvalue()


@contextmanager
def answers(out: Path | None, as_json: bool) -> Iterator[Callable[[list[Answer]], None]]:
    """A function that writes some answers, and hands them on; the first ones take away what an earlier run has written.

    Parameters
    ----------
    out : Path or None
        The folder for ``predictions.csv``, and with ``as_json`` for ``predictions.jsonl``; None for standard output.
    as_json : bool
        JSON lines; without a folder in place of the rows.
    """
    with ExitStack() as stack:
        rows = lines = None

        def begin() -> None:
            nonlocal rows, lines
            if out:  # the record of all vouches for the rows: it goes first, and comes last
                predictions_of(out).unlink(missing_ok=True)
            if out or not as_json:
                rows = stack.enter_context(closing(_Lines(out and out / "predictions.csv")))
            if as_json:
                lines = stack.enter_context(closing(_Lines(out and out / "predictions.jsonl")))
            if out:
                drop_earlier(out, not as_json)
            if rows:
                rows.write(_as_csv([("file", "score", "decision", "p_value")]))

        if not out:
            begin()

        def write(block: list[Answer]) -> None:
            if rows is None and lines is None:  # 有了第一批回答，从前的才不算数
                begin()
            if rows:
                rows.write(_as_csv(answer.row() for answer in block))
            if lines:
                lines.write("".join(answer.line() for answer in block))

        yield write


def drop_earlier(out: Path, lines: bool) -> None:
    """Delete what an earlier run left in ``--out``: its ``lines`` of JSON, and its figures, maps and masks."""
    if lines:
        (out / "predictions.jsonl").unlink(missing_ok=True)
    for place, _, names in (found for folder in BELOW for found in os.walk(out / folder, topdown=False)):
        for path in (Path(place) / name for name in names):
            if is_signed(path):  # 那里别的图片，不是我们的
                path.unlink()
        with suppress(OSError):  # 不空的留着
            Path(place).rmdir()


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Be the only one that writes to ``out``; what killed predictions left there is deleted."""
    with lock(out / ".lock_predict", "give another --out"):
        below = (Path(place) for folder in BELOW for place, _, _ in os.walk(out / folder))
        places = [(out, "predictions."), *((place, "") for place in below)]
        with without_leftovers(places):
            yield


def predictions_of(folder: Path) -> Path:
    """Where the record of all pictures lies below ``--out``."""
    return folder / "predictions.json"


def write_predictions(
    folder: Path, model: Path, name: str, record: dict[str, Any], thresholds: Thresholds, entries: list[dict[str, Any]]
) -> None:
    """Write the record of all pictures.

    Parameters
    ----------
    folder : Path
        ``--out``.
    model : Path
        The pickle, or what was exported from it.
    name : str
        Of the class.
    record : dict
        The JSON beside the pickle, or the metadata.
    thresholds : Thresholds
    entries : list of dict
        Each picture's `Answer.entry`, in order.
    """
    content = {
        "class": name,
        "model": str(model),
        "arch": record["arch"],
        "weights": record["weights"],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "thresholds": {"decision": thresholds.decision, "pixel": thresholds.pixel, "origin": thresholds.origin},
        "good_scores": len(thresholds.good or ()),
        "pictures": entries,
    }
    write_json(predictions_of(folder), content)


def read_predictions(folder: Path) -> dict[str, Any] | None:
    """The record of all pictures as written, or None where there is none; UserError where it holds something else."""
    refusal = "is no record of predict.py, or is damaged; make it again with predict.py --out"
    return read_record(predictions_of(folder), is_predictions, refusal)

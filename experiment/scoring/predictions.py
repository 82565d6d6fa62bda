"""The file of predict.py's that says what was made from what: one record for all pictures of a folder.

predict.py 写出的总记录：用哪个模型、哪些阈值，每张图片的得分、判定与定位图。
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from experiment.files.records import is_predictions
from experiment.report.threshold import Thresholds
from system.errors import UserError
from system.files import read_json, write_json


@dataclass(frozen=True)
class Predicted:
    """What became of a picture.

    Attributes
    ----------
    file : str
        As it was given.
    score : float
        The maximum of its raw map.
    decision : str
        ``defect``, ``good``, or empty without a threshold.
    p_value : float or None
    figure : str or None
        Its localization figure, as a POSIX path below ``--out``.
    """

    file: str
    score: float
    decision: str
    p_value: float | None
    figure: str | None


def predictions_of(folder: Path) -> Path:
    """Where it lies below ``--out``."""
    return folder / "predictions.json"


def write_predictions(
    folder: Path, model: Path, name: str, record: dict[str, Any], thresholds: Thresholds, pictures: list[Predicted]
) -> None:
    """Write the record.

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
    pictures : list of Predicted
        In order.
    """
    content = {
        "class": name,
        "model": str(model),
        "arch": record["arch"],
        "weights": record["weights"],
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "thresholds": {"decision": thresholds.decision, "pixel": thresholds.pixel, "origin": thresholds.origin},
        "pictures": [asdict(each) for each in pictures],
    }
    write_json(predictions_of(folder), content)


def read_predictions(folder: Path) -> dict[str, Any] | None:
    """The record as written, or None where there is none.

    Raises
    ------
    UserError
        If the file holds something else.
    """
    path = predictions_of(folder)
    content = read_json(path)
    if content is None and not path.exists():
        return None
    if not is_predictions(content):
        raise UserError(f"{str(path)!r} is no record of predict.py, or is damaged; make it again with predict.py --out")
    return content

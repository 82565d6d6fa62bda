"""What stored records must be made of: the types within each JSON, and one reader for all. Imports no torch.

各 JSON 记录须由什么组成：各项的类型，以及查它们的同一个函数。

A file that was edited, or that another program wrote, is recognised here and not by what fails on it later.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

from experiment.files.arrays import INTERVALS, METRICS
from experiment.files.region import is_region
from system.errors import UserError
from system.files import read_json

# 两次运行的特征可以互换的条件，按报错时检查的次序
CONFIGURATION = (
    "arch", "weights_sha256", "layers", "reduction", "seed", "dimensions", "top_k", "precision", "preprocessing"
)  # fmt: skip

NUMBER = "number"
LEVELS = ("image", "pixel")
LEVEL = dict.fromkeys(LEVELS, (NUMBER, None))


def configuration(record: dict[str, Any]) -> dict[str, Any]:
    """What of a model's record rows must have in common to stand in one file."""
    return {key: record[key] for key in CONFIGURATION if key in record}


# 字典：所列的键须有，带 ? 的可以没有，键 str 管其余的；列表：每项；元组：几者之一；集合：其中的一个字
LAYER = {"name": str, **dict.fromkeys(("channels", "height", "width", "stride", "receptive_field"), int)}
# 测试集的数组里，阈值与色标要的；阈值的出处，没有阈值时为 None
TEST_SET = ("image_threshold_raw", "threshold_raw", "score_min", "score_max")
FITTED = {
    "arch": str,
    "weights": str,
    "weights_sha256": str,
    "seed": int,
    "dimensions": [int],
    "precision": {"float32", "tf32", "bf16"},
    "reduction": {"random", "pca"},
    "size": [int],
    "layers": [LAYER],
    "n_train": int,
    **dict.fromkeys(("left_out_scores", "left_out_alone_scores", "validation_scores"), ([NUMBER], None)),
    "left_out": ({"by": ({"one", "folder"}, int), "groups": int}, None),
    "test_set": (dict.fromkeys(TEST_SET, (NUMBER, None)) | {"origin": (str, None)}, None),
    "region": (str, None),
    "preprocessing": dict,  # 内容由 Preprocessing.from_record 查
    "training_files": str,
    "pickle_bytes": int,
}
_OF_PADIM = ("reduction", "seed", "dimensions")  # 前身没有这几项；top_k 只有 SPADE 有
_CONFIGURATION = {key: FITTED[key] for key in CONFIGURATION if key not in (*_OF_PADIM, "top_k")}
_CONFIGURATION |= {f"{key}?": FITTED[key] for key in _OF_PADIM} | {"top_k?": int, "layers": [{"name": str}]}

_METRICS = {
    **dict.fromkeys(METRICS, (NUMBER, None)),
    "published": ({"image": NUMBER, "pixel?": NUMBER}, None),
    "difference": ({"image": (NUMBER, None), "pixel?": (NUMBER, None)}, None),
}
DATA = {"dataset": str, "data_path": str, "file_names": str, "training_files": str, "test_files": str}
_ROW = (
    _METRICS
    | DATA
    | {
        "threshold": (NUMBER, None),
        "image_threshold": (NUMBER, None),
        "threshold_origin": str,
        **dict.fromkeys(INTERVALS, ([NUMBER], None)),
        "region": (str, None),
        "n_train": int,
        "n_test": int,
        "remarks": [str],
        "seconds": {"total": NUMBER, str: NUMBER},
    }
)
RESULTS = {
    "classes": {str: _ROW},
    "averages": {str: (_METRICS, None)},
    "run": {
        "options": dict,
        "configuration": _CONFIGURATION,
        "finished": [str],
        "earlier?": [str],
        "command": str,
        "date?": str,
        "device?": str,
        "peak_memory_bytes?": (NUMBER, None),  # 运行结束时才有
    },
    "complete": bool,
    "verdict?": {"reproduced": (bool, None), "reason": str, "tolerance": NUMBER},
}
_VARIANT = {"label": str, "layers": [str], "reduction": str, "dimensions": int, "seed": (int, None)}
_VARIANT |= {"grid": ([int], None), "covariance": str}
_SPREAD = {"mean": NUMBER, "std": NUMBER, "min": NUMBER, "max": NUMBER}
_STUDY = {
    "variants": [_VARIANT],
    "classes": {str: {str: LEVEL}},
    "averages": {str: LEVEL},
    "spread": {"image": (_SPREAD, None), "pixel": (_SPREAD, None)},
}
STUDIES = {
    "configuration": _CONFIGURATION,
    "data": {str: DATA},
    "studies": {str: _STUDY},
}
_PREDICTED = {"file": str, "score": NUMBER, "decision": {"defect", "good", ""}}
_PREDICTED |= {"p_value": (NUMBER, None), "figure": (str, None)}
PREDICTIONS = {
    **dict.fromkeys(("class", "model", "arch", "weights", "date"), str),
    "thresholds": {"decision": (NUMBER, None), "pixel": (NUMBER, None), "origin": str},
    "good_scores": int,
    "pictures": [_PREDICTED],
}


def matches(value: Any, form: Any) -> bool:
    """Whether ``value``, as read from JSON, is of a form.

    Parameters
    ----------
    value
    form
        A type; `NUMBER` (finite); None; a set of strings, for one of them; a list of one form, for every item;
        a tuple of forms, for one of them; or a dict of the forms of keys, where ``"key?"`` may be missing and
        ``str`` is any other key.
    """
    if isinstance(form, tuple):
        return any(matches(value, one) for one in form)
    if form is None:
        return value is None
    if form == NUMBER:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    if isinstance(form, set):
        return isinstance(value, str) and value in form
    if isinstance(form, list):
        return isinstance(value, list) and all(matches(item, form[0]) for item in value)
    if isinstance(form, dict):
        return isinstance(value, dict) and _entries_match(value, form)
    return isinstance(value, form) and (form is bool or not isinstance(value, bool))


def _entries_match(value: dict[str, Any], form: dict[Any, Any]) -> bool:
    named = {key.rstrip("?"): key for key in form if key is not str}
    if any(key not in value for key, written in named.items() if key == written):
        return False
    forms = {key: form[named[key]] if key in named else form.get(str, object) for key in value}
    return all(each is object or matches(value[key], each) for key, each in forms.items())


def _wrong_entry(record: dict[str, Any]) -> str | None:
    """The first entry of a record of `FITTED` that is missing or is no such thing; None if all are sound."""
    for key, form in FITTED.items():
        if key not in record or not matches(record[key], form):
            return key
    sound = {
        "layers": bool(record["layers"]),
        "dimensions": bool(record["dimensions"]) and min(record["dimensions"]) >= 0,
        "size": len(record["size"]) == 2 and min(record["size"]) > 0,
        "region": is_region(record["region"], record["size"]),
        **{key: record[key] != [] for key in ("left_out_scores", "left_out_alone_scores", "validation_scores")},
    }
    return next((key for key, is_sound in sound.items() if not is_sound), None)


def read_record(path: Path, is_sound: Callable[[Any], bool], refusal: str) -> dict[str, Any] | None:
    """The JSON in ``path``, or None where there is none.

    Raises
    ------
    UserError
        If the content is not sound; ``refusal`` follows the file's name in the message.
    """
    content = read_json(path)
    if content is None and not path.exists():
        return None
    if not is_sound(content):
        raise UserError(f"{str(path)!r} {refusal}")
    return content


def is_fitted_record(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is the content of the JSON beside a pickle."""
    return isinstance(content, dict) and _wrong_entry(content) is None


def read_fitted_record(path: Path) -> dict[str, Any]:
    """The record beside a pickle, which must be there and belong to it.

    Parameters
    ----------
    path : Path
        The pickle.

    Returns
    -------
    dict
        Of the form `FITTED`; other entries may stand beside.

    Raises
    ------
    UserError
        If there is no pickle, it and the record do not belong together, or an entry of the record is not there
        or is no such thing.
    """
    beside = path.with_suffix(".json")
    if not path.is_file():
        half = beside.exists() and not path.exists()  # pickle 先删去、最后才换上
        remedy = "the run that replaced them was killed; give its command again" if half else "main.py writes them"
        raise UserError(f"no stored features {str(path)!r}; {remedy}, see --model")
    record = read_json(beside)
    if record is None:
        raise UserError(f"{str(beside)!r} is not there, or no record of main.py; fit again with --refit, see --model")
    if record.get("pickle_bytes") != path.stat().st_size:
        raise UserError(f"{str(path)!r} is damaged, or not what {str(beside)!r} describes; fit again with --refit")
    if key := _wrong_entry(record):
        shown = f"has {key} {str(record[key])[:60]!r}" if key in record else f"has no {key}"
        raise UserError(f"{str(beside)!r} is no record of main.py: it {shown}; fit again with --refit")
    return record


def is_results(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is the content of a results file."""
    return matches(content, RESULTS) and all(
        row[key] is None or len(row[key]) == 2 for row in content["classes"].values() for key in INTERVALS
    )


def is_studies(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is the content of a file of studies, with the metrics of every variant of every class."""
    if not matches(content, STUDIES):
        return False
    studies = content["studies"].values()
    return all(
        row.keys() >= {variant["label"] for variant in study["variants"]}
        for study in studies
        for row in (study["averages"], *study["classes"].values())
    )


def is_predictions(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether this is the content of predict.py's record, of at least one picture."""
    return matches(content, PREDICTIONS) and bool(content["pictures"])

"""What stored files must be made of: the types within JSON records and small arrays. Imports no torch.

各文件须由什么组成：JSON 记录各项的类型，小数组的种类与形状。

A file that was edited, or that another program wrote, is recognised here and not by what fails on it later.
"""

import io
import warnings
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from padim.metrics import FIGURES, INTERVALS
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
    "left_out_scores": ([NUMBER], None),
    "left_out": ({"by": ({"one", "folder"}, int), "groups": int}, None),
    "left_out_alone_scores": ([NUMBER], None),
    "validation_scores": ([NUMBER], None),
    "test_set": (dict.fromkeys(TEST_SET, (NUMBER, None)) | {"origin": (str, None)}, None),
    "preprocessing": dict,  # 内容由 Preprocessing.from_record 查
    "training_files": str,
    "pickle_bytes": int,
}
_OF_PADIM = ("reduction", "seed", "dimensions")  # 前身没有这几项；top_k 只有 SPADE 有
_CONFIGURATION = {key: FITTED[key] for key in CONFIGURATION if key not in (*_OF_PADIM, "top_k")}
_CONFIGURATION |= {f"{key}?": FITTED[key] for key in _OF_PADIM} | {"top_k?": int, "layers": [{"name": str}]}

_FIGURES = {
    **dict.fromkeys(FIGURES, (NUMBER, None)),
    "published": ({"image": NUMBER, "pixel?": NUMBER}, None),
    "difference": ({"image": (NUMBER, None), "pixel?": (NUMBER, None)}, None),
}
DATA = {"dataset": str, "data_path": str, "file_names": str, "training_files": str, "test_files": str}
_ROW = (
    _FIGURES
    | DATA
    | {
        "threshold": (NUMBER, None),
        "image_threshold": (NUMBER, None),
        "threshold_origin": str,
        **dict.fromkeys(INTERVALS, ([NUMBER], None)),
        "n_train": int,
        "n_test": int,
        "remarks": [str],
        "seconds": {"total": NUMBER, str: NUMBER},
    }
)
RESULTS = {
    "classes": {str: _ROW},
    "averages": {str: (_FIGURES, None)},
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

# 小数组：元素的种类（numpy 的 kind）与形状；n 是图片数，None 任意。没有的写作 None，_ALWAYS 以外的都可以
SCORED: dict[str, tuple[str, tuple]] = {
    "files": ("U", ("n",)),
    "labels": ("biu", ("n",)),
    "kinds": ("U", ("n",)),
    "masks": ("biu", ("n", None, None)),
    "image_scores": ("f", ("n",)),
    "patches": ("f", ("n", None)),
    **dict.fromkeys(("threshold", "threshold_raw", "image_threshold_raw"), ("f", ())),
    **dict.fromkeys(("score_min", "score_max", "image_score_min", "image_score_max"), ("f", ())),
    **dict.fromkeys(("image_roc", "pixel_roc", "pixel_pr", "pixel_pro"), ("f", (None, 2))),
    "pixel_wins": ("i", (None, "n")),
    "pixel_aupimo": ("f", ("n",)),
}
_MAY_BE_NAN = {"pixel_aupimo"}  # 没有缺陷像素的图
_ALWAYS = {"files", "kinds", "labels", "image_scores", "patches"}
_ALWAYS |= {"score_min", "score_max", "image_score_min", "image_score_max"}
_ALWAYS |= {"scores", "maps", "images"}  # 留一得分最高的几张的
LEFT_OUT: dict[str, tuple[str, tuple]] = {
    "files": ("U", ("n",)),
    "scores": ("f", ("n",)),
    "maps": ("f", ("n", None, None)),
    "images": ("u", ("n", None, None, 3)),
    "lots": ("U", (None,)),  # 每张训练图像的批次；逐张留出时没有
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
        **{key: record[key] != [] for key in ("left_out_scores", "left_out_alone_scores", "validation_scores")},
    }
    return next((key for key, is_sound in sound.items() if not is_sound), None)


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
    """Whether this is the content of a file of studies, with a figure for every variant of every class."""
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


class UnreadableError(Exception):
    """Bytes that hold no arrays."""


def parse_arrays(content: bytes) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a ``.npy`` file's content, or the arrays of a ``.npz`` file's.

    Raises
    ------
    UnreadableError
        If it is neither.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = np.load(io.BytesIO(content), allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except Exception as problem:  # 读的是内存里的字节，错都在内容：zipfile 与 numpy 抛什么都有可能
        raise UnreadableError from problem


def wrong_array(arrays: dict[str, Any], form: dict[str, tuple[str, tuple]]) -> str | None:
    """The first array that is missing, not of the kind and shape that `SCORED` or `LEFT_OUT` says, or not finite."""
    count = None
    for key, (kinds, shape) in form.items():
        if arrays.get(key) is None:
            if key not in arrays or key in _ALWAYS:
                return key
            continue
        array = np.asarray(arrays[key])
        if array.dtype.kind not in kinds or array.ndim != len(shape):
            return key
        for size, wanted in zip(array.shape, shape, strict=True):
            if wanted == "n":  # 以最先一项的长度为准
                wanted = count = size if count is None else count
            if wanted not in (None, size):
                return key
        if kinds == "f" and key not in _MAY_BE_NAN and not np.isfinite(array).all():
            return key
    return None

"""What stored files must be made of: the types within JSON records and small arrays. Imports no torch.

A file that was edited, or that another program wrote, is recognised here and not by what fails on it later.
"""

import io
import warnings
from typing import Any

import numpy as np

NUMBER = "number"
LEVEL = {"image": (NUMBER, None), "pixel": (NUMBER, None)}

# 字典：所列的键须有，带 ? 的可以没有，键 str 管其余的；列表：每项；元组：几者之一
_FIGURES = {
    "image_rocauc": (NUMBER, None),
    "pixel_rocauc": (NUMBER, None),
    "pixel_aupro?": (NUMBER, None),  # 旧结果没有
    "published": ({"image": NUMBER, "pixel": NUMBER}, None),
    "difference": (LEVEL, None),
}
DATA = {"data_path": str, "file_names": str, "training_files": str, "test_files": str}
_ROW = (
    _FIGURES
    | DATA
    | {
        "threshold": (NUMBER, None),
        "n_train": int,
        "n_test": int,
        "seconds": {"total": NUMBER, str: NUMBER},
    }
)
RESULTS = {
    "classes": {str: _ROW},
    "averages": {str: (_FIGURES, None)},
    "run": {
        "options": dict,
        "configuration": {"layers?": ([{"name": str}], None)},
        "finished": [str],
        "command?": str,
        "peak_memory_bytes?": (NUMBER, None),
    },
    "complete": bool,
}
_VARIANT = {"label": str, "layers": [str], "reduction": str, "dimensions": int, "seed": (int, None)}
_VARIANT |= {"grid?": ([int], None)}  # 旧文件没有
_SPREAD = {"mean": NUMBER, "std": NUMBER, "min": NUMBER, "max": NUMBER}
_STUDY = {
    "variants": [_VARIANT],
    "classes": {str: {str: LEVEL}},
    "averages": {str: LEVEL},
    "spread": {"image": (_SPREAD, None), "pixel": (_SPREAD, None)},
}
STUDIES = {
    "configuration": {"layers?": ([{"name": str}], None)},
    "data": {str: DATA},
    "studies": {str: _STUDY},
}

# 小数组：元素的种类（numpy 的 kind）与形状；n 是测试图数，None 任意。没有的（None）都可以
_ARRAYS: dict[str, tuple[str, tuple]] = {
    "files": ("U", ("n",)),
    "labels": ("biu", ("n",)),
    "masks": ("biu", ("n", None, None)),
    "image_scores": ("f", ("n",)),
    "patches": ("f", ("n", None)),
    **dict.fromkeys(("threshold", "threshold_raw", "image_threshold_raw", "score_min", "score_max"), ("f", ())),
    **dict.fromkeys(("image_roc", "pixel_roc", "pixel_pr", "pixel_pro"), ("f", (None, 2))),
}
_ALWAYS = {"files", "labels", "image_scores", "patches", "score_min", "score_max"}  # 有这一项，就不会是 None


def matches(value: Any, form: Any) -> bool:
    """Whether ``value``, as read from JSON, is of a form.

    Parameters
    ----------
    value
    form
        A type; `NUMBER` (finite); None; a list of one form, for every item; a tuple of forms, for one of
        them; or a dict of the forms of keys, where ``"key?"`` may be missing and ``str`` is any other key.
    """
    if isinstance(form, tuple):
        return any(matches(value, one) for one in form)
    if form is None:
        return value is None
    if form == NUMBER:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
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


def is_results(content: Any) -> bool:
    """Whether this is the content of a results file."""
    return matches(content, RESULTS)


def is_studies(content: Any) -> bool:
    """Whether this is the content of a file of studies, with a figure for every variant of every class."""
    if not matches(content, STUDIES):
        return False
    studies = content["studies"].values()
    return all(
        row.keys() >= {variant["label"] for variant in study["variants"]}
        for study in studies
        for row in (study["averages"], *study["classes"].values())
    )


class UnreadableError(Exception):
    """Bytes that hold no arrays."""


def parse_arrays(content: bytes) -> np.ndarray | dict[str, np.ndarray]:
    """The array of a ``.npy`` file's content, or the arrays of a ``.npz`` file's.

    Raises
    ------
    UnreadableError
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = np.load(io.BytesIO(content), allow_pickle=False)
            return loaded if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except Exception as problem:  # 读的是内存里的字节，错都在内容：zipfile 与 numpy 抛什么都有可能
        raise UnreadableError from problem


def wrong_array(arrays: dict[str, Any]) -> str | None:
    """The first of a class's small arrays that is not of its kind and shape, or not finite; None if all are."""
    count = None
    for key, (kinds, shape) in _ARRAYS.items():
        if arrays.get(key) is None:
            if key in arrays and key in _ALWAYS:
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
        if kinds == "f" and not np.isfinite(array).all():
            return key
    return None

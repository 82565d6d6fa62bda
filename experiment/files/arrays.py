"""The small arrays of a class, and its row of the results: their keys, written and read here. Imports no torch.

一类的小数组与它在结果里的一行：键都在此处，写、读也在此处。
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from padim.counts import Masks
from padim.metrics import ClassEvaluation, normalise
from system.errors import UserError
from system.files import Staged, replacing

METRICS = (
    "image_rocauc",
    "pixel_rocauc",
    "pixel_aupro",
    "pixel_aupro_05",
    "pixel_aupimo",
    "image_ap",
    "image_f1",
    "pixel_ap",
    "pixel_f1",
)
INTERVALS = ("image_rocauc_interval", "pixel_rocauc_interval")  # 95 %
_UNSCORED: dict[str, Any] = {**dict.fromkeys((*METRICS, *INTERVALS, "threshold")), "remarks": []}  # 没有测试图片的一类

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
_MAY_BE_NAN = {"pixel_aupimo", "maps"}  # 没有缺陷像素的图；区域之外
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


def arrays_of(
    found: ClassEvaluation,
    names: Sequence[str],
    kinds: Sequence[str],
    labels: np.ndarray,
    masks: Masks | None,
    patches: np.ndarray,
) -> dict[str, Any]:
    """The arrays of a class's test set, in the form `SCORED`; None is not available.

    Parameters
    ----------
    found : ClassEvaluation
    names, kinds : sequence of str, N
        The pictures' paths below the class folder, and the kinds of their defects.
    labels : ndarray, (N,)
    masks : (N, H, W), or None
    patches : ndarray, (N, d) float32
        The embeddings at the centre position.
    """
    image, pixel, overlap = found.image, found.pixel, found.overlap
    return {
        "labels": labels,
        "masks": masks,
        "image_scores": normalise(found.image_scores, *found.image_range),
        "image_score_min": found.image_range[0],
        "image_score_max": found.image_range[1],
        "threshold": found.threshold,
        "threshold_raw": pixel and pixel.threshold,
        "image_threshold_raw": image and image.threshold,
        "score_min": found.pixel_range[0],
        "score_max": found.pixel_range[1],
        "image_roc": image and image.roc,
        "pixel_roc": pixel and pixel.roc,
        "pixel_pr": pixel and pixel.pr,
        "pixel_pro": overlap and overlap.curve,
        "pixel_wins": found.wins,
        "pixel_aupimo": found.aupimo,
        "files": np.array(names),
        "kinds": np.array(kinds),
        "patches": patches,
    }


def row_of(
    found: ClassEvaluation | None, apart: Mapping[str, ClassEvaluation], decision: float | None, origin: str
) -> dict[str, Any]:
    """What a class's row of the results has of its evaluation.

    Parameters
    ----------
    found : ClassEvaluation or None
        None where nothing is scored.
    apart : mapping
        Evaluations of single kinds of defect; the threshold belongs to the whole test set, and is not in theirs.
    decision : float or None
        The threshold of the raw image scores.
    origin : str
        Where it is from.
    """
    rows = {kind: _entries(each) for kind, each in apart.items()}
    others = {kind: {key: value for key, value in row.items() if key != "threshold"} for kind, row in rows.items()}
    own = _UNSCORED if found is None else _entries(found)
    return own | {"image_threshold": decision, "threshold_origin": origin} | others


def _entries(found: ClassEvaluation) -> dict[str, Any]:
    """`METRICS`, ``threshold`` (of normalised pixel scores), `INTERVALS` ([low, high] or None), and ``remarks``."""
    image, pixel, overlap, strict = found.image, found.pixel, found.overlap, found.strict_overlap
    return {
        "image_rocauc": image and image.rocauc,
        "pixel_rocauc": pixel and pixel.rocauc,
        "pixel_aupro": overlap and overlap.aupro,
        "pixel_aupro_05": strict and strict.aupro,
        "pixel_aupimo": None if found.aupimo is None else float(np.nanmean(found.aupimo)),
        "image_ap": image and image.ap,
        "image_f1": image and image.f1,
        "pixel_ap": pixel and pixel.ap,
        "pixel_f1": pixel and pixel.f1,
        "threshold": found.threshold,
        "image_rocauc_interval": found.image_interval,
        "pixel_rocauc_interval": found.pixel_interval,
        "remarks": found.remarks,
    }


def write_npz(path: Path, arrays: dict[str, Any], staged: Staged | None) -> None:
    """Write arrays, by their keys; None becomes an empty one. ``staged`` gets the file, which vouches for others."""
    whole = {k: np.empty(0) if v is None else np.asarray(v) for k, v in arrays.items()}
    where = replacing(path) if staged is None else staged.writing(path, vouches=True)
    with where as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **whole)  # type: ignore[arg-type]


def read_npz(path: Path, form: dict[str, tuple[str, tuple]], remedy: str) -> dict[str, Any] | None:
    """What `write_npz` was given, or None where there is no file.

    Raises
    ------
    UserError
        If the file is damaged, or its arrays are not of this form; ``remedy`` ends the message.
    """
    try:
        loaded = parse_arrays(path.read_bytes())
    except FileNotFoundError:
        return None
    except UnreadableError as problem:
        raise UserError(f"{str(path)!r} is damaged; {remedy}") from problem
    if isinstance(loaded, np.ndarray):
        raise UserError(f"{str(path)!r} holds one array, not a class's; {remedy}")
    arrays = {k: None if v.shape == (0,) else v[()] for k, v in loaded.items()}
    if key := _wrong_array(arrays, form):
        raise UserError(f"{str(path)!r} is damaged or foreign: {key!r} is not what main.py writes; {remedy}")
    return arrays


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


def _wrong_array(arrays: dict[str, Any], form: dict[str, tuple[str, tuple]]) -> str | None:
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

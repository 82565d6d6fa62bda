"""The record beside stored features, as `padim.predict` needs it; imports no torch."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from padim.store import StoreError, read_json


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0  # True 也是 int 的实例


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_layer(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _list_of(check: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(check, value))


_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "arch": lambda v: isinstance(v, str),
    "weights_sha256": lambda v: isinstance(v, str),
    "seed": lambda v: type(v) is int,
    "dimensions": lambda v: _list_of(_is_count, v),
    "precision": lambda v: v in ("float32", "tf32", "bf16"),
    "preprocessing": lambda v: isinstance(v, dict),  # 内容由 Preprocessing.from_record 查
    "layers": lambda v: _list_of(_is_layer, v),
}
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "weights": lambda v: isinstance(v, str),
    "size": lambda v: _list_of(_is_count, v) and len(v) == 2 and min(v) > 0,
    "reduction": lambda v: v in ("random", "pca"),
    "held_out_scores": lambda v: v is None or _list_of(_is_score, v),
}


def read_record(path: Path) -> dict[str, Any]:
    """The record beside the stored features ``path``.

    Raises
    ------
    padim.store.StoreError
        If there are no features, they and the record do not belong together, or an entry of the record
        that scoring depends on is not there or is no such thing.
    """
    if not path.is_file():
        raise StoreError(f"no stored features {str(path)!r}; main.py writes them, see --model")
    beside = path.with_suffix(".json")
    record = read_json(beside)
    if record is None:
        raise StoreError(f"{str(beside)!r} is not there, or no record of main.py; fit again with --refit, see --model")
    if record.get("pickle_bytes") != path.stat().st_size:
        raise StoreError(f"{str(path)!r} is damaged, or not what {str(beside)!r} describes; fit again with --refit")
    for key, is_valid in (_ENTRIES | _OPTIONAL).items():
        if (key in record or key in _ENTRIES) and not is_valid(record.get(key)):
            shown = f"has {key} {str(record[key])[:60]!r}" if key in record else f"has no {key}"
            raise StoreError(f"{str(beside)!r} is no record of main.py: it {shown}; fit again with --refit")
    return record

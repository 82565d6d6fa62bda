"""Metrics of single kinds of defect, each against the good pictures.

单独某几种缺陷对正常图片的评价指标。
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from padim.counts import CHUNK
from padim.metrics import ClassEvaluation, evaluate_maps
from system.files import forget


def evaluate_apart(
    maps: np.ndarray | None,
    labels: np.ndarray,
    masks: Any,
    kinds: Sequence[str],
    apart: Sequence[str],
    image_scores: np.ndarray | None = None,
    region: np.ndarray | None = None,
) -> dict[str, ClassEvaluation]:
    """Evaluate some kinds of defect, each by itself against the good pictures.

    Parameters
    ----------
    maps : ndarray, (N, H, W) float32, or None
        Raw anomaly maps of the whole test set; may be a mapped file.
    labels : ndarray, (N,)
        1 for a picture with a defect.
    masks : (N, H, W), or None
        Non-zero is defect; read by slices. None scores images only.
    kinds : sequence of str, N
        The kind of each picture's defect.
    apart : sequence of str
        The kinds wanted.
    image_scores : ndarray, (N,) float32, optional
    region : ndarray, (H, W) bool, optional
        As for `padim.metrics.evaluate_maps`.

    Returns
    -------
    dict
        ``{kind: evaluation}``; a kind without pictures is left out.

    Notes
    -----
    The maps and masks of the good pictures and one kind are held in memory.
    """
    found = {}
    for kind in apart:
        if kind not in kinds:
            continue
        chosen = (np.asarray(kinds) == kind) | (labels == 0)
        some = None if masks is None else _chosen(masks, chosen)
        some_maps = None if maps is None else _chosen(maps, chosen)
        some_scores = None if image_scores is None else image_scores[chosen]
        found[kind] = evaluate_maps(some_maps, labels[chosen], some, some_scores, region)
    return found


def _chosen(arrays: Any, chosen: np.ndarray) -> np.ndarray:
    """Some of N arrays, copied a few at a time."""
    parts = []
    for start in range(0, len(chosen), CHUNK):
        part = slice(start, start + CHUNK)
        parts.append(np.asarray(arrays[part])[chosen[part]])
        forget(arrays)
    return np.concatenate(parts)

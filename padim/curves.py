"""Curves of metrics, thinned so that a few thousand points stand for millions.

曲线抽稀：几千个点代表几百万个点。
"""

from typing import Any

import numpy as np

MAX_POINTS = 2000  # 存盘曲线的点数上限
TOLERANCE = 1e-4  # 存盘曲线与精确曲线的最大距离
CELLS = int(2 / TOLERANCE)  # 先按网格粗抽的格数：每格内的起伏不到容差的一半


def thin(curve: np.ndarray) -> np.ndarray:
    """Leave out points of a curve (K, 2) that lie within `TOLERANCE` of the lines that remain.

    Never more than `MAX_POINTS` remain: where that many do not suffice (the first, noisy stretch of
    a precision–recall curve), the tolerance doubles until they do.
    """
    tolerance, thinned = TOLERANCE / 2, curve
    while len(thinned) > MAX_POINTS:
        thinned = curve[_douglas_peucker(curve, tolerance)]  # Douglas–Peucker 抽稀
        tolerance *= 2  # 点数仍超限：放宽容差
    return thinned


def _douglas_peucker(curve: np.ndarray, tolerance: float) -> np.ndarray:
    """Indices of the points to keep; all pieces of a level are split at once, without recursion."""
    kept, points = np.array([0, len(curve) - 1]), np.arange(len(curve) - 1)  # 起初一条弦，只有两端
    while len(points):
        piece = np.searchsorted(kept, points, side="right") - 1  # 每个点所属的弦
        start, chord = curve[kept[piece]], curve[kept[piece + 1]] - curve[kept[piece]]
        offset = curve[points] - start
        # 各点到所属的弦（线段）的距离：垂足在弦上的比例限于 0 到 1
        along = np.einsum("ij,ij->i", offset, chord) / np.maximum(np.einsum("ij,ij->i", chord, chord), 1e-300)
        distance = np.hypot(*(offset - np.clip(along, 0, 1)[:, None] * chord).T)
        # 每条弦上离得最远的一点；超过容差，弦就在那里一分为二
        first = np.flatnonzero(np.diff(piece, prepend=-1))
        worst = np.repeat(np.maximum.reduceat(distance, first), np.diff(first, append=len(points)))
        split = worst > tolerance
        farthest = points[split & (distance == worst)]
        _, one = np.unique(np.searchsorted(kept, farthest), return_index=True)  # 并列时取最前的一点
        kept = np.sort(np.r_[kept, farthest[one]])
        points = points[split]  # 余下的弦上的点不再看
    return kept


def bin_ends(*bins: np.ndarray) -> np.ndarray:
    """Indices at which any of the integer arrays is about to change or has just changed."""
    changes = np.logical_or.reduce([b[1:] != b[:-1] for b in bins])
    return np.flatnonzero(np.r_[True, changes] | np.r_[changes, True])  # 连续落在同一格的点，只留首尾


def vertices(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Two vertices (x, y) for each score, in turn: (2 K, 2)."""
    return np.column_stack([*one, *other]).reshape(-1, 2)


def polyline(*parts: Any) -> np.ndarray:
    """The parts' points one after another, repeated ones left out, thinned."""
    points = np.vstack(parts)
    return thin(points[np.r_[True, (points[1:] != points[:-1]).any(1)]])

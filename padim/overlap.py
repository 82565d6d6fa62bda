"""Per-region overlap against the false-positive rate, exactly: the paper's PRO-score.

区域重叠率随假阳性率的曲线，精确（论文 IV.A）。
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from padim.counts import Counts
from padim.curves import CELLS, bin_ends, polyline, vertices

PRO_LIMIT = 0.3  # 区域重叠曲线积分到此假阳性率
STRICT_LIMIT = 0.05  # 更严的上限：近年的论文另报的一项


@final
@dataclass(frozen=True)
class RegionOverlap:
    """Per-region overlap (PRO) against the false-positive rate.

    Attributes
    ----------
    aupro : float
        Area under the curve up to the limit, divided by the limit: 0 to 1.
    curve : ndarray, (K, 2) float64
        False-positive rate, mean overlap, from (0, 0) to the limit; thinned.
    """

    aupro: float
    curve: np.ndarray


def region_overlap(counts: Counts, limit: float = PRO_LIMIT) -> RegionOverlap:
    """The mean overlap with the defect regions, over all thresholds, up to a false-positive rate.

    Parameters
    ----------
    counts : Counts
    limit : float
        The largest false-positive rate, above 0 and at most 1.

    Notes
    -----
    At a threshold t the overlap is the mean over all regions R of |{p ∈ R : s(p) ≥ t}| / |R|, so that a small defect
    counts as much as a large one; the false-positive rate is over all normal pixels of all pictures, the good ones
    included. The curve has a point at every distinct score, is linear between them, and is cut at the limit by
    interpolation.

    References
    ----------
    Paper, section IV.A (PRO-score); Bergmann et al., "Uninformed Students", CVPR 2020.
    """
    negative, end = counts.negative, limit * counts.negative
    # 论文 IV.A 的 PRO：各缺陷区域被找到的比例，对区域取平均，大小缺陷分量相同
    found = np.minimum(np.cumsum(counts.gain[::-1])[::-1], 1)  # t 及以上的平均重叠
    before = np.r_[found[1:], 0.0]  # t 以上的
    reached = counts.false_positives  # 正常像素：t 及以上
    above = reached - counts.equal  # t 以上
    following = np.r_[negative, above[:-1]]  # 下一个（更低的）得分以上

    # 面积：斜段（同分）截在上限处，再加平段
    part = np.clip(end - above, 0, counts.equal)
    slope = (found - before) / np.maximum(counts.equal, 1)
    area = part @ (before + slope * part / 2) + np.clip(end - reached, 0, following - reached) @ found

    inside = np.flatnonzero(above <= max(end, above[-1]))  # 得分升序，故是末尾的一段，至少一个
    kept = inside[bin_ends(*(np.floor(v[inside] * CELLS).astype(np.int32) for v in (reached / negative, found)))][::-1]
    curve = vertices((above[kept] / negative, before[kept]), (reached[kept] / negative, found[kept]))
    curve = np.vstack([[0.0, 0.0], curve, [following[inside[0]] / negative, found[inside[0]]]])
    within = curve[:, 0] <= limit
    last = max(np.interp(limit, *curve.T), curve[within][-1, 1])  # 上限处若是竖段，取其上端
    return RegionOverlap(float(area / end), polyline(curve[within], [limit, last]))

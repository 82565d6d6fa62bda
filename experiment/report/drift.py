"""Whether new pictures still score as good ones do, in one sentence and a few bars.

新图片的得分是否仍像好图的那样分布：一句话，几根柱。

With n scores of good pictures, `Thresholds.p_value` is one of 1/(n + 1), 2/(n + 1), …, 1, each as likely as any other
for a picture drawn as the n were. How many of m such pictures have one of k of these values varies, since both the n
and the m are samples: as in ``plot/calibration.py``, it is beta-binomial (m; k, n + 1 − k).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

PARTS = 20  # 每份占好图得分的 5 %
FEWEST = 20  # 新图与好图的得分都至少这么多：再少，就没有第 95 百分位可言


class Proportion(NamedTuple):
    """A share of the new pictures: found, expected, and the two standard errors by which chance moves it."""

    found: float
    usual: float
    margin: float

    def within(self) -> str:
        """What would be usual, in percent; the margin is rounded up."""
        return f"{100 * self.usual:.0f} ± {math.ceil(100 * self.margin)} %"


@dataclass(frozen=True)
class Drift:
    """How the new pictures' scores lie among those of good pictures.

    Attributes
    ----------
    sentence : str
        The shares above the good scores' median and 95th percentile.
    parts : list of Proportion
        Of each twentieth of the good scores, the lowest first.
    """

    sentence: str
    parts: list[Proportion]


def drift(p_values: Sequence[float], n_good: int) -> Drift | None:
    """Compare new pictures with the good ones that their p values are of.

    Parameters
    ----------
    p_values : sequence of float, (m,)
        From `experiment.report.threshold.Thresholds.p_value`.
    n_good : int
        n, the good pictures' scores.

    Returns
    -------
    Drift or None
        None with fewer than `FEWEST` of either.
    """
    m, n = len(p_values), n_good
    if min(m, n) < FEWEST:
        return None

    def share(found: float, values: int) -> Proportion:
        usual = values / (n + 1)
        return Proportion(found, usual, 2 * math.sqrt(usual * (1 - usual) * (n + 1 + m) / (m * (n + 2))))

    # 第 i 份：p 值在 i/20 与 (i + 1)/20 之间；得分最高的在前
    counts = np.bincount(np.searchsorted(np.arange(1, PARTS + 1) / PARTS, p_values), minlength=PARTS)
    values = np.diff([i * (n + 1) // PARTS for i in range(PARTS + 1)])  # 各份里 p 值的个数
    parts = [share(int(count) / m, int(k)) for count, k in zip(counts, values, strict=True)]
    half, tail = (share(int(counts[:k].sum()) / m, int(values[:k].sum())) for k in (PARTS // 2, 1))
    sentence = (
        f"of {m} pictures {100 * half.found:.0f} % lie above the median of the good pictures' scores and "
        f"{100 * tail.found:.0f} % above their 95th percentile; {half.within()} and {tail.within()} would be usual"
    )
    return Drift(sentence, parts[::-1])

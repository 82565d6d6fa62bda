"""Whether new pictures score as good ones do: shares that are counted, and chance as it is drawn."""

import re

import numpy as np
import pytest

from experiment.report.drift import FEWEST, PARTS, drift
from experiment.report.threshold import Thresholds


def p_values(good: np.ndarray, new: np.ndarray) -> list[float]:
    thresholds = Thresholds(None, None, "", good=good.tolist())
    return [thresholds.p_value(score) for score in new.tolist()]


def test_the_sentence_counts():
    """Above the scores 1 to 99: one that equals the 95th is not above it, and p values are hundredths."""
    good = np.arange(1.0, 100.0)
    found = drift(p_values(good, np.repeat([10.0, 50.0, 50.5, 60.0, 95.0, 95.5, 300.0], [3, 5, 4, 8, 6, 2, 72])), 99)
    assert found.sentence == (
        "of 100 pictures 92 % lie above the median of the good pictures' scores and 74 % above their 95th percentile; "
        "50 ± 15 % and 5 ± 7 % would be usual"
    )
    assert [share.found for share in found.parts] == pytest.approx(
        [0, 0.03] + [0] * 7 + [0.05, 0.04, 0.08] + [0] * 6 + [0.06, 0.74]
    )
    assert sum(share.found for share in found.parts) == pytest.approx(1)


@pytest.mark.parametrize(("n", "m"), [(20, 500), (101, 40), (400, 300)])
def test_chance_is_what_is_drawn(n, m):
    """Good scores and new pictures of one distribution, drawn again and again: mean and spread of every share."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4000):
        good, new = np.sort(rng.gamma(4, size=n)), rng.gamma(4, size=m)
        p = (1 + n - np.searchsorted(good, new)) / (n + 1)
        found = drift(p.tolist(), n)
        drawn.append([share.found for share in found.parts])
    assert p.tolist() == p_values(good, new)
    drawn = np.array(drawn)
    usual, margin = np.array([share[1:] for share in found.parts]).T
    assert np.abs(drawn.mean(0) - usual).max() < 4 * margin.max() / 2 / np.sqrt(4000)
    np.testing.assert_allclose(drawn.std(0), margin / 2, rtol=0.1)
    half = [100 * part for part in (drawn[:, PARTS // 2 :].sum(1).mean(), 2 * drawn[:, PARTS // 2 :].sum(1).std())]
    said = [int(part) for part in re.search(r"; (\d+) ± (\d+) % and", found.sentence).groups()]
    assert said[0] == pytest.approx(half[0], abs=1) and half[1] - 0.7 <= said[1] <= half[1] * 1.05 + 1


def test_too_few_say_nothing():
    assert drift([0.5] * (FEWEST - 1), 500) is None and drift([0.5] * 500, FEWEST - 1) is None
    assert drift([0.5] * FEWEST, FEWEST) is not None and drift([], 0) is None

"""How far a ROC AUC can be trusted: DeLong's interval over pictures, and a bootstrap over pictures for pixels.

ROC AUC 有多可信：图像级用 DeLong 的区间，像素级对图片（而非像素）做自助抽样。

References
----------
DeLong, DeLong, Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic
curves", Biometrics 1988.
"""

import numpy as np

Z = 1.959963984540054  # 标准正态分布的 97.5 百分位
DRAWS, SEED = 2000, 0
ENDS = (2.5, 97.5)  # 95 % 的区间，百分位
_EXACT = 2**53  # float64 里不大于此的整数都精确


def lacking(labels: np.ndarray) -> str | None:
    """Why pictures with these labels (N,) allow no interval, or None where they do."""
    for word, is_kind in (("defective", labels != 0), ("good", labels == 0)):
        if np.count_nonzero(is_kind) < 2:
            return f"there are fewer than two {word} test pictures"
    return None


def placements(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every picture's part of the ROC AUC.

    Parameters
    ----------
    scores, labels : ndarray, (N,)
        A label that is not zero is a defect.

    Returns
    -------
    defective : ndarray, (m,) float64
        For each defective picture the share of the good ones that score lower; ties count half. The mean is the area.
    good : ndarray, (n,) float64
        For each good picture the share of the defective ones that score higher, likewise.
    """
    high, low = np.sort(scores[labels != 0]), np.sort(scores[labels == 0])
    above, below = scores[labels != 0], scores[labels == 0]
    wins = np.searchsorted(low, above, "left") + np.searchsorted(low, above, "right")  # 两倍，同分的算一次
    losses = np.searchsorted(high, below, "left") + np.searchsorted(high, below, "right")
    return wins / (2 * len(low)), 1 - losses / (2 * len(high))


def standard_error(defective: np.ndarray, good: np.ndarray) -> float:
    """DeLong's, of an area from its placements (m,) and (n,), or of a difference of areas from theirs."""
    return float(np.sqrt(defective.var(ddof=1) / len(defective) + good.var(ddof=1) / len(good)))


def image_interval(scores: np.ndarray, labels: np.ndarray) -> tuple[list[float] | None, str | None]:
    """DeLong's 95 % interval of the ROC AUC, on the logit scale, so that it stays between 0 and 1.

    Parameters
    ----------
    scores, labels : ndarray, (N,)
        A label that is not zero is a defect.

    Returns
    -------
    interval : [float, float] or None
    reason : str or None
        Why there is none.

    Notes
    -----
    With the area A and its standard error s, the ends are logit⁻¹(logit A ± z·s/(A(1 − A))). Where the area is 1, s
    is 0, and an interval [1, 1] would claim certainty where nothing is known: there is none then.
    """
    if reason := lacking(labels):
        return None, reason
    parts = placements(scores, labels)
    area, error = float(parts[0].mean()), standard_error(*parts)
    if error == 0:
        return None, no_spread(area)
    middle, reach = np.log(area / (1 - area)), Z * error / (area * (1 - area))
    return [float(1 / (1 + np.exp(-end))) for end in (middle - reach, middle + reach)], None


def no_spread(area: float) -> str:
    """The reason where every picture says the same."""
    return f"the area is {area:g} whichever pictures are left out"


def draws(labels: np.ndarray) -> np.ndarray:
    """How often each picture is drawn, (`DRAWS`, N) int64: good and defective ones apart, as many as there are."""
    rng = np.random.default_rng(SEED)
    weights = np.zeros((DRAWS, len(labels)), np.int64)
    for is_kind in (labels == 0, labels != 0):
        if count := np.count_nonzero(is_kind):
            weights[:, is_kind] = rng.multinomial(count, np.full(count, 1 / count), DRAWS)
    return weights


def drawn_areas(weights: np.ndarray, wins: np.ndarray, defect: np.ndarray, size: int) -> np.ndarray:
    """The pixel ROC AUC of every draw of pictures, exactly.

    Parameters
    ----------
    weights : ndarray, (S, N) int64
        From `draws`.
    wins : ndarray, (D, N) int64
        From `padim.counts.count_pixels`; a row for each picture with defect pixels.
    defect : ndarray, (N,) int64
        Every picture's defect pixels.
    size : int
        Pixels of a picture.

    Returns
    -------
    ndarray, (S,) float64
        wᵀMw over the number of pairs, with M half of ``wins``; NaN for a draw without a defect pixel, or without a
        normal one.
    """
    positive, negative = weights @ defect, weights @ (size - defect)  # (S,)
    # 乘积都是整数；不出 2⁵³ 的，float64 的矩阵乘法同样精确，而且快得多
    kind = np.float64 if 2 * size * int(positive.max()) < _EXACT else np.int64
    won = weights[:, defect > 0].astype(kind) @ wins.astype(kind)  # (S, N)，抽到的缺陷像素对各图的正常像素
    twice = np.einsum("sn,sn->s", won.astype(np.int64), weights)
    pairs = positive * negative
    return np.divide(twice, 2 * pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def pixel_interval(
    wins: np.ndarray, labels: np.ndarray, defect: np.ndarray, size: int
) -> tuple[list[float] | None, str | None]:
    """The 95 % interval of the pixel ROC AUC by a bootstrap over pictures: pixels of one picture depend on each other.

    Parameters
    ----------
    wins, defect, size
        As for `drawn_areas`.
    labels : ndarray, (N,)

    Returns
    -------
    interval : [float, float] or None
    reason : str or None
        Why there is none.
    """
    if reason := lacking(labels):
        return None, reason
    areas = drawn_areas(draws(labels), wins, defect, size)
    interval = between(areas)
    return (interval, None) if interval else (None, no_spread(float(areas[~np.isnan(areas)][0])))


def between(drawn: np.ndarray) -> list[float] | None:
    """The 2.5th and 97.5th percentile of drawn areas or differences (S,), NaN left out; None where all are equal."""
    known = drawn[~np.isnan(drawn)]
    low, high = (float(np.percentile(known, end)) for end in ENDS)
    return [low, high] if known.min() < known.max() else None

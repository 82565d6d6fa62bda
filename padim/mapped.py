"""Stored features as views of the file, so that one position's matrix costs no more than itself.

Imports no torch. A pickle of 3.8 GB is not read to look at 1.2 MB of it.
"""

from pathlib import Path

import numpy as np

from padim import features
from padim.store import reading


def map_features(path: Path, positions: int, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (P, d) and covariance (P, d, d), float32, views of the pickle ``path``.

    Parameters
    ----------
    path : Path
        What `padim.store.write_features` wrote.
    positions, dimensions : int
        P and d, from the JSON beside it.

    Raises
    ------
    padim.store.DamagedError
        If the file is truncated, or holds anything else than two such arrays; if the mean is not
        finite. A covariance is checked with `check` before it is used.
    """
    with reading(path):
        return features.mapped(path, positions, dimensions)


def check(path: Path, covariances: np.ndarray, first: int = 0) -> None:
    """Raise DamagedError unless these (n, d, d) from ``path`` can be covariances.

    ``first`` is the position of the first one.
    """
    with reading(path):
        features.check_covariances(covariances, first)

import pickle

import numpy as np
import pytest

from experiment.fitted import DamagedError, map_fitted, read_fitted, write_fitted
from system.errors import UserError


def written(path, positions, dimensions):
    rng = np.random.default_rng(0)
    mean = rng.random((positions, dimensions)).astype(np.float32)
    factors = rng.random((positions, dimensions, dimensions)).astype(np.float32)
    write_fitted(path, mean, factors + factors.transpose(0, 2, 1), {})
    return path


@pytest.mark.parametrize(("positions", "dimensions"), [(3136, 7), (9, 4)])
def test_the_same_as_reading_the_file(tmp_path, positions, dimensions):
    path = written(tmp_path / "x.pkl", positions, dimensions)
    for mapped, read in zip(
        map_fitted(path, positions, dimensions), read_fitted(path, positions, dimensions), strict=True
    ):
        np.testing.assert_array_equal(mapped, read)


def test_nothing_is_read_that_is_not_asked_for(tmp_path):
    _, covariance = map_fitted(written(tmp_path / "x.pkl", 3136, 7), 3136, 7)
    assert not covariance.flags.owndata and covariance[0].flags.c_contiguous


def test_damaged_files(tmp_path):
    path = written(tmp_path / "x.pkl", 3136, 7)
    content = path.read_bytes()
    with pytest.raises(DamagedError, match="holds arrays"):
        map_fitted(path, 3136, 8)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedError, match="truncated"):
        map_fitted(path, 3136, 7)
    path.write_bytes(content[:-20])
    with pytest.raises(DamagedError):
        map_fitted(path, 3136, 7)
    path.write_bytes(b"")
    with pytest.raises(DamagedError):
        map_fitted(path, 3136, 7)
    mean, covariance = np.zeros((7, 3136), np.float64), np.zeros((7, 7, 3136), np.float32)
    path.write_bytes(pickle.dumps([mean, covariance], protocol=5))
    with pytest.raises(DamagedError):
        map_fitted(path, 3136, 7)


def test_nothing_in_the_pickle_is_run(tmp_path):
    path = written(tmp_path / "x.pkl", 3136, 7)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.numeric", b"numpy._core.numerix"))
    with pytest.raises(UserError, match="asks for"):
        map_fitted(path, 3136, 7)

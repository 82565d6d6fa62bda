"""A pickle and its JSON: written together, read back, told from another run's."""

import json
import pickle
import random
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest

from experiment.files.gaussians import (
    DamagedError,
    components_path,
    read_components,
    read_fitted,
    write_fitted,
)
from experiment.files.provenance import stored_state
from system.direct import Writer
from system.errors import UserError

WANTED = {
    "arch": "resnet18",
    "weights_sha256": "ab",
    "seed": 1,
    "dimensions": [2, 0],
    "precision": "float32",
    "preprocessing": {"crop": 224},
    "training_files": "f00",
}


@pytest.fixture
def features(tmp_path):
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((5, 2)).astype(np.float32)
    factor = rng.standard_normal((5, 2, 2)).astype(np.float32)
    covariance = factor @ factor.transpose(0, 2, 1)
    path = tmp_path / "temp_resnet18" / "train_x.pkl"
    write_fitted(path, mean, covariance, WANTED)
    return path, mean, covariance


def test_numpy_alone_reads_a_pickle(features):
    """In a process that has only numpy: the thesis's shapes and order."""
    path, mean, covariance = features
    code = (
        "import pickle, sys, json; m, c = pickle.load(open(sys.argv[1], 'rb'));"
        "assert not {'torch', 'padim', 'experiment'} & set(sys.modules);"
        "print(json.dumps([m.shape, c.shape, str(m.dtype), str(c.dtype), m.tolist(), c.tolist()]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    m_shape, c_shape, m_type, c_type, m, c = json.loads(run.stdout)
    assert (m_shape, c_shape, m_type, c_type) == ([2, 5], [2, 2, 5], "float32", "float32")
    np.testing.assert_array_equal(np.float32(m), mean.T)
    np.testing.assert_array_equal(np.float32(c), covariance.transpose(1, 2, 0))


def test_features_come_back_position_major_and_writable(features):
    path, mean, covariance = features
    m, c = read_fitted(path, 5, 2)
    np.testing.assert_array_equal(m, mean)
    np.testing.assert_array_equal(c, covariance)
    assert c.flags.c_contiguous and c.flags.writeable


def test_whose_features(features, tmp_path):
    path, _, _ = features
    assert stored_state(tmp_path / "absent.pkl", WANTED) == "none"
    assert stored_state(path, WANTED) == "same"
    assert stored_state(path, WANTED | {"training_files": "f01"}) == "other data"
    for change, words in {
        "seed 1, this run has seed 2": {"seed": 2},
        "2 dimensions, this run has 3 dimensions": {"dimensions": [1, 2, 3]},
        "weights_sha256 ab, this run has weights_sha256 cd": {"weights_sha256": "cd"},
    }.items():
        with pytest.raises(UserError, match=rf"{change}.*--save_path.*--refit"):
            stored_state(path, WANTED | words)
    layers = [{"name": "layer1"}]
    for foreign in ({"dimensions": 7}, {"weights_sha256": 7}, {"arch": [[]]}, {"layers": ["layer1"]}, {"layers": 3}):
        path.with_suffix(".json").write_text(json.dumps(WANTED | foreign))
        with pytest.raises(UserError, match="this run has"):
            stored_state(path, WANTED | {"layers": layers})
    path.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="no record"):
        stored_state(path, WANTED)


def test_other_channels_of_the_same_number_are_told_apart(features):
    with pytest.raises(UserError, match="other channels"):
        stored_state(features[0], WANTED | {"dimensions": [0, 2]})


def test_damage_is_noticed(features):
    path, _, _ = features
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert stored_state(path, WANTED) == "damaged"
    for broken in (content[:-20], b"", b"hello", pickle.dumps([1, 2]), pickle.dumps([np.zeros(3)] * 2)):
        path.write_bytes(broken)
        with pytest.raises(DamagedError, match=r"train_x\.pkl"):
            read_fitted(path, 5, 2)
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"\(2, 5\)"):
        read_fitted(path, 5, 3)


def test_a_pickle_cannot_execute(features, tmp_path):
    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",)

    path, _, _ = features
    path.write_bytes(pickle.dumps([Payload(), Payload()]))
    with pytest.raises(UserError, match=r"builtins\.exec"):
        read_fitted(path, 5, 2)
    assert not (tmp_path / "executed").exists()


def test_a_failed_refit_leaves_the_old_pair(features, monkeypatch):
    path, mean, covariance = features
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_fitted(path, mean, covariance, WANTED | {"training_files": "new"})
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before
    assert len(list(path.parent.iterdir())) == 2


def test_components(tmp_path):
    path, components = tmp_path / "train_x.pkl", np.eye(3, 5, dtype=np.float32)
    beside = components_path(path)

    def written(array: np.ndarray) -> bytes:
        np.save(beside, array)
        return beside.read_bytes()

    content = written(components)
    np.testing.assert_array_equal(read_components(path, 3, 5), components)
    header = content.replace(b"'shape': (3, 5)", b"'shape': (9999999999999, 5)", 1)
    np.savez(tmp_path / "z.npz", components)
    broken = [
        b"", b"hello", content[:-1], content + bytes(5000), header, b"PK\x03\x04" + bytes(70),
        written(components.T), written(components.astype(np.float64)), written(components * np.nan),
        written(np.float32(3)), (tmp_path / "z.npz").read_bytes(),
        content.replace(b"fortran_order", b"fortran_0rder"), content.replace(b"<f4", b"|O8"),
    ]  # fmt: skip
    for bytes_ in broken:
        beside.write_bytes(bytes_)
        with pytest.raises(DamagedError, match=r"train_x_components\.npy"):
            read_components(path, 3, 5)
    rng = random.Random(0)
    for _ in range(300):
        mutated = bytearray(content)
        mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        beside.write_bytes(mutated)
        with suppress(DamagedError):
            assert np.isfinite(read_components(path, 3, 5)).all()
    beside.unlink()
    with pytest.raises(DamagedError, match="missing"):
        read_components(path, 3, 5)

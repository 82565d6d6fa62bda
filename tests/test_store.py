import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from padim.store import DamagedError, Store, StoreError, read_features, replacing, stored_features, write_features

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
    write_features(path, mean, covariance, WANTED)
    return path, mean, covariance


def test_numpy_alone_reads_a_pickle(features):
    """In a process that has only numpy: the thesis's shapes and order."""
    path, mean, covariance = features
    code = (
        "import pickle, sys, json; m, c = pickle.load(open(sys.argv[1], 'rb'));"
        "assert not {'torch', 'padim'} & set(sys.modules);"
        "print(json.dumps([m.shape, c.shape, str(m.dtype), str(c.dtype), m.tolist(), c.tolist()]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    m_shape, c_shape, m_type, c_type, m, c = json.loads(run.stdout)
    assert (m_shape, c_shape, m_type, c_type) == ([2, 5], [2, 2, 5], "float32", "float32")
    np.testing.assert_array_equal(np.float32(m), mean.T)
    np.testing.assert_array_equal(np.float32(c), covariance.transpose(1, 2, 0))


def test_features_come_back_position_major_and_writable(features):
    path, mean, covariance = features
    m, c = read_features(path, 5, 2)
    np.testing.assert_array_equal(m, mean)
    np.testing.assert_array_equal(c, covariance)
    assert c.flags.c_contiguous and c.flags.writeable


def test_whose_features(features, tmp_path):
    path, _, _ = features
    assert stored_features(tmp_path / "absent.pkl", WANTED) == "none"
    assert stored_features(path, WANTED) == "same"
    assert stored_features(path, WANTED | {"training_files": "f01"}) == "other data"
    for change, words in {
        "seed 1, this run has seed 2": {"seed": 2},
        "2 dimensions, this run has 3 dimensions": {"dimensions": [1, 2, 3]},
        "weights_sha256 ab, this run has weights_sha256 cd": {"weights_sha256": "cd"},
    }.items():
        with pytest.raises(StoreError, match=rf"{change}.*--save_path.*--refit"):
            stored_features(path, WANTED | words)
    for foreign in ({"dimensions": 7}, {"weights_sha256": 7}, {"arch": [[]]}):
        path.with_suffix(".json").write_text(json.dumps(WANTED | foreign))
        with pytest.raises(StoreError, match="this run has"):
            stored_features(path, WANTED)
    path.with_suffix(".json").unlink()
    with pytest.raises(StoreError, match="no record"):
        stored_features(path, WANTED)


def test_other_channels_of_the_same_number_are_told_apart(features):
    with pytest.raises(StoreError, match="other channels"):
        stored_features(features[0], WANTED | {"dimensions": [0, 2]})


def test_damage_is_noticed(features):
    path, _, _ = features
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert stored_features(path, WANTED) == "damaged"
    for broken in (content[:-20], b"", b"hello", pickle.dumps([1, 2]), pickle.dumps([np.zeros(3)] * 2)):
        path.write_bytes(broken)
        with pytest.raises(DamagedError, match=r"train_x\.pkl"):
            read_features(path, 5, 2)
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"\(2, 5\)"):
        read_features(path, 5, 3)


def test_a_pickle_cannot_execute(features, tmp_path):
    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",)

    path, _, _ = features
    path.write_bytes(pickle.dumps([Payload(), Payload()]))
    with pytest.raises(DamagedError, match=r"builtins\.exec"):
        read_features(path, 5, 2)
    assert not (tmp_path / "executed").exists()


def test_a_failed_refit_leaves_the_old_pair(features, monkeypatch):
    path, mean, covariance = features
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pickle, "dump", full)
    with pytest.raises(OSError, match="No space"):
        write_features(path, mean, covariance, WANTED | {"training_files": "new"})
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before
    assert len(list(path.parent.iterdir())) == 2


def test_damaged_arrays_are_named(tmp_path):
    store = Store(tmp_path, "resnet18")
    store.write_arrays("x", {"a": 1})
    content = store.arrays("x").read_bytes()
    for broken in (content[:-30], b"", b"hello"):
        store.arrays("x").write_bytes(broken)
        with pytest.raises(StoreError, match=r"x\.npz"):
            store.read_arrays("x")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "sub" / "x.json"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_scores_and_arrays(tmp_path):
    store = Store(tmp_path / "r", "resnet18")
    with store.score_files("x", (2, 4, 5)) as (maps, images):
        maps[:] = 3
        images[1] = 7
    assert np.load(store.maps("x"), mmap_mode="r").shape == (2, 4, 5)
    assert np.load(store.images("x"), mmap_mode="r")[1].min() == 7
    assert store.read_arrays("x") is None
    store.write_arrays("x", {"masks": None, "files": np.array(["a/é.png"]), "threshold": 0.5})
    arrays = store.read_arrays("x")
    assert arrays["masks"] is None and arrays["threshold"] == 0.5 and arrays["files"].tolist() == ["a/é.png"]
    with pytest.raises(RuntimeError), store.score_files("x", (2, 4, 5)):
        raise RuntimeError
    assert store.read_arrays("x") is None  # 分数作废在先：旧数组不与新图混用
    assert np.load(store.maps("x")).max() == 3
    assert not list(store.root.rglob("*.tmp"))


def test_pictures_of_a_class_with_a_similar_name_stay(tmp_path):
    store = Store(tmp_path, "resnet18")
    names = ["a_0", "a_12", "a_1_0", "b_0", "a_x"]
    store.picture("a", 0).parent.mkdir()
    for name in names:
        store.picture("a", 0).with_name(f"{name}.png").touch()
    store.clear_pictures("a")
    assert sorted(p.stem for p in store.picture("a", 0).parent.iterdir()) == ["a_1_0", "a_x", "b_0"]


def test_writable_check_leaves_nothing(tmp_path):
    Store(tmp_path / "new" / "deep", "resnet18").check_writable()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        Store(tmp_path / "file" / "below", "resnet18").check_writable()


def test_foreign_results(tmp_path):
    store = Store(tmp_path, "resnet18")
    assert store.read_results() is None
    shell = '{"classes": {}, "averages": {}, "run": {}, "complete": false}'
    whole = {"classes": {"x": {}}, "averages": {}, "complete": True}
    whole |= {"run": {"options": {}, "configuration": {}, "finished": []}}
    for content in ("[]", "{}", "oops", shell, "[" * 100_000, json.dumps(whole), json.dumps(whole | {"classes": []})):
        store.results.write_text(content)
        with pytest.raises(StoreError, match="no results file"):
            store.read_results()


@pytest.mark.parametrize("module", ["store", "figures", "metrics", "style", "results"])
def test_figures_and_files_need_no_torch(module):
    code = f"import sys, padim.{module}; sys.exit(bool({{'torch', 'sklearn'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

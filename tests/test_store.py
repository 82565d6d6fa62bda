import io
import json
import math
import os
import pickle
import random
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from conftest import ROOT
from synthetic import write_ablation, write_results

from padim.metrics import evaluate_maps
from padim.store import (
    DamagedError,
    Store,
    StoreError,
    components_path,
    read_components,
    read_features,
    replacing,
    stored_features,
    write_features,
)

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
    layers = [{"name": "layer1"}]
    for foreign in ({"dimensions": 7}, {"weights_sha256": 7}, {"arch": [[]]}, {"layers": ["layer1"]}, {"layers": 3}):
        path.with_suffix(".json").write_text(json.dumps(WANTED | foreign))
        with pytest.raises(StoreError, match="this run has"):
            stored_features(path, WANTED | {"layers": layers})
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
    with pytest.raises(StoreError, match=r"builtins\.exec"):
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


def test_damaged_arrays_are_named(scored):
    store, path = scored, scored.arrays("x")
    content = path.read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    entry = content.index(b"PK\x01\x02")  # 目录里的一项：标志在其后 8 字节处，压缩方法在 10 字节处
    encrypted, method = bytearray(content), bytearray(content)
    encrypted[entry + 8], method[entry + 10] = 1, 99
    for broken in (content[:-30], b"", b"hello", array.getvalue(), method, encrypted, pickle.dumps([1])):
        path.write_bytes(broken)
        with pytest.raises(StoreError, match=r"x\.npz"):
            store.read_arrays("x")


@pytest.fixture
def scored(tmp_path):
    """A class's small arrays as main.py writes them."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 1], np.uint8)
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[1:, 2:5, 2:5] = 1
    arrays, _ = evaluate_maps(rng.random((3, 8, 8), np.float32) + masks, labels, masks)
    files = np.array(["test/good/0.png", "test/b/0.png", "test/b/1.png"])
    store = Store(tmp_path, "resnet18")
    store.write_arrays("x", arrays | {"files": files, "patches": rng.random((3, 4), np.float32)})
    return store


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_roc", np.zeros(5)), ("pixel_roc", np.zeros((5, 3))), ("pixel_pr", np.full((2, 2), np.nan)),
        ("pixel_pro", np.zeros((2, 2), int)), ("threshold_raw", np.zeros(2)), ("threshold", "0.5"),
        ("threshold", np.nan), ("score_min", None), ("score_max", np.inf), ("labels", np.zeros(4, np.uint8)),
        ("labels", np.array(["0", "1", "1"])), ("files", np.zeros(3)), ("files", np.array(["one.png"])),
        ("masks", np.zeros((3, 8), np.uint8)), ("masks", np.zeros((2, 8, 8), np.uint8)), ("patches", np.zeros(3)),
        ("image_scores", None),
    ],
)  # fmt: skip
def test_arrays_of_other_types_and_shapes(scored, key, value):
    arrays = scored.read_arrays("x")
    scored.write_arrays("x", arrays | {key: value})
    with pytest.raises(StoreError, match=rf"x\.npz.*'{key}'|x\.npz.*'(labels|image_scores|masks|patches)'"):
        scored.read_arrays("x")


def test_mutated_arrays(scored):
    """Whatever bytes are changed: the arrays as they were, or one StoreError that names the file."""
    path, rng = scored.arrays("x"), random.Random(0)
    content, whole = path.read_bytes(), scored.read_arrays("x")
    refused = 0
    for _ in range(400):
        mutated = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(mutated))
            match rng.randrange(4):
                case 0:
                    mutated[at] = rng.randrange(256)
                case 1:
                    mutated[at] ^= 1 << rng.randrange(8)
                case 2:
                    del mutated[at : at + rng.randint(1, 40)]
                case 3:
                    mutated[at:at] = rng.randbytes(rng.randint(1, 8))
        path.write_bytes(mutated)
        try:
            arrays = scored.read_arrays("x")
        except StoreError as problem:
            assert str(path) in str(problem) and "\n" not in str(problem)
            refused += 1
        else:  # 改的是校验和不管的字节：名字、时间
            for key in whole.keys() & arrays.keys():
                np.testing.assert_array_equal(arrays[key], whole[key])
    assert refused > 200


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


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    write_results(root, "resnet18", ("bottle", "tile"))
    write_ablation(root, "resnet18", ("bottle", "tile"))
    return root


ROW = ("classes", "tile")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*ROW, "seconds"), None), ((*ROW, "seconds", "fit"), "x"), ((*ROW, "image_rocauc"), "x"),
        ((*ROW, "image_rocauc"), True), ((*ROW, "pixel_rocauc"), math.nan), ((*ROW, "published"), 3),
        ((*ROW, "published", "image"), None), ((*ROW, "difference"), [1]), ((*ROW, "threshold"), 10**400),
        ((*ROW, "n_test"), 2.5), ((*ROW, "pixel_aupro"), []), (ROW, []), (("classes",), []),
        (("averages", "all"), 3), (("averages", "textures", "pixel_rocauc"), "0.5"), (("averages",), None),
        (("run", "configuration"), {"layers": ["layer1"]}), (("run", "configuration"), {"layers": 3}),
        (("run", "finished"), [1]), (("run", "command"), 1), (("run", "peak_memory_bytes"), "x"), (("complete",), 1),
    ],
)  # fmt: skip
def test_results_with_other_types_inside(results, tmp_path, place, value):
    there = Store(results, "resnet18")
    assert there.read_results()["complete"]
    spoil(there.results, Store(tmp_path, "resnet18").results, place, value)
    with pytest.raises(StoreError, match=r"results_resnet18\.json.*no results file"):
        Store(tmp_path, "resnet18").read_results()


STUDY = ("studies", "layers")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("configuration",), []), (("configuration",), {"layers": ["layer1"]}), (("studies",), None),
        (("studies",), {"layers": []}), ((*STUDY, "variants"), {}), ((*STUDY, "variants", 0, "layers"), "layer1"),
        ((*STUDY, "variants", 0, "label"), "another"), ((*STUDY, "classes", "tile", "layer1", "image"), "x"),
        ((*STUDY, "classes", "tile"), {}), ((*STUDY, "averages", "sum"), None), ((*STUDY, "spread"), None),
        ((*STUDY, "spread", "image", "std"), None),
    ],
)  # fmt: skip
def test_studies_with_other_types_inside(results, tmp_path, place, value):
    there, here = Store(results, "resnet18"), Store(tmp_path, "resnet18")
    assert there.read_studies().keys() == {"configuration", "studies"} and here.read_studies() is None
    spoil(there.ablation, here.ablation, place, value)
    with pytest.raises(StoreError, match=r"ablation_resnet18\.json.*no file of padim\.ablation"):
        here.read_studies()
    for content in ("", "[]", "{}", "[" * 100_000):
        here.ablation.write_text(content)
        with pytest.raises(StoreError, match=r"ablation_resnet18\.json"):
            here.read_studies()


def spoil(there, here, place, value):
    """Copy a JSON file with one entry changed."""
    content = json.loads(there.read_text(encoding="utf-8"))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    here.write_text(json.dumps(content), encoding="utf-8")


def test_names_that_are_no_utf_8(results, tmp_path):
    """A folder's bytes that are no text, as the file system hands them over: written escaped, and read back."""
    content, name = Store(results, "resnet18").read_results(), os.fsdecode(b"caf\xe9\\x")
    content["classes"][name] = content["classes"].pop("tile")
    content["run"]["finished"] = [name]
    store = Store(tmp_path, "resnet18")
    store.write_results(content)
    assert store.read_results() == content
    assert store.results.read_text(encoding="utf-8") and "caf" in store.results.with_suffix(".csv").read_text("utf-8")
    store.write_arrays(name, {"files": np.array([name])})
    assert store.read_arrays(name)["files"].tolist() == [name] and store.arrays(name).exists()


@pytest.mark.parametrize("module", ["store", "records", "verdict", "figures", "metrics", "style", "results"])
def test_figures_and_files_need_no_torch(module):
    code = f"import sys, padim.{module}; sys.exit(bool({{'torch', 'sklearn'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

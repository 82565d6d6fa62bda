"""Where files lie in a result folder, and what is read back from there."""

import io
import json
import math
import os
import pickle
import random

import numpy as np
import pytest
from synthetic import write_ablation, write_results

from experiment.files.arrays import arrays_of
from experiment.files.folder import Store
from padim.metrics import evaluate_maps
from system.errors import UserError
from system.files import Staged, check_writable, replacing


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
        with pytest.raises(UserError, match=r"x\.npz"):
            store.read_arrays("x")


@pytest.fixture
def scored(tmp_path):
    """A class's small arrays as main.py writes them."""
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 1], np.uint8)
    masks = np.zeros((3, 8, 8), np.uint8)
    masks[1:, 2:5, 2:5] = 1
    found = evaluate_maps(rng.random((3, 8, 8), np.float32) + masks, labels, masks)
    files = ["test/good/0.png", "test/b/0.png", "test/b/1.png"]
    store = Store(tmp_path, "resnet18")
    store.write_arrays("x", arrays_of(found, files, files, labels, masks, rng.random((3, 4), np.float32)))
    return store


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_roc", np.zeros(5)), ("pixel_roc", np.zeros((5, 3))), ("pixel_pr", np.full((2, 2), np.nan)),
        ("pixel_wins", np.zeros((1, 2))), ("pixel_wins", np.zeros(2, int)), ("pixel_aupimo", np.zeros((2, 1))),
        ("pixel_pro", np.zeros((2, 2), int)), ("threshold_raw", np.zeros(2)), ("threshold", "0.5"),
        ("threshold", np.nan), ("score_min", None), ("score_max", np.inf), ("labels", np.zeros(4, np.uint8)),
        ("labels", np.array(["0", "1", "1"])), ("files", np.zeros(3)), ("files", np.array(["one.png"])),
        ("masks", np.zeros((3, 8), np.uint8)), ("masks", np.zeros((2, 8, 8), np.uint8)), ("patches", np.zeros(3)),
        ("image_scores", None), ("kinds", np.zeros(3)),
    ],
)  # fmt: skip
def test_arrays_of_other_types_and_shapes(scored, key, value):
    arrays = scored.read_arrays("x")
    scored.write_arrays("x", arrays | {key: value})
    with pytest.raises(UserError, match=rf"x\.npz.*'{key}'|x\.npz.*'(labels|image_scores|masks|patches)'"):
        scored.read_arrays("x")


def test_mutated_arrays(scored):
    """Whatever bytes are changed: the arrays as they were, or one UserError that names the file."""
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
        except UserError as problem:
            assert str(path) in str(problem) and "\n" not in str(problem)
            refused += 1
        else:  # 改的是校验和不管的字节：名字、时间
            for key in whole.keys() & arrays.keys():
                np.testing.assert_array_equal(arrays[key], whole[key])
    assert refused > 200


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
    with Staged() as staged, store.score_files("x", (2, 4, 5), staged) as (maps, images, _):
        maps[:] = 3
        images[1] = 7
    assert np.load(store.maps("x"), mmap_mode="r").shape == (2, 4, 5)
    assert np.load(store.pictures("x"), mmap_mode="r")[1].min() == 7
    assert store.read_arrays("x") is None
    written = dict.fromkeys(["masks", "threshold_raw", "image_threshold_raw", "pixel_roc", "pixel_pr", "pixel_pro"])
    written |= dict.fromkeys(["pixel_wins", "pixel_aupimo"])
    written |= {
        "files": np.array(["a/é.png"]),
        "kinds": np.array(["good"]),
        "labels": np.zeros(1, np.uint8),
        "image_scores": np.ones(1),
    }
    written |= {
        "patches": np.ones((1, 3)),
        "score_min": 0.0,
        "score_max": 1.0,
        "image_score_min": 0.0,
        "image_score_max": 1.0,
        "image_roc": None,
        "threshold": 0.5,
    }
    store.write_arrays("x", written)
    arrays = store.read_arrays("x")
    for key in written:
        store.write_arrays("x", {k: v for k, v in written.items() if k != key})
        with pytest.raises(UserError, match=rf"x\.npz.*'{key}' is not what"):
            store.read_arrays("x")
    assert arrays["masks"] is None and arrays["threshold"] == 0.5 and arrays["files"].tolist() == ["a/é.png"]
    store.write_arrays("x", written)
    with pytest.raises(RuntimeError), Staged() as staged, store.score_files("x", (2, 4, 5), staged):
        raise RuntimeError
    assert store.read_arrays("x")["threshold"] == 0.5  # 新的没有齐，旧的就都还在
    assert np.load(store.maps("x")).max() == 3
    assert not list(store.root.rglob("*.tmp"))


def test_pictures_of_a_class_with_a_similar_name_stay(tmp_path):
    store = Store(tmp_path, "resnet18")
    names = ["a_0", "a_12", "a_1_0", "b_0", "a_x"]
    store.figure("a", 0).parent.mkdir()
    for name in names:
        store.figure("a", 0).with_name(f"{name}.png").touch()
    assert sorted(p.stem for p in store.figures("a")) == ["a_0", "a_12"]


def test_writable_check_leaves_nothing(tmp_path):
    check_writable(tmp_path / "new" / "deep")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        check_writable(tmp_path / "file" / "below")


def test_foreign_results(tmp_path):
    store = Store(tmp_path, "resnet18")
    assert store.read_results() is None
    shell = '{"classes": {}, "averages": {}, "run": {}, "complete": false}'
    whole = {"classes": {"x": {}}, "averages": {}, "complete": True}
    whole |= {"run": {"options": {}, "configuration": {}, "finished": []}}
    for content in ("[]", "{}", "oops", shell, "[" * 100_000, json.dumps(whole), json.dumps(whole | {"classes": []})):
        store.results.write_text(content)
        with pytest.raises(UserError, match="no results file"):
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
    with pytest.raises(UserError, match=r"results_resnet18\.json.*no results file"):
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
    assert there.read_studies().keys() == {"configuration", "data", "studies"} and here.read_studies() is None
    spoil(there.ablation, here.ablation, place, value)
    with pytest.raises(UserError, match=r"ablation_resnet18\.json.*no file of ablation\.py"):
        here.read_studies()
    for content in ("", "[]", "{}", "[" * 100_000):
        here.ablation.write_text(content)
        with pytest.raises(UserError, match=r"ablation_resnet18\.json"):
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
    arrays = Store(results, "resnet18").read_arrays("tile")
    store.write_arrays(name, arrays | {"files": np.full(len(arrays["labels"]), name)})
    assert set(store.read_arrays(name)["files"]) == {name} and store.arrays(name).exists()

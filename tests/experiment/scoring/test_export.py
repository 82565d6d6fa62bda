"""export.py, and predict.py on what it wrote: the same as with the stored features."""

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from bisect import bisect_left
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import export
import main
import predict
from datasets.pictures import NewPictures
from datasets.preprocessing import Preprocessing
from datasets.sample import write_sample
from experiment import memory
from experiment.report.colours import OF_THRESHOLD
from experiment.report.figures import canvas_for
from experiment.scoring import onnx_export
from experiment.scoring.answers import read_predictions
from experiment.scoring.onnx_model import ExportedModel
from experiment.scoring.torch_model import StoredModel
from system.errors import UserError

if torch.__version__ < "2.9":
    pytest.skip("this PyTorch is too old for export.py", allow_module_level=True)
onnx = pytest.importorskip("onnx", reason="python -m pip install -r requirements-export.txt")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

FAST = ["--weights", "random", "--figures", "none", "--num_workers", "0"]
RESNET = ["--arch", "resnet18", "--rd", "20", "--resize", "72", "--crop", "64"]
WIDE = ["--arch", "resnet18", "--rd", "12", "--reduction", "pca", "--resize", "64x96", "--crop", "0"]
OTHER = ["--arch", "mobilenet_v3_large", "--layers", "features.3,features.6,features.12", "--rd", "16"]
OTHER += ["--resize", "64x96", "--crop", "48x80"]
TRAINED = ["--arch", "efficientnet_lite0", "--weights", "imagenet", "--rd", "20"]
TRAINED += ["--resize", "75x110", "--crop", "0"]  # 各层的边长有奇数


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pieces of two photographs, those of one as defects; and a class without test pictures."""
    datasets = pytest.importorskip("sklearn.datasets")
    root, rng = tmp_path_factory.mktemp("export"), np.random.default_rng(0)
    china, flower = (datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    for folder, source, count in (("train/good", china, 10), ("test/good", china, 3), ("test/odd", flower, 5)):
        (root / "photo" / folder).mkdir(parents=True)
        for i in range(count):
            top, left = rng.integers(0, 427 - 150), rng.integers(0, 640 - 200)
            piece = source[top : top + 150, left : left + 200]
            Image.fromarray(piece).save(root / "photo" / folder / f"{i}.png")
    (root / "photo/ground_truth/odd").mkdir(parents=True)
    for i in range(5):
        Image.fromarray(np.repeat(np.uint8([[0, 255]]), 100, 1).repeat(150, 0)).save(
            root / f"photo/ground_truth/odd/{i}_mask.png"
        )
    write_sample(root / "sample", n_train=6, n_test=6, size=64)
    shutil.move(root / "sample/flange/train", root / "flange/train")
    return root


class Fitted:
    """A class's pickle and what was exported of it."""

    def __init__(self, data, out, name, options, *more):
        words = [*FAST, *options, "--data_path", str(data / name), "--save_path", str(out)]
        assert main.main(words) == 0
        (self.pickle,) = out.glob(f"temp_*/train_{name}.pkl")
        self.onnx = out / f"{name}.onnx"
        assert run_export(self.pickle, self.onnx, *more) == 0
        self.pictures = data / name / ("train/good" if name == "flange" else "test")


def run_export(pickle, out, *more) -> int:
    return export.main(["--model", str(pickle), "--out", str(out), *more])


def run_predict(model, *options) -> int:
    return predict.main(["--model", str(model), "--num_workers", "0", *map(str, options)])


@pytest.fixture(scope="module")
def resnet(data, tmp_path_factory):
    return Fitted(data, tmp_path_factory.mktemp("resnet"), "photo", RESNET)


@pytest.fixture(scope="module")
def unlabelled(data, tmp_path_factory):
    return Fitted(data, tmp_path_factory.mktemp("unlabelled"), "flange", WIDE)


@pytest.fixture(scope="module")
def other(data, tmp_path_factory):
    return Fitted(data, tmp_path_factory.mktemp("other"), "photo", OTHER)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    return Fitted(data, tmp_path_factory.mktemp("trained"), "photo", TRAINED)


@pytest.fixture(scope="module")
def hazelnut(shared, tmp_path_factory):
    return Fitted(shared / "mvtec", tmp_path_factory.mktemp("hazelnut"), "hazelnut", ["--arch", "resnet18"])


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """Trained weights, and enough training pictures for maps within 1e-4 in float32; the ten of `photo` are not."""
    options = ["--arch", "efficientnet_lite0", "--weights", "imagenet"]
    return Fitted(shared / "mvtec", tmp_path_factory.mktemp("real"), "hazelnut", options)


def errors(text) -> list[str]:
    return [line for line in text.replace("\r", "\n").splitlines() if line.startswith("error: ")]


def the_error(capsys) -> str:
    captured = capsys.readouterr()
    (line,) = errors(captured.err)
    assert "Traceback" not in captured.err and captured.out == ""
    return line


def rows(text) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize(
    "which", ["resnet", "unlabelled", "other", pytest.param("hazelnut", marks=pytest.mark.slow), "real"]
)
def test_the_maps_are_those_of_the_stored_features(which, request):
    """Within 1e-4, one and seven pictures at a time."""
    fitted = request.getfixturevalue(which)
    stored, exported = StoredModel(fitted.pickle, "cpu"), ExportedModel(fitted.onnx, "cpu")
    stored.load(None, 8, 8)
    preprocessing = Preprocessing.from_record(stored.record["preprocessing"])
    files = sorted(fitted.pictures.rglob("*.png"))[:8] * 2
    prepared = NewPictures(files, preprocessing, tuple(stored.record["size"]))
    pictures = np.stack([prepared[i][0] for i in range(8)])
    (wanted,) = stored.score([pictures])
    found = list(exported.score([pictures[:1], pictures[1:]]))
    assert [len(block.maps) for block in found] == [1, 7]
    for block, here in zip(found, (slice(0, 1), slice(1, 8)), strict=True):
        assert block.maps.dtype == block.image_scores.dtype == np.float32
        np.testing.assert_allclose(block.maps, wanted.maps[here], rtol=1e-4)
        np.testing.assert_allclose(block.image_scores, wanted.image_scores[here], rtol=1e-4)
        np.testing.assert_array_equal(block.image_scores, block.maps.max((1, 2)))


@pytest.mark.parametrize("which", ["resnet", "unlabelled", "other", "trained"])
@pytest.mark.parametrize("size", [1, 7])
def test_the_answers_are_those_of_the_stored_features(which, size, request, capsys):
    fitted = request.getfixturevalue(which)
    capsys.readouterr()
    said, found = [], []
    for model in (fitted.pickle, fitted.onnx):
        assert run_predict(model, fitted.pictures, "--batch_size", size, "--json") == 0
        captured = capsys.readouterr()
        said.append(captured.err.splitlines()[0])
        found.append([json.loads(line) for line in captured.out.splitlines()])
    assert said[0] == said[1] and "threshold" in said[0]
    assert len(found[0]) == len(found[1]) >= 6
    for theirs, ours in zip(*found, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-4)
        same = ("file", "threshold", "decision", "p_value")
        assert [ours[key] for key in same] == [theirs[key] for key in same]
        assert len(ours["regions"]) == len(theirs["regions"])


def test_options_of_predict(unlabelled, capsys):
    """The left-out scores travel with the model, and a threshold can be given."""
    capsys.readouterr()
    for options in (["--percentile", 50], ["--threshold", 3]):
        said = []
        for model in (unlabelled.pickle, unlabelled.onnx):
            assert run_predict(model, unlabelled.pictures, *options) == 0
            captured = capsys.readouterr()
            said.append(
                (captured.err.splitlines()[0], [(r["file"], r["decision"], r["p_value"]) for r in rows(captured.out)])
            )
        assert said[0] == said[1]
    for options, words in ((["--weights", "imagenet"], "--weights"), (["--device", "cuda"], "--device")):
        assert run_predict(unlabelled.onnx, unlabelled.pictures, *options) == 2
        assert re.search(f"{words}.*leave it out", the_error(capsys))


def test_percentile_without_left_out_scores(resnet, capsys):
    capsys.readouterr()
    assert run_predict(resnet.onnx, resnet.pictures, "--percentile", 50) == 2
    assert "no left-out scores for --percentile" in the_error(capsys)


def test_the_metadata_says_it_all(resnet, unlabelled):
    for fitted in (resnet, unlabelled):
        model = onnx.load(fitted.onnx)
        known = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        record = json.loads(fitted.pickle.with_suffix(".json").read_text(encoding="utf-8"))
        assert record.items() <= known.items()
        assert known["class"] == fitted.pickle.stem.removeprefix("train_") and known["half"] is False
        (taken,) = model.graph.input
        shape = [each.dim_param or each.dim_value for each in taken.type.tensor_type.shape.dim]
        assert shape == ["batch", *record["size"], 3] and taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [each.name for each in model.graph.output] == ["map", "score"]
        onnx.checker.check_model(model)
        content = fitted.onnx.read_bytes()
        assert b"site-packages" not in content and str(ROOT).encode() not in content
        if fitted is unlabelled:
            assert known["test_set"] is None
            assert known["threshold"] == pytest.approx(np.percentile(record["left_out_scores"], 99))
            assert known["threshold_origin"] == "99th percentile of 6 left-out training scores"
            continue
        with np.load(fitted.pickle.parent.parent / "scores_resnet18/photo.npz") as arrays:
            assert known["test_set"].pop("origin") == known["threshold_origin"]
            assert known["test_set"] == {key: float(arrays[key]) for key in known["test_set"]}
            assert known["threshold"] == arrays["image_threshold_raw"] and len(known["test_set"]) == 4
            assert known["pixel_threshold"] == arrays["threshold_raw"]


def section(heading: str) -> str:
    text = (ROOT / "experiment/README.md").read_text(encoding="utf-8")
    return text.split(f"### {heading}\n")[1].split("\n#")[0]


def test_every_key_of_the_metadata_is_described(resnet):
    described = section("Its metadata") + (ROOT / "mvtec_result/README.md").read_text(encoding="utf-8")
    assert all(f"`{entry.key}`" in described for entry in onnx.load(resnet.onnx).metadata_props)


@pytest.mark.parametrize("which", ["resnet", "other"])
def test_the_example_as_printed(which, request, tmp_path, capsys):
    """Fifteen lines, run where bottle.onnx lies; the answers are those of predict.py."""
    fitted = request.getfixturevalue(which)
    shutil.copy(fitted.onnx, tmp_path / "bottle.onnx")
    code = section("In fifteen lines").split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 15
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    capsys.readouterr()
    assert run_predict(fitted.onnx, fitted.pictures) == 0
    found = rows(capsys.readouterr().out)
    command = [sys.executable, "example.py", *(row["file"] for row in found)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    said = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    assert [(file, decision) for file, _, decision in said] == [(row["file"], row["decision"]) for row in found]
    np.testing.assert_allclose([float(s) for _, s, _ in said], [float(row["score"]) for row in found], rtol=1e-5)
    if which == "resnet":  # 没有阈值：得分照旧，不下判断
        model = onnx.load(fitted.onnx)
        becomes("threshold", "null")(model)
        onnx.save(model, tmp_path / "bottle.onnx")
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
        assert [line.rsplit(" ", 2) for line in done.stdout.splitlines()] == [[*each[:2], ""] for each in said]


@pytest.mark.parametrize("bits", [None, 12])
def test_the_example_on_turned_and_deep_pictures(data, tmp_path, capsys, bits):
    """EXIF's rotation and --bits: as predict.py; what it does not read is refused, not read another way."""
    new, exif = tmp_path / "new", Image.Exif()
    exif[0x0112] = 6
    shutil.copytree(data / "flange/train/good", tmp_path / "part/train/good")
    new.mkdir()
    for file in sorted((tmp_path / "part/train/good").iterdir()):
        deep = np.asarray(Image.open(file).convert("L")).astype(np.uint16) << ((bits or 16) - 8)
        Image.fromarray(deep).save(file)
        Image.fromarray(deep[:, : file.stat().st_size % 20 + 40]).save(new / f"deep_{file.name}", exif=exif)
        Image.fromarray((deep[:50] >> ((bits or 16) - 8)).astype(np.uint8)).save(new / f"{file.stem}.jpg", exif=exif)
    options = [*RESNET, *(["--bits", str(bits)] if bits else [])]
    command = [*FAST, *options, "--data_path", str(tmp_path / "part"), "--save_path", str(tmp_path / "out")]
    assert main.main(command) == 0
    model = tmp_path / "out/temp_resnet18/train_part.pkl"
    assert run_export(model, tmp_path / "bottle.onnx") == 0
    code = section("In fifteen lines").split("```python\n")[1].split("```")[0]
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    capsys.readouterr()
    assert run_predict(model, new) == 0
    found = rows(capsys.readouterr().out)
    command = [sys.executable, "example.py", *(row["file"] for row in found)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    scores = [float(line.rsplit(" ", 2)[1]) for line in done.stdout.splitlines()]
    np.testing.assert_allclose(scores, [float(row["score"]) for row in found], rtol=1e-4)
    Image.new("RGBA", (60, 60)).save(tmp_path / "clear.png")
    Image.new("RGB", (60, 60)).save(tmp_path / "colour.png")
    Image.fromarray(np.full((60, 60), 65535, np.uint16)).save(tmp_path / "beyond.png")
    for name in ("clear.png", *(("colour.png", "beyond.png") if bits else ())):
        done = subprocess.run([sys.executable, "example.py", name], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith(f"{name}: leave pictures of this kind")


def lanczos(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3))


def resized(pixels: np.ndarray, m: int) -> np.ndarray:
    """As described for other languages: the first axis, of n bytes, becomes m long."""
    n = len(pixels)
    s, out = n / m, np.empty((m, *pixels.shape[1:]), np.uint8)
    f = max(s, 1)
    for i in range(m):
        c = (i + 0.5) * s
        taken = range(max(0, math.floor(c - 3 * f + 0.5)), min(n, math.floor(c + 3 * f + 0.5)))
        weights = [lanczos((k + 0.5 - c) / f) for k in taken]
        scaled = [w / sum(weights) * 2**22 for w in weights]
        whole = np.array([math.copysign(math.floor(abs(w) + 0.5), w) for w in scaled], np.int64)
        out[i] = np.clip(
            (np.tensordot(whole, pixels[taken.start : taken.stop].astype(np.int64), 1) + 2**21) >> 22, 0, 255
        )
    return out


@pytest.mark.parametrize(
    ("size", "preprocessing"),
    [
        ((300, 300), Preprocessing(64, 56)),
        ((130, 91), Preprocessing(64, 57)),
        ((40, 77), Preprocessing(64, 0)),
        ((120, 100), Preprocessing((60, 90), (44, 71))),
        ((46, 126), Preprocessing((120, 44), 0)),
        ((60, 60), Preprocessing((40, 70), 0)),
    ],
)
def test_the_input_is_prepared_as_described(size, preprocessing):
    """ "The input, exactly", in plain arithmetic: bit for bit what Pillow and this program make."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    wanted = preprocessing.framed(Image.fromarray(pixels))
    r = preprocessing.resize
    h, w = r if isinstance(r, tuple) else (r * size[1] // min(size), r * size[0] // min(size))
    made = resized(resized(pixels.swapaxes(0, 1), w).swapaxes(0, 1), h)
    height, width = wanted.shape[:2]
    top, left = round((h - height) / 2), round((w - width) / 2)
    np.testing.assert_array_equal(made[top : top + height, left : left + width], wanted)


ALONE = """
import importlib.metadata as installed, re, sys

def named(text):
    return re.match(r"[\\w.-]+", text)[0].lower().replace("_", "-")

allowed, new = set(), [named(line) for line in open("requirements-predict.txt") if line[0] != "#"]
while new:
    allowed.add(name := new.pop())
    try:
        needs = installed.requires(name) or []
    except installed.PackageNotFoundError:  # another system's
        continue
    new += {named(need) for need in needs if "extra ==" not in need} - allowed

owners = installed.packages_distributions()

class Only:
    def find_spec(self, name, path=None, target=None):
        own = {named(owner) for owner in owners.get(name.partition(".")[0], [])}
        if own and not own & allowed:
            raise ModuleNotFoundError(f"{name} is not in requirements-predict.txt", name=name)

sys.meta_path.insert(0, Only())
sys.modules["torch"] = None
import predict
sys.exit(predict.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("where", "which", "network"),
    [
        ("here", "resnet", ["resnet18", "random"]),
        ("here", "trained", ["efficientnet_lite0", "imagenet"]),
        pytest.param("elsewhere", "resnet", ["resnet18", "random"], marks=pytest.mark.lowest),
    ],
)
def test_without_torch_and_with_nothing_but_the_requirements(where, which, network, request, tmp_path):
    """Rows, JSON lines and figures: the same files with the same content.

    Elsewhere is a Python with nothing but requirements-predict.txt: PREDICT_PYTHON, if it is given.
    """
    if where == "elsewhere" and "PREDICT_PYTHON" not in os.environ:
        pytest.skip("PREDICT_PYTHON names no other Python")
    alone = [sys.executable, "-c", ALONE] if where == "here" else [os.environ["PREDICT_PYTHON"], "predict.py"]
    fitted = request.getfixturevalue(which)
    options = ["--json", "--num_workers", "1", str(fitted.pictures)]
    command = [*alone, "--model", str(fitted.onnx), "--out", str(tmp_path / "alone"), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert predict.main(["--model", str(fitted.pickle), "--out", str(tmp_path / "torch"), *options]) == 0
    folders = tmp_path / "torch", tmp_path / "alone"
    written = [sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) for folder in folders]
    assert written[0] == written[1] and len(written[0]) == 8 + 3
    theirs, ours = (rows((folder / "predictions.csv").read_text(encoding="utf-8")) for folder in folders)
    assert [row["decision"] for row in ours] == [row["decision"] for row in theirs]
    np.testing.assert_allclose([float(r["score"]) for r in ours], [float(r["score"]) for r in theirs], rtol=1e-4)
    known, wanted = (read_predictions(folder) for folder in (folders[1], folders[0]))
    assert known.pop("model") == str(fitted.onnx) and wanted.pop("model") == str(fitted.pickle)
    assert [known[key] for key in ("class", "arch", "weights")] == ["photo", *network]
    for each, other, row in zip(known.pop("pictures"), wanted.pop("pictures"), ours, strict=True):
        assert str(np.float32(each.pop("score"))) == row["score"] and other.pop("score") and each == other
    assert known.pop("date") and wanted.pop("date") and known == wanted
    height, width = json.loads(fitted.pickle.with_suffix(".json").read_text(encoding="utf-8"))["size"]
    canvas = canvas_for(height, width, OF_THRESHOLD)
    rows_of, columns = slice(canvas.top, canvas.top + height), [x + i for x in canvas.columns for i in range(width)]
    del columns[width : 2 * width]  # 没有真值的那一格写着字
    for name in written[0][:8]:
        a, b = (np.asarray(Image.open(folder / name)).astype(int) for folder in folders)
        if where == "elsewhere":  # 别的版本的 matplotlib，字的灰度不同：比各幅图
            a, b = a[rows_of][:, columns], b[rows_of][:, columns]
        assert (np.abs(a - b) > 8).mean() < 1e-3  # 色标取整处可差一级


def test_the_suffix_in_capitals(resnet, tmp_path, capsys):
    path = shutil.copy(resnet.onnx, tmp_path / "MODEL.ONNX")
    assert run_predict(path, resnet.pictures) == 0
    assert len(rows(capsys.readouterr().out)) == 8


def test_half_the_size(resnet, tmp_path, capsys):
    assert run_export(resnet.pickle, tmp_path / "half.onnx", "--half") == 0
    saved = resnet.onnx.stat().st_size - (tmp_path / "half.onnx").stat().st_size
    assert abs(saved - 2 * 16 * 16 * 20 * 20) < 2000
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    (whole,), (half,) = (list(ExportedModel(p, "cpu").score([pictures])) for p in (resnet.onnx, tmp_path / "half.onnx"))
    np.testing.assert_allclose(half.maps, whole.maps, rtol=2e-3)
    assert (half.maps != whole.maps).any() and ExportedModel(tmp_path / "half.onnx", "cpu").record["half"] is True


def test_large_weights_lie_beside_the_file(resnet, tmp_path, capsys, monkeypatch):
    """With the limit lowered; a smaller model that takes the place leaves nothing of the larger."""
    out = tmp_path / "large.onnx"
    with monkeypatch.context() as patch:
        patch.setattr(onnx_export, "LIMIT", 1_000_000)
        assert run_export(resnet.pickle, out) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.onnx", "large.onnx.data"]
    weights = tmp_path / "large.onnx.data"
    assert out.stat().st_size < 1_000_000 < weights.stat().st_size
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (out, weights):
        shutil.copy(path, moved)
    outputs = []
    for model in (resnet.onnx, moved / out.name):
        capsys.readouterr()
        assert run_predict(model, resnet.pictures) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    (moved / weights.name).write_bytes(weights.read_bytes()[:-100_000])
    assert run_predict(moved / out.name, resnet.pictures) == 2
    assert "large.onnx' is damaged, or" in the_error(capsys)
    (moved / weights.name).unlink()
    assert run_predict(moved / out.name, resnet.pictures) == 2
    assert "keep large.onnx.data beside it" in the_error(capsys)
    assert run_export(resnet.pickle, out) == 0
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["large.onnx"]


def without(key: str):
    return lambda model: model.metadata_props.remove(next(e for e in model.metadata_props if e.key == key))


def becomes(key: str, value: str):
    def change(model):
        next(entry for entry in model.metadata_props if entry.key == key).value = value

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: model.ClearField("metadata_props"),
        *(without(key) for key in ("class", "threshold", "test_set", "preprocessing", "size", "dimensions")),
        *(becomes("threshold", value) for value in ('"5"', "NaN", "", "[" * 100_000)),
        becomes("size", "[64, 65]"),
        becomes("pixel_threshold", '"5"'),
        becomes("test_set", "{}"),
        lambda model: setattr(model.graph.input[0], "name", "images"),
        lambda model: model.graph.output.pop(),
        lambda model: model.graph.initializer.pop(),
        lambda model: model.ClearField("graph"),
    ],
)
def test_models_that_are_none_of_export(resnet, tmp_path, capsys, spoil):
    model = onnx.load(resnet.onnx)
    spoil(model)
    onnx.save(model, tmp_path / "x.onnx")
    assert run_predict(tmp_path / "x.onnx", resnet.pictures, "--out", tmp_path / "out") == 2
    assert "x.onnx' is damaged, or no exported model (" in (line := the_error(capsys)) and "export it again" in line
    assert not (tmp_path / "out").exists()


def test_damaged_files(resnet, tmp_path, capsys):
    content = resnet.onnx.read_bytes()
    for spoilt in (b"", b"?", b"\x00" * 1000, content[:-1000], content[: len(content) // 2], content[100:]):
        (tmp_path / "x.onnx").write_bytes(spoilt)
        assert run_predict(tmp_path / "x.onnx", resnet.pictures) == 2
        assert "x.onnx' is damaged, or no exported model (" in the_error(capsys)
    assert run_predict(tmp_path / "absent.onnx", resnet.pictures) == 2
    assert "no exported model" in the_error(capsys)


def test_packages_that_are_not_installed(resnet, tmp_path, capsys, monkeypatch):
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run_export(resnet.pickle, tmp_path / "x.onnx") == 2
    assert "onnxscript; python -m pip install -r requirements-export.txt" in the_error(capsys)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run_predict(resnet.onnx, resnet.pictures) == 2
    assert "not installed; python -m pip install -r requirements-predict.txt" in the_error(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "x.pt"], r"--out.*ends in \.onnx"),
        (["--model", "absent.pkl"], r"no stored features 'absent\.pkl'.*--model"),
        (["--weights", "absent.pth"], r"absent\.pth.*--weights"),
        (["--model", "{bf16}"], "--precision bf16, and only float32 is exported"),
        (["--model", "{damaged}"], "damaged.*--refit"),
    ],
)
def test_mistakes_leave_what_is_there(resnet, tmp_path, capsys, options, words):
    places = {name: tmp_path / f"{name}/train_photo.pkl" for name in ("bf16", "damaged")}
    for path in places.values():
        path.parent.mkdir()
        shutil.copy(resnet.pickle, path)
        shutil.copy(resnet.pickle.with_suffix(".json"), path.parent)
    record = json.loads(resnet.pickle.with_suffix(".json").read_text(encoding="utf-8"))
    (tmp_path / "bf16/train_photo.json").write_text(json.dumps(record | {"precision": "bf16"}), encoding="utf-8")
    with open(places["damaged"], "rb+") as file:
        file.write(b"?" * 30)
    (tmp_path / "x.onnx").write_text("what was there")
    capsys.readouterr()
    try:
        status = run_export(resnet.pickle, tmp_path / "x.onnx", *(o.format(**places) for o in options))
    except SystemExit as exit_:  # argparse 自己退出
        status = exit_.code
    assert status == 2 and re.search(words, the_error(capsys))
    assert (tmp_path / "x.onnx").read_text() == "what was there"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bf16", "damaged", "x.onnx"]


def test_memory_beside_the_model(resnet, tmp_path, capsys, monkeypatch):
    """The matrices twice over in the file's message, half of them with --half; the remedy is one that export.py has."""
    stored, free = StoredModel(resnet.pickle, "cpu"), [1 << 40]
    monkeypatch.setattr(memory, "free_memory", lambda: free[0])
    stored.load(None, 2, 2)

    def fits(room: int) -> bool:
        free[0] = room
        with suppress(UserError):
            memory.check(stored.model, "photo", 2, 0, 2, evaluated=False)
            return True
        return False

    model, gaussians = bisect_left(range(1 << 34), True, key=fits), resnet.pickle.stat().st_size
    for options, room in (([], 2 * gaussians), (["--half"], gaussians // 2)):
        free[0] = model + room - 1
        capsys.readouterr()
        assert run_export(resnet.pickle, tmp_path / "x.onnx", *options) == 2
        assert "a fit with a smaller --rd or --arch needs less" in the_error(capsys) and not list(tmp_path.iterdir())
        free[0] = model + room
        assert run_export(resnet.pickle, tmp_path / "x.onnx", *options) == 0
        (tmp_path / "x.onnx").unlink()


def test_what_a_killed_export_left_goes(resnet, tmp_path, capsys):
    (tmp_path / "new/x.onnx.tmp").mkdir(parents=True)
    (tmp_path / "new/x.onnx.tmp/x.onnx").write_text("half")
    assert run_export(resnet.pickle, tmp_path / "new/x.onnx") == 0
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.onnx"]
    assert f"python predict.py --model {tmp_path / 'new/x.onnx'} PICTURES" in capsys.readouterr().out

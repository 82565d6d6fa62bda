"""predict.py, on what main.py stored."""

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT
from PIL import Image

import main
import predict
from datasets.sample import write_sample
from experiment.scoring.answers import read_predictions

FAST = ["--arch", "resnet18", "--weights", "random", "--figures", "none"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """linen as it is, flange without test pictures; 12 training pictures each."""
    root = tmp_path_factory.mktemp("predict") / "data"
    write_sample(root, n_train=12, n_test=9, size=64)
    shutil.rmtree(root / "flange/test")
    return root


@pytest.fixture(scope="module")
def fitted(data):
    out = data.parent / "out"
    assert main.main([*FAST, "--data_path", str(data), "--save_path", str(out)]) == 0
    return out / "temp_resnet18"


def rows(text) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def errors(text) -> list[str]:
    return [line for line in text.replace("\r", "\n").splitlines() if line.startswith("error: ")]


def run(model, *options) -> int:
    return predict.main(["--model", str(model), *map(str, options)])


def picture(image) -> np.ndarray:
    return np.asarray(Image.open(image))


@pytest.mark.lowest
def test_the_scores_are_the_experiments(fitted, data, capsys):
    assert run(fitted / "train_linen.pkl", data / "linen/test", "--batch_size", 4, "--num_workers", 0) == 0
    found = rows(capsys.readouterr().out)
    folder = fitted.parent / "scores_resnet18"
    arrays, maps = np.load(folder / "linen.npz"), np.load(folder / "linen_maps.npy")
    assert [row["file"] for row in found] == [str(data / "linen" / name) for name in arrays["files"]]
    np.testing.assert_allclose([float(row["score"]) for row in found], maps.max((1, 2)), rtol=1e-5)
    for row, score in zip(found, maps.max((1, 2)), strict=True):  # 阈值是其中一张的得分，它也算缺陷
        assert row["decision"] == ("defect" if score >= arrays["image_threshold_raw"] else "good")


def test_other_sizes_go_through_the_stored_preprocessing(data, tmp_path, capsys):
    options = ["--resize", "64x96", "--crop", "48x80", "--classes", "linen", "--save_path", str(tmp_path)]
    assert main.main([*FAST, "--data_path", str(data), *options]) == 0
    capsys.readouterr()
    maps = np.load(tmp_path / "scores_resnet18/linen_maps.npy")
    assert maps.shape == (9, 48, 80)
    model, out = tmp_path / "temp_resnet18/train_linen.pkl", tmp_path / "new"
    assert run(model, data / "linen/test", "--out", out) == 0
    found = rows((out / "predictions.csv").read_text(encoding="utf-8"))
    np.testing.assert_allclose([float(row["score"]) for row in found], maps.max((1, 2)), rtol=1e-5)
    figures = sorted(p.relative_to(out / "pictures").as_posix() for p in out.rglob("*.png"))
    assert figures == [f"test/{name}.png" for name in (
        "good/000", "good/001", "good/002", "hole/000", "hole/001", "stain/000", "stain/001", "thread/000", "thread/001"
    )]  # fmt: skip
    assert capsys.readouterr().out == ""


@pytest.mark.lowest
def test_figures_show_the_decision(fitted, data, tmp_path):
    """A threshold below all scores paints the mask of a class without test set; above all it is empty."""
    for threshold, painted in ((0.5, True), (1e6, False)):
        out = tmp_path / str(threshold)
        sources = data / "flange/train/good/000.png", data / "flange/train/good"
        assert run(fitted / "train_flange.pkl", *sources, "--out", out, "--threshold", threshold) == 0
        found = rows((out / "predictions.csv").read_text(encoding="utf-8"))
        assert len(found) == 13 and {row["decision"] for row in found} == {"defect" if painted else "good"}
        figures = sorted(p.relative_to(out / "pictures").as_posix() for p in out.rglob("*.png"))
        assert figures[:2] == ["000.png", "good/000.png"] and len(figures) == 13
        figure = picture(out / "pictures" / "000.png")
        shown = figure[30:254, 12:236]
        wanted = Image.open(sources[0]).resize((256, 256), Image.Resampling.LANCZOS).crop((16, 16, 240, 240))
        np.testing.assert_array_equal(shown, np.asarray(wanted))
        mask = figure[30:254, 12 + 3 * 236 : 236 + 3 * 236]
        assert (mask == 255 * painted).all()


def test_left_out_scores_decide_without_a_test_set(fitted, data, capsys):
    record = json.loads((fitted / "train_flange.json").read_text(encoding="utf-8"))
    left_out = record["left_out_scores"]
    assert len(left_out) == record["n_train"] == 12
    assert json.loads((fitted / "train_linen.json").read_text(encoding="utf-8"))["left_out_scores"] is None
    for options, percentile in (((), 99), (("--percentile", 0), 0)):
        assert run(fitted / "train_flange.pkl", data / "flange/train/good", *options) == 0
        captured = capsys.readouterr()
        threshold = np.percentile(left_out, percentile)
        assert f"threshold {threshold:.6g} ({percentile}th percentile of 12 left-out" in captured.err
        for row in rows(captured.out):
            assert row["decision"] == ("defect" if float(row["score"]) >= threshold else "good")
            higher = sum(other >= float(row["score"]) for other in left_out)
            assert float(row["p_value"]) == pytest.approx((1 + higher) / 13, rel=1e-3)
    assert run(fitted / "train_linen.pkl", data / "linen/test") == 0
    assert {row["p_value"] for row in rows(capsys.readouterr().out)} == {""}
    assert run(fitted / "train_linen.pkl", data / "linen/test", "--percentile", 99) == 2
    assert "no left-out scores for --percentile" in errors(capsys.readouterr().err)[0]


def test_answers_as_json(fitted, data, tmp_path, capsys):
    """The rows' digits, and regions within the picture; without a threshold no regions are known."""
    model, pictures, out = fitted / "train_linen.pkl", data / "linen/test", tmp_path / "out"
    assert run(model, pictures, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert run(model, pictures, "--json", "--out", out, "--figures", "none") == 0
    found = rows((out / "predictions.csv").read_text(encoding="utf-8"))
    stored = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    keys = ["file", "score", "threshold", "decision", "p_value", "seconds", "regions"]
    assert len(lines) == len(stored) == len(found) == 9
    for one, other, row in zip(lines, stored, found, strict=True):
        assert list(one) == keys and 0 < one.pop("seconds") < 60 and other.pop("seconds") > 0
        assert one == other and [str(one[key]) for key in ("file", "score", "decision")] == list(row.values())[:3]
        assert one["decision"] == ("defect" if one["score"] >= one["threshold"] * (1 - 1e-4) else "good")
        for region in one["regions"]:
            left, top, right, bottom = region["box"]
            peak = region["peak"]
            assert 0 <= left <= peak["x"] < right <= 64 and 0 <= top <= peak["y"] < bottom <= 64
            assert peak["score"] <= one["score"] and region["area"] <= (right - left) * (bottom - top)
    assert any(line["regions"] for line in lines)
    assert run(model, pictures, "--out", out, "--figures", "none") == 0
    assert not (out / "predictions.jsonl").exists()  # 它是上一次的
    record = json.loads((fitted / "train_flange.json").read_text(encoding="utf-8"))
    shutil.copy(fitted / "train_flange.pkl", tmp_path)
    (tmp_path / "train_flange.json").write_text(json.dumps(record | {"left_out_scores": None}), encoding="utf-8")
    capsys.readouterr()
    assert run(tmp_path / "train_flange.pkl", data / "flange/train/good/000.png", "--json") == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["threshold"], line["decision"], line["p_value"], line["regions"]) == (None, "", None, None)


def test_a_class_that_loses_its_labels_gets_left_out_scores_then(data, tmp_path, capsys):
    own, out = shutil.copytree(data / "linen", tmp_path / "linen"), tmp_path / "out"
    command = [*FAST, "--data_path", str(own), "--save_path", str(out), "--resize", "64", "--crop", "0"]
    assert main.main(command) == 0
    model, left_out = out / "temp_resnet18/train_linen.pkl", out / "temp_resnet18/train_linen_left_out.npz"
    before = model.stat().st_mtime_ns
    assert not left_out.exists()
    shutil.rmtree(own / "test/good")
    shutil.rmtree(own / "ground_truth")
    assert main.main(command) == 0  # 已存的特征照用，只补这一遍
    made = left_out.stat().st_mtime_ns
    assert main.main(command) == 0
    assert (model.stat().st_mtime_ns, left_out.stat().st_mtime_ns) == (before, made)
    results = json.loads((out / "results_resnet18.json").read_text(encoding="utf-8"))
    assert results["classes"]["linen"]["image_rocauc"] is None
    capsys.readouterr()
    assert run(model, own / "test") == 0
    assert "left-out" in (captured := capsys.readouterr()).err and rows(captured.out)[0]["decision"]
    for path in sorted((own / "train/good").iterdir())[2:]:
        path.unlink()
    shutil.rmtree(own / "test")
    assert main.main(command) == 0
    assert f"python predict.py --model {model} PICTURES" in capsys.readouterr().out
    assert run(model, own / "train") == 0  # 只有两张：没有留一得分，也就没有判定
    captured = capsys.readouterr()
    assert {row["decision"] for row in rows(captured.out)} == {""} and "none: give --threshold" in captured.err


def test_pictures_anywhere_and_one_that_is_broken(fitted, data, tmp_path, capsys):
    """Sub-folders and links are followed, hidden and other files are not; what is broken is named."""
    good, hole = (data / "linen/test" / kind / "000.png" for kind in ("good", "hole"))
    for path in ("b/x.png", "b/a, b.PNG", "a.jpg", ".hidden/x.png", "._a.png"):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(hole, tmp_path / "in/b/x.png")
    shutil.copy(good, tmp_path / "in/b/a, b.PNG")
    shutil.copy(good, tmp_path / "in/.hidden/x.png")
    Image.open(good).resize((300, 40)).convert("L").save(tmp_path / "in/a.jpg")
    (tmp_path / "in/._a.png").write_text("?")
    (tmp_path / "in/notes.txt").write_text("?")
    (tmp_path / "in/z.png").write_bytes(good.read_bytes()[:500])
    try:
        (tmp_path / "in/b/loop").symlink_to(tmp_path / "in", target_is_directory=True)
        (tmp_path / "in/c").symlink_to(data / "linen/test/good", target_is_directory=True)
        linked = 3
    except OSError:  # Windows 上建链接要特权
        linked = 0
    out = tmp_path / "in/out"
    for _ in range(2):  # 第二次：自己写出的图不算
        assert run(fitted / "train_linen.pkl", tmp_path / "in", hole, "--out", out, "--batch_size", 2) == 2
        captured = capsys.readouterr()
        (problem,) = errors(captured.err)
        assert "cannot read picture" in problem and "z.png" in problem
        found = rows((out / "predictions.csv").read_text(encoding="utf-8"))
        assert len(found) == 4 + linked
        assert [row["file"] for row in found][:3] == [
            str(tmp_path / "in" / p) for p in ("a.jpg", "b/a, b.PNG", "b/x.png")
        ]
        assert found[2]["score"] == found[-1]["score"] and found[-1]["file"] == str(hole)
        assert {"in/a.jpg.png", "in/b/a, b.PNG.png", "in/b/x.png", "000.png"} <= {
            p.relative_to(out / "pictures").as_posix() for p in out.rglob("*.png")
        }
    assert run(fitted / "train_linen.pkl", tmp_path / "in/z.png") == 2
    captured = capsys.readouterr()
    assert captured.out == "file,score,decision,p_value\n" and "no picture could be scored" in captured.err


def test_a_picture_of_another_shape_without_a_crop(data, tmp_path, capsys):
    assert main.main([
        *FAST, "--data_path", str(data / "flange"), "--save_path", str(tmp_path), "--resize", "64", "--crop", "0"
    ]) == 0  # fmt: skip
    capsys.readouterr()
    Image.new("RGB", (90, 60)).save(tmp_path / "wide.png")
    good = data / "flange/train/good/000.png"
    assert run(tmp_path / "temp_resnet18/train_flange.pkl", tmp_path / "wide.png", good) == 2
    captured = capsys.readouterr()
    assert "wide.png' comes out at 64x96, the features are of 64x64" in errors(captured.err)[0]
    assert [row["file"] for row in rows(captured.out)] == [str(good)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "absent.pkl"], r"no stored features 'absent\.pkl'.*--model"),
        (["absent.png"], r"no picture or folder 'absent\.png'"),
        (["{empty}"], "no picture in"),
        (["--weights", "absent.pth"], r"absent\.pth.*--weights"),
        (["--weights", "{other}"], "--weights .* are not what the features were made with .*SHA-256.*give that file"),
        (["--out", "{file}"], "file.*--out"),
        (["--figures", "all"], "--out"),
        (["--threshold", "nan"], "--threshold.*number"),
        (["--threshold", "1", "--percentile", "1"], "exclude each other"),
        (["--percentile", "101"], r"--percentile.*0 to 100"),
    ],
)
def test_mistakes(fitted, data, tmp_path, capsys, options, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    if "{other}" in options:
        torch.manual_seed(1)
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "other.pth")
    places = {"empty": tmp_path / "empty", "file": tmp_path / "file", "other": tmp_path / "other.pth"}
    options = [option.format(**places) for option in options]
    before = sorted(tmp_path.rglob("*"))
    try:
        status = run(fitted / "train_linen.pkl", data / "linen/test/good", *options)
    except SystemExit as exit_:  # argparse 自己退出
        status = exit_.code
    captured = capsys.readouterr()
    (problem,) = errors(captured.err)
    assert status == 2 and re.search(words, problem)
    assert captured.out == "" and sorted(tmp_path.rglob("*")) == before


def test_a_pickle_that_does_not_belong_to_its_record(fitted, data, tmp_path, capsys):
    model = tmp_path / "train_linen.pkl"
    shutil.copy(fitted / "train_linen.pkl", model)
    assert run(model, data / "linen/test") == 2
    assert "train_linen.json' is not there" in errors(capsys.readouterr().err)[0]
    shutil.copy(fitted / "train_linen.json", tmp_path)
    assert run(model, data / "linen/test/good", "--threshold", 5) == 0
    capsys.readouterr()
    model.write_bytes(model.read_bytes()[:-10])
    assert run(model, data / "linen/test") == 2
    assert "is damaged" in errors(capsys.readouterr().err)[0]


def test_weights_from_a_file_are_remembered(data, tmp_path, capsys, monkeypatch):
    """By their full path, so that another folder does as well."""
    torch.manual_seed(1)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "own.pth")
    monkeypatch.chdir(tmp_path)
    options = ["--weights", "own.pth", "--resize", "32", "--crop", "0", "--classes", "flange", "--save_path", "out"]
    assert main.main([*FAST, "--data_path", str(data), *options]) == 0
    monkeypatch.chdir(data)
    model = tmp_path / "out/temp_resnet18/train_flange.pkl"
    assert run(model, "flange/train/good") == 0
    (tmp_path / "own.pth").rename(tmp_path / "moved.pth")
    capsys.readouterr()
    assert run(model, "flange/train/good") == 2
    assert "own.pth" in errors(capsys.readouterr().err)[0]
    assert run(model, "flange/train/good", "--weights", tmp_path / "moved.pth") == 0


def test_a_pipeline(fitted, data, tmp_path):
    """As a process: rows alone on stdout; a reader that leaves early is no mistake."""
    broken = tmp_path / "broken.png"
    broken.write_text("?")
    command = [
        sys.executable,
        str(ROOT / "predict.py"),
        "--model",
        str(fitted / "train_linen.pkl"),
        str(data / "linen/test"),
    ]
    pipes = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for more, status in ([], 0), ([str(broken)], 2):  # 读了表头就走；读不了的那张仍算数
        process = subprocess.Popen([*command, *more], **pipes)
        if more:
            process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        assert "Error" not in said and said.count("error: cannot read picture") == len(more)
        assert process.wait() == status
    done = subprocess.run(command, **pipes)
    assert done.returncode == 0
    lines = done.stdout.decode().split("\n")
    assert lines[0] == "file,score,decision,p_value" and len(lines) == 11 and lines[-1] == ""
    assert all(re.fullmatch(r".*\.png,\d+\.\d+,(good|defect),", line) for line in lines[1:-1])
    assert b"scoring | linen" in done.stderr


def test_the_record_beside_the_rows(fitted, data, tmp_path, capsys):
    """It says what the page of a folder needs; an earlier one stays until a picture of the next is answered."""
    model, out = fitted / "train_linen.pkl", tmp_path / "out's"
    assert run(model, data / "linen/test", "--out", out) == 0
    assert f"python plot/results_page.py --result {shlex.quote(str(out))}\n" in capsys.readouterr().err
    record, found = read_predictions(out), rows((out / "predictions.csv").read_text(encoding="utf-8"))
    arrays = np.load(fitted.parent / "scores_resnet18" / "linen.npz")
    assert (record["class"], record["model"], record["arch"], record["weights"]) == (
        "linen", str(model), "resnet18", "random"
    )  # fmt: skip
    assert record["thresholds"] == {
        "decision": float(arrays["image_threshold_raw"]),
        "pixel": float(arrays["threshold_raw"]),
        "origin": "best F1 on the labelled test set",
    }
    for row, each in zip(found, record["pictures"], strict=True):
        assert (each["file"], each["decision"]) == (row["file"], row["decision"])
        assert np.float32(each["score"]) == np.float32(row["score"])
        assert (out / each["figure"]).is_file()
    assert run(model, data / "linen/test/good", "--out", out, "--figures", "none") == 0
    before = read_predictions(out)
    assert [each["figure"] for each in before["pictures"]] == [None] * 3
    (tmp_path / "broken.png").touch()
    assert run(model, tmp_path / "broken.png", "--out", out) == 2
    assert read_predictions(out) == before


def test_help_does_not_wait_for_torch():
    code = "import sys, predict as p\ntry: p.main(['--help'])\nfinally: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0

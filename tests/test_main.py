"""The command line, end to end on sample data."""

import csv
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from plotting import script

import main
from datasets.sample import MARK, write_sample
from experiment.report.colours import predicted_mask
from padim.metrics import normalise

FAST = ["--arch", "resnet18", "--weights", "random"]


def run(data, out, *options) -> int:
    return main.main([*FAST, "--data_path", str(data), "--save_path", str(out), *map(str, options)])


def error(capsys) -> str:
    """The one error line of a failed run."""
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def results(out, arch="resnet18") -> dict:
    return json.loads((out / f"results_{arch}.json").read_text(encoding="utf-8"))


def maps(out, name, arch="resnet18") -> np.ndarray:
    return np.load(out / f"scores_{arch}" / f"{name}_maps.npy")


def tree(root) -> dict:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def done(sample, tmp_path_factory):
    """A finished run on both sample classes. Tests copy it before they change it."""
    out = tmp_path_factory.mktemp("done") / "out"
    assert run(sample, out, "--figures", 2) == 0
    return out


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done, tmp_path / "copy")


@pytest.fixture
def data(sample, tmp_path):
    """Sample data that a test may spoil."""
    return shutil.copytree(sample, tmp_path / "data")


@pytest.mark.lowest
def test_demo_as_a_process(tmp_path):
    """A trained network, on drawn pictures; nothing is downloaded: the only way out is a port where nothing listens."""
    start, dead, arch = time.perf_counter(), "http://127.0.0.1:9", "efficientnet_lite0"
    demo = subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--demo"],
        cwd=tmp_path,
        env=os.environ | {"TORCH_HOME": str(tmp_path / "torch"), "https_proxy": dead, "http_proxy": dead},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert demo.returncode == 0, demo.stderr
    assert time.perf_counter() - start < 90
    out = tmp_path / "mvtec_result" / "demo"
    assert results(out, arch)["complete"] and not (tmp_path / "torch").exists()
    assert len(list((out / f"pictures_{arch}").glob("*.png"))) == 36
    assert results(out, arch)["verdict"]["reproduced"] is None
    assert "no verdict on the published table: nothing is published for efficientnet_lite0\n" in demo.stdout
    assert "to look at them: python plot/results_page.py --result " in demo.stdout
    assert "random" not in demo.stdout and "what a trained network finds" in demo.stdout
    assert "--arch wide_resnet50_2" in demo.stdout
    assert "feature extraction | train | linen" in demo.stderr
    for line in demo.stdout.splitlines():
        if line.startswith("wrote"):
            assert (tmp_path / line.split(": ")[1]).exists()
    for name, row in results(out, arch)["classes"].items():
        assert row["image_rocauc"] > 0.99 and row["pixel_rocauc"] > 0.99
        arrays = np.load(out / f"scores_{arch}" / f"{name}.npz")
        for i in script("localization").typical(arrays["kinds"], arrays["image_scores"]):  # README 所示的几张
            scores = normalise(maps(out, name, arch)[i], arrays["score_min"], arrays["score_max"])
            marked, truth = predicted_mask(scores, arrays["threshold"]), arrays["masks"][i] > 0
            assert marked.any() == truth.any() and (marked & truth).sum() >= 0.5 * truth.sum(), arrays["files"][i]


@pytest.mark.slow
def test_demo_draws_what_an_earlier_version_drew_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data, out = Path("data/sample"), Path("mvtec_result/demo")
    write_sample(data, size=64)  # 同样的文件名，别的内容
    assert run(data, out, "--figures", "none") == 0
    before = results(out)["classes"]
    (data / MARK).unlink()
    capsys.readouterr()
    assert main.main(["--demo", "--arch", "resnet18", "--figures", "none"]) == 0
    printed = capsys.readouterr().out
    assert f"{data}: an earlier version drew these pictures; drawing them again\n" in printed
    assert printed.count("the training pictures have changed") == 2
    after = results(out)["classes"]
    assert all(after[name]["training_files"] != before[name]["training_files"] for name in before)
    assert (data / MARK).exists() and Image.open(data / "linen/train/good/000.png").size == (256, 256)


def test_every_file_of_a_run(done, sample):
    with open(done / "temp_resnet18" / "train_linen.pkl", "rb") as file:
        mean, covariance = pickle.load(file)
    assert mean.shape == (100, 3136) and covariance.shape == (100, 100, 3136)
    assert mean.dtype == covariance.dtype == np.float32
    record = json.loads((done / "temp_resnet18" / "train_linen.json").read_text(encoding="utf-8"))
    assert record["n_train"] == 8 and record["dimensions"][:3] == [408, 9, 247]
    assert record["layers"][2] == {
        "name": "layer3", "channels": 256, "height": 14, "width": 14, "stride": 16, "receptive_field": 211,
    }  # fmt: skip
    assert record["pickle_bytes"] == (done / "temp_resnet18" / "train_linen.pkl").stat().st_size

    arrays = np.load(done / "scores_resnet18" / "linen.npz", allow_pickle=False)
    images = np.load(done / "scores_resnet18" / "linen_images.npy")
    assert maps(done, "linen").shape == (9, 224, 224) and images.shape == (9, 224, 224, 3)
    assert set(arrays) == {
        "files", "kinds", "labels", "masks", "image_scores", "threshold", "threshold_raw", "image_threshold_raw",
        "score_min", "score_max", "image_score_min", "image_score_max", "patches",
        "image_roc", "pixel_roc", "pixel_pr", "pixel_pro", "pixel_wins", "pixel_aupimo",
    }  # fmt: skip
    assert arrays["files"][0] == "test/good/000.png" and arrays["patches"].shape == (9, 100)
    picture = Image.open(sample / "linen" / arrays["files"][4]).resize((256, 256), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(images[4], np.asarray(picture)[16:240, 16:240])
    scores = (maps(done, "linen") - arrays["score_min"]) / (arrays["score_max"] - arrays["score_min"])
    np.testing.assert_allclose(arrays["image_scores"], scores.max((1, 2)), rtol=1e-6)
    assert sorted(p.name for p in (done / "pictures_resnet18").iterdir()) == [
        "flange_0.png", "flange_4.png", "linen_0.png", "linen_4.png",
    ]  # fmt: skip

    content = results(done)
    assert content["complete"] and content["averages"]["all"]["classes"] == 2
    assert content["averages"]["textures"] is None
    row = content["classes"]["linen"]
    assert (row["n_train"], row["n_test"], row["published"], row["difference"]) == (8, 9, None, None)
    assert row["threshold"] == pytest.approx(float(arrays["threshold"]))
    with open(done / "results_resnet18.csv", encoding="utf-8", newline="") as file:
        rows = {r["class"]: r for r in csv.DictReader(file)}
    assert float(rows["linen"]["pixel_rocauc"]) == row["pixel_rocauc"]
    assert float(rows["linen"]["pixel_aupro"]) == row["pixel_aupro"] and 0 < row["pixel_aupro"] < 1
    assert (done / "roc_curve_resnet18.png").exists()
    assert not list(done.rglob("*.tmp"))


@pytest.mark.lowest
def test_golden_parity_of_the_command(shared, tmp_path):
    golden = np.load(shared / "golden" / "hazelnut_resnet18.npz")
    assert run(shared / "mvtec", tmp_path, "--figures", "none") == 0
    row = results(tmp_path)["classes"]["hazelnut"]
    assert round(row["pixel_rocauc"], 4) == round(float(golden["pixel_rocauc"]), 4)
    assert round(row["image_rocauc"], 4) == round(float(golden["image_rocauc"]), 4)
    assert row["threshold"] == pytest.approx(float(golden["threshold"]), abs=1e-3)
    assert row["published"] is None  # 权重是随机的：不与发表值比较
    with open(tmp_path / "temp_resnet18" / "train_hazelnut.pkl", "rb") as file:
        mean, covariance = pickle.load(file)
    np.testing.assert_allclose(mean[:, golden["positions"]], golden["mean"], atol=1e-4 * golden["mean"].max())
    wanted = golden["cov0"]
    assert np.abs(covariance[:, :, golden["positions"][4]] - wanted).max() < 1e-4 * wanted.max()
    arrays = np.load(tmp_path / "scores_resnet18" / "hazelnut.npz")
    np.testing.assert_allclose(arrays["image_scores"], golden["image_scores"], atol=1e-4)


def test_a_complete_run_scores_again_from_the_stored_features(copy, sample, capsys):
    before = (copy / "temp_resnet18" / "train_linen.pkl").stat().st_mtime_ns
    wanted = maps(copy, "linen")
    assert run(sample, copy, "--figures", "none", "--batch_size", 4, "--num_workers", 0) == 0
    assert "linen: using the stored features" in capsys.readouterr().out
    assert (copy / "temp_resnet18" / "train_linen.pkl").stat().st_mtime_ns == before
    np.testing.assert_allclose(maps(copy, "linen"), wanted, rtol=1e-5)
    assert not list((copy / "pictures_resnet18").iterdir())  # 旧图属于被替换的分数


def test_fewer_classes_keep_the_other_rows(copy, sample):
    assert run(sample, copy, "--classes", "flange", "--figures", 1) == 0
    content = results(copy)
    assert set(content["classes"]) == {"flange", "linen"} and content["averages"]["all"]["classes"] == 2
    assert (copy / "pictures_resnet18" / "linen_4.png").exists()
    assert not (copy / "pictures_resnet18" / "flange_4.png").exists()


def test_changed_training_pictures_refit_that_class_alone(copy, data, capsys):
    assert run(data, copy, "--figures", "none") == 0  # 搬到别处的同一份数据
    (data / "linen/train/good/007.png").unlink()
    capsys.readouterr()
    assert run(data, copy, "--figures", "none") == 0
    printed = capsys.readouterr().out
    assert "linen: the training pictures have changed" in printed and "flange: using the stored features" in printed
    assert results(copy)["classes"]["linen"]["n_train"] == 7


def test_another_configuration_is_not_overwritten(copy, sample, capsys):
    before = tree(copy)
    for options, words in {
        ("--seed", "7"): "seed 1024, this run has seed 7",
        ("--rd", "50"): "100 dimensions, this run has 50 dimensions",
    }.items():
        assert run(sample, copy, *options) == 2
        assert words in (line := error(capsys)) and "--save_path" in line and "--refit" in line
        assert tree(copy) == before
    (copy / "temp_resnet18/train_linen.json").unlink()  # 别的程序写的 pickle
    assert run(sample, copy) == 2
    assert "train_linen.pkl" in error(capsys)
    assert run(sample, copy, "--refit", "--rd", 50, "--figures", "none") == 0
    with open(copy / "temp_resnet18" / "train_linen.pkl", "rb") as file:
        assert pickle.load(file)[0].shape == (50, 3136)


def test_a_damaged_pickle_is_made_again(copy, sample, capsys):
    path = copy / "temp_resnet18" / "train_linen.pkl"
    whole = path.read_bytes()
    record = path.with_suffix(".json")
    shape = json.loads(record.read_text(encoding="utf-8"))
    for content in (whole[:-100], pickle.dumps([np.zeros((2, 2), np.float32)] * 2, protocol=4)):
        path.write_bytes(content)
        record.write_text(json.dumps(shape | {"pickle_bytes": len(content)}), encoding="utf-8")
        assert run(sample, copy, "--classes", "linen", "--figures", "none") == 0
        captured = capsys.readouterr()
        assert "warning: " in captured.err and "train_linen.pkl is damaged" in captured.err
        assert path.read_bytes() == whole


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit(7)",)


def test_a_hostile_pickle_is_left_alone(copy, sample, capsys):
    """Even where its record vouches for it."""
    path = copy / "temp_resnet18" / "train_linen.pkl"
    path.write_bytes(content := pickle.dumps([Payload(), Payload()], protocol=5))
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    path.with_suffix(".json").write_text(json.dumps(record | {"pickle_bytes": len(content)}), encoding="utf-8")
    assert run(sample, copy, "--figures", "none") == 2
    assert "train_linen.pkl" in (line := error(capsys)) and "exec" in line and "left alone" in line
    assert path.read_bytes() == content
    assert run(sample, copy, "--classes", "linen", "--figures", "none", "--refit") == 0
    assert path.stat().st_size > 1e6


def test_an_interrupted_run_goes_on(data, tmp_path, done, capsys):
    """Killed by a broken picture in the second class: the first stays, and is not done twice."""
    broken = data / "linen/test/good/001.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    assert run(data, out, "--figures", 2) == 2
    assert "001.png" in error(capsys)
    content = results(out)
    assert not content["complete"] and set(content["classes"]) == {"flange"}
    assert len(list((out / "pictures_resnet18").iterdir())) == 2 and not list(out.rglob("*.tmp"))
    broken.write_bytes(whole)
    before = (out / "scores_resnet18" / "flange_maps.npy").stat().st_mtime_ns
    assert run(data, out, "--figures", 2) == 0
    assert "finished already: flange" in capsys.readouterr().out
    assert (out / "scores_resnet18" / "flange_maps.npy").stat().st_mtime_ns == before
    assert results(out)["complete"]
    for name in ("flange", "linen"):
        assert np.array_equal(maps(out, name), maps(done, name))
        assert results(out)["classes"][name]["pixel_rocauc"] == results(done)["classes"][name]["pixel_rocauc"]


def test_going_on_compares_the_data(copy, data, capsys):
    """A class that is finished, but whose pictures have changed since, is computed again."""
    assert run(data, copy, "--figures", "none") == 0
    path = copy / "results_resnet18.json"
    path.write_text(json.dumps(results(copy) | {"complete": False}), encoding="utf-8")
    shutil.copy(data / "flange/test/good/000.png", data / "flange/test/good/999.png")
    before = results(copy)["classes"]
    capsys.readouterr()
    assert run(data, copy, "--figures", "none") == 0
    printed = capsys.readouterr().out
    assert "flange: its pictures have changed" in printed and "finished already: linen" in printed
    after = results(copy)["classes"]
    assert after["flange"]["n_test"] == before["flange"]["n_test"] + 1 and after["linen"] == before["linen"]


def test_two_data_sets_never_share_a_table(copy, sample, tmp_path, capsys):
    moved = shutil.copytree(sample, tmp_path / "moved")
    assert run(moved, copy, "--classes", "flange", "--figures", "none") == 0  # 只是复制：同一份数据

    other = tmp_path / "other"  # 另一个文件夹，没有已存的那一类
    shutil.copytree(sample / "flange", other / "flange")
    renamed = shutil.copytree(sample, tmp_path / "renamed")  # 同名的类，别的文件
    (renamed / "linen/test/good/000.png").rename(renamed / "linen/test/good/abc.png")
    redrawn = tmp_path / "redrawn"  # 文件名全都相同，内容不同
    shutil.copytree(sample, redrawn)
    for path in (redrawn / "flange/train/good").iterdir():
        Image.open(path).rotate(180).save(path)
    for folder in (other, renamed, redrawn):
        before = tree(copy)
        capsys.readouterr()
        assert run(folder, copy, "--classes", "flange", "--figures", "none") == 2
        line = error(capsys)
        assert str(folder) in line and ("moved" in line or str(sample) in line)
        assert "--save_path" in line and "--refit" in line
        assert tree(copy) == before
    assert run(other, copy, "--figures", "none", "--refit") == 0
    assert set(results(copy)["classes"]) == {"flange"}


def test_changed_pictures_of_a_class_outside_the_run(copy, data, capsys):
    """The same folder: the remedy is to run that class, too; nothing else is lost."""
    assert run(data, copy, "--figures", "none") == 0
    (data / "linen/test/good/000.png").unlink()
    capsys.readouterr()
    assert run(data, copy, "--classes", "flange", "--figures", "none") == 2
    line = error(capsys)
    assert "'linen', whose pictures" in line and "--classes" in line
    assert run(data, copy, "--figures", "none") == 0 and results(copy)["classes"]["linen"]["n_test"] == 8


def test_a_class_as_a_shell_completes_it(sample, tmp_path):
    assert run(sample, tmp_path / "out", "--classes", "linen/", "--figures", "none", "--no_features") == 0
    assert set(results(tmp_path / "out")["classes"]) == {"linen"}


def test_ended_behind_the_last_class(copy, sample, capsys):
    """Nothing is left to compute; the averages and the verdict are made all the same."""
    path = copy / "results_resnet18.json"
    wanted = results(copy)
    wanted["run"]["options"]["save_path"] = str(copy)
    path.write_text(json.dumps(wanted | {"complete": False, "averages": {}}), encoding="utf-8")
    assert run(sample, copy, "--figures", 2) == 0
    assert "finished already: flange, linen" in capsys.readouterr().out
    assert results(copy)["complete"] and results(copy)["averages"] == wanted["averages"] != {}
    assert results(copy)["classes"] == wanted["classes"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data_path", "absent"], "'absent'.*--data_path"),
        (["--classes", "linen", "bolt"], "'bolt'.*flange, linen"),
        (["--rd", "449"], "449 dimensions.*448.*--rd"),
        (["--device", "cuda:9"], "cuda:9.*--device cpu"),
        (["--precision", "tf32", "--device", "cpu"], "--precision tf32 needs a CUDA device"),
        (["--weights", "absent.pth"], r"'absent\.pth'.*--weights"),
        (["--batch_size", "0"], "--batch_size.*at least 1"),
        (["--figures", "some"], "--figures"),
        (["--arch", "resnet81"], "'resnet81'.*--arch.*resnet18"),
        (["--arch", "squeezenet1_1"], "squeezenet1_1.*--layers.*features"),
        (["--layers", "layer1,layer7"], "'layer7'.*--layers.*layer1"),
        (["--layers", "layer1,,layer2"], "--layers"),
        (["--layers", "layer1", "--rd", "100"], "100 dimensions.*64.*--rd"),
        (["--demo"], "--demo"),
    ],
)
def test_bad_options(sample, tmp_path, capsys, options, words):
    out = tmp_path / "out"
    try:
        status = run(sample, out, "--figures", "none", *options)
    except SystemExit as exit_:  # argparse 自己退出
        status = exit_.code
    assert status == 2
    assert re.search(words, error(capsys))
    assert not out.exists()


def test_bad_data(data, tmp_path, capsys):
    out = tmp_path / "out"
    (data / "linen/ground_truth/hole/000_mask.png").unlink()
    assert run(data, out, "--figures", "none") == 2
    assert "no mask for" in error(capsys)
    shutil.rmtree(data / "linen/test")
    for path in sorted((data / "linen/train/good").iterdir())[1:]:
        path.unlink()
    assert run(data, out, "--figures", "none") == 2
    assert "at least two" in error(capsys)
    (tmp_path / "file").touch()
    assert run(data, tmp_path / "file" / "out", "--classes", "flange", "--figures", "none") == 2
    assert "file" in error(capsys)
    assert not out.exists()


def test_one_kind_of_label_no_masks_and_no_test_pictures(data, tmp_path, capsys):
    out = tmp_path / "out"
    for kind in ("chip", "rust", "scratch"):
        shutil.rmtree(data / "flange/test" / kind)
    shutil.rmtree(data / "linen/ground_truth")
    assert run(data, out) == 0
    row = results(out)["classes"]
    assert row["flange"]["image_rocauc"] is row["flange"]["pixel_rocauc"] is row["flange"]["threshold"] is None
    assert row["linen"]["image_rocauc"] is not None and row["linen"]["pixel_rocauc"] is None
    assert results(out)["averages"]["all"]["pixel_rocauc"] is None
    assert "NaN" not in (out / "results_resnet18.json").read_text(encoding="utf-8")
    assert len(list((out / "pictures_resnet18").iterdir())) == 3 + 9
    shutil.rmtree(data / "flange/test")
    assert run(data, out, "--classes", "flange") == 0
    assert "nothing is scored" in capsys.readouterr().out
    assert results(out)["classes"]["flange"]["n_test"] == 0
    assert not (out / "scores_resnet18" / "flange.npz").exists()


def test_no_features_and_bf16(done, sample, tmp_path):
    assert run(sample, tmp_path / "a", "--no_features", "--figures", "none") == 0
    assert not (tmp_path / "a" / "temp_resnet18").exists()
    assert np.array_equal(maps(tmp_path / "a", "linen"), maps(done, "linen"))
    assert run(sample, tmp_path / "b", "--precision", "bf16", "--classes", "linen", "--figures", "none") == 0
    deviation = np.abs(maps(tmp_path / "b", "linen") / maps(done, "linen") - 1).max()
    assert 1e-6 < deviation < 0.1


def test_no_features_beside_the_pickle_of_another_fit(copy, data, capsys):
    """predict.py would take its threshold from scores that are not the pickle's: refused, nothing is changed."""
    given = ["--no_features", "--figures", "none", "--classes", "linen"]
    before = tree(copy)
    assert run(data, copy, *given, "--refit", "--rd", 60) == 2
    line = error(capsys)
    assert "train_linen.pkl' was made with 100 dimensions, this run has 60" in line and "move it away" in line
    (data / "linen/train/good/000.png").unlink()
    assert run(data, copy, *given, "--refit") == 2
    line = error(capsys)
    assert "train_linen.pkl' was made from other training pictures" in line and "--no_features" in line
    assert tree(copy) == before
    (copy / "temp_resnet18/train_linen.pkl").unlink()
    assert run(data, copy, *given, "--refit") == 0 and results(copy)["classes"]["linen"]["n_train"] == 7


def test_help_and_bad_options_do_not_wait_for_torch():
    code = "import sys, main\ntry: main.main(['--help'])\nfinally: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_ctrl_c(tmp_path):
    write_sample(tmp_path / "data", 60, 30, 64)
    command = [sys.executable, str(ROOT / "main.py"), *FAST, "--batch_size", "1", "--data_path", "data"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True, "encoding": "utf-8", "bufsize": 1}
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes)
    seen = ""
    while "feature extraction | test" not in seen:
        seen += process.stderr.read(20)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # 像终端那样：整个进程组都收到
    rest = process.communicate(timeout=20)[1]
    assert process.returncode == 130, rest
    assert "interrupted" in rest and "Traceback" not in rest, rest
    assert not list(tmp_path.rglob("*.tmp"))

"""Runs on the other public data sets, from the command line to the table."""

import csv
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from layouts import CLASSES, LAYOUTS, WITHOUT_MASKS, picture
from sklearn.metrics import roc_auc_score

import ablation
import main
import predict
from datasets.catalogue import DATASETS
from experiment.files.folder import Store
from experiment.report.results import ending

OTHERS = [name for name in DATASETS if name != "mvtec"]
FAST = ["--arch", "resnet18", "--weights", "random", "--num_workers", "0"]
SMALL = ["--resize", "40x36", "--crop", "0"]


def options(name, data, out, *more):
    return [*FAST, "--dataset", name, "--data_path", str(data), "--save_path", str(out), *more]


def error(capsys) -> str:
    (line,) = [s for s in capsys.readouterr().err.replace("\r", "\n").splitlines() if s.startswith("error: ")]
    return line


def results(out) -> dict:
    return json.loads((out / "results_resnet18.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run on each set."""
    root = tmp_path_factory.mktemp("runs")
    for name in OTHERS:
        LAYOUTS[name](root / name)
        assert main.main(options(name, root / name, root / f"{name}_out", *SMALL, "--rd", "10", "--figures", "1")) == 0
    return root


@pytest.mark.parametrize("name", OTHERS)
def test_a_run(runs, name):
    out = runs / f"{name}_out"
    content = results(out)
    assert content["complete"] and list(content["classes"]) == CLASSES[name]
    assert content["run"]["options"]["dataset"] == name
    assert list(content["averages"]) == ["all"] and content["averages"]["all"]["classes"] == len(CLASSES[name])
    assert content["verdict"]["reproduced"] is None
    assert content["verdict"]["reason"] == f"nothing is published for {name}"
    assert ending(content, Store(out, "resnet18")).endswith(
        f"--arch wide_resnet50_2 --dataset {name} --data_path FOLDER"
    )
    for each, row in content["classes"].items():
        arrays = np.load(out / "scores_resnet18" / f"{each}.npz")
        assert row["published"] is row["difference"] is None and row["n_train"] == 4
        assert row["n_test"] == len(arrays["files"])
        assert row["pixel_aupro"] is None if name in WITHOUT_MASKS else 0 <= row["pixel_aupro"] <= 1
        assert row["image_rocauc"] == pytest.approx(roc_auc_score(arrays["labels"], arrays["image_scores"]))
        assert ((arrays["kinds"] != "good") == arrays["labels"]).all()
        assert len(list((out / "pictures_resnet18").glob(f"{each}_*.png"))) == 1


def test_again_and_with_other_data(runs, tmp_path, capsys):
    """Stored features are used again; another set's results are refused in the same folder."""
    out = runs / "btad_out"
    again = [*SMALL, "--rd", "10", "--figures", "1"]
    assert main.main(options("btad", runs / "btad", out, *again)) == 0
    assert capsys.readouterr().out.count("using the stored features") == 2
    assert main.main(options("visa", runs / "visa", out, *again)) == 2
    assert "holds class '01' of" in error(capsys)


def test_two_splits_of_one_folder_are_kept_apart(runs, capsys):
    out = runs / "elpv_out"
    before = (out / "results_resnet18.json").read_bytes()
    assert main.main(options("elpv_lots", runs / "elpv", out, *SMALL, "--rd", "10")) == 2
    assert "holds class 'elpv_mono' of --dataset elpv, not of elpv_lots; give another --save_path" in error(capsys)
    assert (out / "results_resnet18.json").read_bytes() == before


def test_elpv_without_its_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not Path(path, "elpv_dataset").is_dir()])
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("MVTEC_PATH", str(tmp_path))
    assert main.main([*FAST, "--dataset", "elpv", "--save_path", str(tmp_path / "out")]) == 2
    line = error(capsys)
    assert "elpv_dataset" in line and line.endswith("python -m pip install -r requirements-elpv.txt")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_goes_on(tmp_path, capsys):
    LAYOUTS["visa"](tmp_path / "visa")
    broken = tmp_path / "visa/pcb1/Data/Images/Anomaly/001.JPG"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-100])  # 开头还在：开始之前看不出
    for status in (2, 0):
        assert main.main(options("visa", tmp_path / "visa", tmp_path / "out", *SMALL, "--rd", "10")) == status
        broken.write_bytes(whole)
    assert "finished already: candle" in capsys.readouterr().out


def test_loco_kinds_apart(runs):
    out = runs / "mvtec_loco_out"
    for name, row in results(out)["classes"].items():
        arrays = np.load(out / f"scores_resnet18/{name}.npz")
        for kind in ("logical_anomalies", "structural_anomalies"):
            chosen = np.isin(arrays["kinds"], ["good", kind])
            wanted = roc_auc_score(arrays["labels"][chosen], arrays["image_scores"][chosen])
            assert row[kind]["image_rocauc"] == pytest.approx(wanted)
            assert 0 <= row[kind]["pixel_rocauc"] <= 1 and 0 <= row[kind]["pixel_aupro"] <= 1
    assert "logical_anomalies" not in results(runs / "mvtec_ad_2_out")["classes"]["can"]


def test_private_pictures_are_scored(runs, capsys):
    model = runs / "mvtec_ad_2_out/temp_resnet18/train_vial.pkl"
    folders = [str(runs / "mvtec_ad_2/vial" / place) for place in ("test_private", "test_private_mixed")]
    assert predict.main([*folders, "--model", str(model), "--num_workers", "0"]) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(captured.out.splitlines()))
    assert len(rows) == 4 and {row["decision"] for row in rows} <= {"good", "defect"}
    record = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    scores = record["validation_scores"]
    assert record["left_out_scores"] is None and len(scores) > 0
    for row in rows:
        wanted = (1 + sum(score >= float(row["score"]) for score in scores)) / (len(scores) + 1)
        assert float(row["p_value"]) == pytest.approx(wanted, rel=1e-3)
    assert predict.main([*folders, "--model", str(model), "--num_workers", "0", "--percentile", "90"]) == 0
    assert f"90th percentile of {len(scores)} validation scores" in capsys.readouterr().err


def test_validation_pictures_are_scored_by_the_fitted_gaussians(runs):
    """They train nothing: their scores are those of any new picture."""
    model = runs / "mvtec_loco_out/temp_resnet18"
    for path in model.glob("*.json"):
        name = path.stem.removeprefix("train_")
        record = json.loads(path.read_text(encoding="utf-8"))
        folder = runs / "mvtec_loco" / name / "validation/good"
        out = runs / f"validation_{name}"
        arguments = ["--model", str(path.with_suffix(".pkl")), "--out", str(out), "--figures", "none"]
        assert predict.main([str(folder), *arguments]) == 0
        with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
            scores = [float(row["score"]) for row in csv.DictReader(file)]
        np.testing.assert_allclose(record["validation_scores"], scores, rtol=1e-4)
        assert record["n_train"] == len(list((runs / "mvtec_loco" / name / "train/good").iterdir()))


def test_leave_out_has_no_place_beside_them(runs, tmp_path, capsys):
    command = options("mvtec_loco", runs / "mvtec_loco", tmp_path / "out", *SMALL, "--leave_out", "one")
    assert main.main(command) == 2
    assert "mvtec_loco has validation pictures" in error(capsys) and not (tmp_path / "out").exists()


def test_what_is_said_of_the_pictures(tmp_path, capsys):
    LAYOUTS["kolektor_sdd2"](tmp_path / "data")
    given = options("kolektor_sdd2", tmp_path / "data", tmp_path / "out", "--rd", "5", "--figures", "none")
    assert main.main([*given, "--no_features", "--resize", "32", "--crop", "28"]) == 0
    said = capsys.readouterr().err
    lines = results(tmp_path / "out")["classes"]["kolektor_sdd2"]["remarks"]
    assert "training pictures left out because they show a defect: 1" in lines
    assert all(said.count(f"kolektor_sdd2: {line}\n") == 1 for line in lines)
    assert "--resize 32 --crop 28 cuts off 72 % of their area; --resize 64x28 --crop 0 keeps" in said


@pytest.mark.parametrize("name", ["kolektor_sdd2", "mvtec_loco"])
def test_studies(runs, tmp_path, name):
    study = [*SMALL, "--study", "seeds", "--rd", "5", "--layers", "layer3"]
    assert ablation.main(options(name, runs / name, tmp_path, *study)) == 0
    content = json.loads((tmp_path / "ablation_resnet18.json").read_text(encoding="utf-8"))
    assert list(content["studies"]["seeds"]["classes"]) == CLASSES[name]


def test_the_wrong_name_is_one_line(runs, tmp_path, capsys):
    assert main.main(options("mvtec", runs / "visa", tmp_path / "out")) == 2
    assert error(capsys).endswith("looks like visa; give --dataset visa")
    assert ablation.main(options("btad", runs / "mvtec_ad_2", tmp_path / "out")) == 2
    assert error(capsys).endswith("looks like mvtec_ad_2; give --dataset mvtec_ad_2")
    picture(tmp_path / "mixed/widget/train/good/0.png")
    picture(tmp_path / "mixed/01/train/ok/0.png")
    assert main.main(options("mvtec", tmp_path / "mixed", tmp_path / "out")) == 2
    assert "several data sets: widget (mvtec), 01 (btad)" in error(capsys)
    assert not (tmp_path / "out").exists()
    for words in (["--dataset", "coco"], ["--demo", "--dataset", "visa"]):
        with pytest.raises(SystemExit) as ended:
            main.main(words)
        assert ended.value.code == 2 and "--dataset" in error(capsys)


@pytest.mark.slow
def test_ranks(runs, tmp_path):
    given = options("kolektor_sdd2", runs / "kolektor_sdd2", tmp_path, *SMALL, "--rd", "10", "--figures", "1")
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0", "--standalone", "--"]
    words = [sys.executable, *launcher, str(ROOT / "main.py"), *given]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("left out because they show a defect: 1\n") == 1
    (name,) = CLASSES["kolektor_sdd2"]
    ours, theirs = (results(out)["classes"][name] for out in (tmp_path, runs / "kolektor_sdd2_out"))
    for key in ("image_rocauc", "pixel_rocauc", "n_train", "test_files", "training_files"):
        assert ours[key] == (pytest.approx(theirs[key], abs=5e-5) if isinstance(theirs[key], float) else theirs[key])

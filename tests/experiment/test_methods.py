"""The predecessors from the command line: filed beside PaDiM, resumed, divided; what means nothing is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from sklearn.metrics import roc_auc_score

import main
from experiment.files.arrays import METRICS
from experiment.files.folder import Store
from experiment.methods import METHODS
from experiment.report.published import compare, published, verdict

SMALL = ["--weights", "random", "--resize", "64", "--crop", "0", "--num_workers", "0", "--figures", "1"]
SPADE = ["--method", "spade", "--arch", "resnet18"]
MAHALANOBIS = ["--method", "mahalanobis_ad", "--arch", "efficientnet_b1"]
NO_FIGURES = SMALL[:-2]
KEYS = {"resnet18", "spade_resnet18", "mahalanobis_ad_efficientnet_b1"}


def results(out, key) -> dict:
    return json.loads((out / f"results_{key}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def out(sample, tmp_path_factory):
    """All methods in one folder."""
    out = tmp_path_factory.mktemp("methods") / "out"
    common = ["--data_path", str(sample), "--save_path", str(out)]
    assert main.main(["--arch", "resnet18", "--rd", "10", *SMALL, *common]) == 0
    assert main.main([*SPADE, *SMALL, *common]) == 0
    assert main.main([*MAHALANOBIS, *NO_FIGURES, *common]) == 0
    return out


def test_all_methods_live_in_one_folder(out):
    assert {path.stem.removeprefix("results_") for path in out.glob("results_*.json")} == KEYS
    assert [path.name for path in out.glob("temp_*")] == ["temp_resnet18"]  # 前身不存特征
    assert [path for path in out.iterdir() if path.name.startswith("tmp")] == []
    for key in KEYS:
        found = results(out, key)
        assert found["complete"] and set(found["classes"]) == {"flange", "linen"}
        for name, row in found["classes"].items():
            arrays = Store(out, key).read_arrays(name)
            assert row["image_rocauc"] == pytest.approx(roc_auc_score(arrays["labels"], arrays["image_scores"]))
            assert row.keys() >= set(METRICS)


def test_spade_has_scores_of_its_own(out):
    store = Store(out, "spade_resnet18")
    for name, row in results(out, "spade_resnet18")["classes"].items():
        arrays, maps = store.read_arrays(name), np.load(store.maps(name))
        assert row["pixel_rocauc"] == pytest.approx(roc_auc_score(arrays["masks"].ravel(), maps.ravel()))
        low, high = arrays["image_score_min"], arrays["image_score_max"]
        own = arrays["image_scores"] * (high - low) + low
        assert (arrays["image_scores"].min(), arrays["image_scores"].max()) == (0, 1)
        assert not np.allclose(own, maps.max((1, 2)), rtol=1e-2)
        assert (arrays["score_min"], arrays["score_max"]) == (maps.min(), maps.max())
        assert len(list((out / "pictures_spade_resnet18").glob(f"{name}_*.png"))) == 1
    assert results(out, "spade_resnet18")["run"]["configuration"]["top_k"] == 5


def test_mahalanobis_ad_has_no_maps(out):
    store = Store(out, "mahalanobis_ad_efficientnet_b1")
    for name, row in results(out, store.key)["classes"].items():
        assert not store.maps(name).exists() and not store.pictures(name).exists()
        assert {row[key] for key in METRICS if key.startswith("pixel")} == {None} and row["image_ap"] is not None
        assert store.read_arrays(name)["masks"] is None
    assert not (out / "pictures_mahalanobis_ad_efficientnet_b1").exists()


def test_another_k_is_another_configuration(out, sample, capsys):
    common = ["--data_path", str(sample), "--save_path", str(out)]
    assert main.main([*SPADE, *SMALL, *common, "--top_k", "3"]) == 2
    assert "was made with top_k 5, this run has top_k 3" in capsys.readouterr().err


def test_a_run_goes_on(sample, tmp_path, capsys):
    common = ["--data_path", str(sample), "--save_path", str(tmp_path / "out")]
    assert main.main([*MAHALANOBIS, *NO_FIGURES, *common]) == 0
    whole = results(tmp_path / "out", "mahalanobis_ad_efficientnet_b1")
    path = tmp_path / "out" / "results_mahalanobis_ad_efficientnet_b1.json"
    stopped = whole | {"complete": False, "classes": {"flange": whole["classes"]["flange"]}}
    stopped["run"]["finished"] = ["flange"]
    path.write_text(json.dumps(stopped), encoding="utf-8")
    capsys.readouterr()
    assert main.main([*MAHALANOBIS, *NO_FIGURES, *common]) == 0
    assert "finished already: flange" in capsys.readouterr().out
    again = results(tmp_path / "out", "mahalanobis_ad_efficientnet_b1")
    assert again["classes"]["linen"]["image_rocauc"] == whole["classes"]["linen"]["image_rocauc"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*SPADE, "--rd", "10"], "--rd means nothing for --method spade"),
        ([*SPADE, "--layers", "layer1"], "--layers means nothing for --method spade"),
        ([*SPADE, "--reduction", "pca"], "--reduction means nothing"),
        ([*SPADE, "--leave_out", "one"], "--leave_out means nothing"),
        ([*SPADE, "--no_features"], "--no_features means nothing"),
        ([*SPADE, "--seed", "7"], "--seed means nothing for --method spade without --protocol rd"),
        ([*MAHALANOBIS, "--figures", "3"], "--figures means nothing for --method mahalanobis_ad"),
        ([*MAHALANOBIS, "--top_k", "3"], "--top_k means nothing for --method mahalanobis_ad"),
        (["--arch", "resnet18", "--top_k", "3"], "--top_k means nothing for --method padim"),
        (["--method", "patchcore"], "--method"),
    ],
)
def test_what_means_nothing_is_an_error(options, words, sample, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main.main([*options, "--data_path", str(sample), "--save_path", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "spade", "--arch", "mobilenet_v3_large"], "SPADE reads the layers of a ResNet"),
        (["--method", "mahalanobis_ad", "--arch", "resnet18"], "nine levels of an EfficientNet"),
    ],
)
def test_networks_that_a_method_does_not_take(options, words, sample, tmp_path, capsys):
    command = [*options, "--weights", "random", "--data_path", str(sample), "--save_path", str(tmp_path / "out")]
    assert main.main(command) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_networks_by_default():
    from experiment.options import experiment

    for method, row in METHODS.items():
        assert experiment(["--method", method]).arch == row.arch
        demo = experiment(["--method", method, "--demo"])
        assert demo.arch == row.demo and demo.weights == ("imagenet" if method == "padim" else "random")


def test_the_demos_weights():
    from experiment.options import experiment

    demo = experiment(["--demo", "--arch", "resnet18"])
    assert (demo.arch, demo.weights) == ("resnet18", "random")  # 其余的要下载，不离线
    assert experiment(["--demo", "--weights", "random"]).arch == "efficientnet_lite0"
    assert experiment(["--demo", "--weights", "random"]).weights == "random"
    assert experiment(["--demo", "--arch", "resnet18", "--weights", "imagenet"]).weights == "imagenet"


@pytest.mark.parametrize(("off", "is_reproduced"), [(0.009, True), (0.011, False)])
def test_spades_verdict(off, is_reproduced):
    key, reference = "spade_wide_resnet50_2", published(True)
    rows = {name: {f"{level}_rocauc": value + off for level, value in reference.of(name, key).items()}
            for name in reference.groups["all"]}  # fmt: skip
    given = verdict(rows, reference, key, [])
    assert given["reproduced"] is is_reproduced and given["tolerance"] == 0.01


def test_mahalanobis_ad_has_no_verdict():
    key, reference = "mahalanobis_ad_efficientnet_b4", published(True)
    assert reference.of("bottle", key) == {"image": 1.0} and reference.of("all_textures", key) is None
    row = compare({"image_rocauc": 0.9, "pixel_rocauc": None}, reference.of("bottle", key))
    assert row["difference"] == {"image": -0.1}
    given = verdict({}, reference, key, [])
    assert given["reproduced"] is None and "other weights" in given["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "key"), [(SPADE, "spade_resnet18"), (MAHALANOBIS, "mahalanobis_ad_efficientnet_b1")]
)
def test_two_processes_score_as_one(out, sample, tmp_path, method, key):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--"]
    common = ["--data_path", str(sample), "--save_path", str(tmp_path / "out")]
    done = subprocess.run(
        [*launch, "main.py", *method, *NO_FIGURES, *common], cwd=ROOT, capture_output=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("flange", "linen"):
        alone, divided = (Store(root, key).read_arrays(name) for root in (out, tmp_path / "out"))
        for arrays in (alone, divided):
            low, high = arrays["image_score_min"], arrays["image_score_max"]
            arrays["raw"] = arrays["image_scores"] * (high - low) + low
        assert alone["files"].tolist() == divided["files"].tolist()
        np.testing.assert_allclose(divided["raw"], alone["raw"], rtol=1e-3, atol=1e-3)

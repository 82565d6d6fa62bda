"""main.py on other sizes, other protocols and data sets that are not complete."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from plotting import script

import main
from datasets.sample import write_sample
from padim.backbone import Backbone
from padim.model import PaDiM
from system.errors import UserError

FAST = ["--arch", "resnet18", "--weights", "random", "--figures", "none"]


@pytest.fixture
def data(tmp_path):
    write_sample(tmp_path / "data", n_train=6, n_test=6, size=64)
    return tmp_path / "data"


def run(data, out, *options) -> int:
    return main.main([*FAST, "--data_path", str(data), "--save_path", str(out), *map(str, options)])


def error(capsys) -> str:
    (line,) = [s for s in capsys.readouterr().err.replace("\r", "\n").splitlines() if s.startswith("error: ")]
    return line


def maps(out, name="linen") -> np.ndarray:
    return np.load(out / "scores_resnet18" / f"{name}_maps.npy")


def results(out) -> dict:
    return json.loads((out / "results_resnet18.json").read_text(encoding="utf-8"))


def test_protocols_do_not_mix(data, tmp_path, capsys):
    """Random rotations and crops do not depend on workers or batches, and the rows stand apart."""
    small = ["--classes", "linen", "--resize", 64, "--crop", 48]
    assert run(data, tmp_path / "rd", *small, "--protocol", "rd", "--num_workers", 2) == 0
    assert run(data, tmp_path / "rd2", *small, "--protocol", "rd", "--num_workers", 0, "--batch_size", 2) == 0
    assert run(data, tmp_path / "aligned", *small) == 0
    a, b, c = (np.load(tmp_path / d / "scores_resnet18/linen_images.npy").astype(int) for d in ("rd", "rd2", "aligned"))
    assert np.array_equal(a, b) and all(np.abs(x - y).mean() > 5 for x, y in zip(a, c, strict=True))
    np.testing.assert_allclose(maps(tmp_path / "rd"), maps(tmp_path / "rd2"), rtol=1e-4)
    record = results(tmp_path / "rd")["run"]["configuration"]["preprocessing"]
    assert record["protocol"] == "rd" and record["seed"] == 1024
    capsys.readouterr()
    assert run(data, tmp_path / "rd", *small) == 2
    assert "preprocessing protocol rd, this run has preprocessing protocol aligned;" in error(capsys)
    shutil.rmtree(tmp_path / "rd" / "temp_resnet18")
    assert run(data, tmp_path / "rd", *small) == 2
    assert "results_resnet18.json' was made with preprocessing protocol rd" in error(capsys)


def test_every_size_follows_from_the_options(data, tmp_path):
    """Oblong and odd: files, records, figures; and the class's folder as data folder."""
    options = "--data_path", str(data / "linen"), "--resize", "65x97", "--crop", "0", "--figures", "1"
    assert run(data, tmp_path, *options) == 0
    assert maps(tmp_path).shape == (6, 65, 97)
    assert np.load(tmp_path / "scores_resnet18/linen.npz")["masks"].shape == (6, 65, 97)
    record = json.loads((tmp_path / "temp_resnet18/train_linen.json").read_text(encoding="utf-8"))
    assert record["size"] == [65, 97] and record["preprocessing"]["resize"] == [65, 97]
    assert [(la["height"], la["width"], la["stride"]) for la in record["layers"]] == [
        (17, 25, 4),
        (9, 13, 8),
        (5, 7, 16),
    ]
    figure = np.asarray(Image.open(tmp_path / "pictures_resnet18/linen_0.png"))
    np.testing.assert_array_equal(figure[30:95, 26:123], np.load(tmp_path / "scores_resnet18/linen_images.npy")[0])


def test_an_interrupted_run_with_sizes_goes_on(data, tmp_path, capsys):
    broken = data / "linen/test/good/001.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    for status in (2, 0):
        assert run(data, tmp_path / "out", "--resize", "32x48", "--crop", "32x40") == status
        broken.write_bytes(whole)
    assert "finished already: flange" in capsys.readouterr().out


def test_classes_of_several_sizes_in_one_folder(data, tmp_path, capsys):
    """Each by itself, since a run has one size; the plots take them together."""
    for path in (data / "flange").rglob("*.png"):
        Image.open(path).resize((96, 64), Image.Resampling.NEAREST).save(path)
    out = tmp_path / "out"
    assert run(data, out, "--resize", 64, "--crop", 0) == 2
    assert "class 'flange' comes out at 64x96, class 'linen' at 64x64" in error(capsys) and not out.exists()
    for name in ("flange", "linen"):
        assert run(data, out, "--resize", 64, "--crop", 0, "--classes", name) == 0
    assert maps(out, "flange").shape[1:] == (64, 96) and maps(out).shape[1:] == (64, 64)
    plot = ["--result", str(out), "--out", str(out / "imgs"), "--format", "png", "--dpi", "50"]
    for name in ("localization", "gaussian_parameters", "patch_gaussian"):
        assert script(name).main([*plot, "--all"]) == 0
    for name in ("model_parameters", "roc_curve", "pro_curve"):
        assert script(name).main(plot) == 0
    assert len(list((out / "imgs").iterdir())) == 3 * 2 + 3


@pytest.mark.parametrize("kept", ["good", "hole"])
def test_one_kind_of_test_picture(data, tmp_path, kept):
    """What cannot be computed is null, and everything is written."""
    for folder in (data / "linen/test").iterdir():
        if folder.name != kept:
            shutil.rmtree(folder)
    assert run(data / "linen", tmp_path / "out", "--resize", 32, "--crop", 0, "--figures", "all") == 0
    row = results(tmp_path / "out")["classes"]["linen"]
    assert row["image_rocauc"] is None and (row["pixel_rocauc"] is None) == (kept == "good")
    arrays = np.load(tmp_path / "out/scores_resnet18/linen.npz")
    assert np.isfinite(arrays["image_scores"]).all() and arrays["image_threshold_raw"].shape == (0,)
    assert len(list((tmp_path / "out/pictures_resnet18").iterdir())) == row["n_test"]
    assert "NaN" not in (tmp_path / "out/results_resnet18.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resize", "100", "--crop", "224"], "after --resize 100, smaller than --crop 224"),
        (["--resize", "0"], "--resize.*at least 1"),
        (["--resize", "4x0"], "--resize"),
        (["--crop", "1x2x3"], "--crop.*HEIGHTxWIDTH"),
        (["--protocol", "both"], "--protocol"),
        (["--classes", "bolt"], "'bolt'"),
    ],
)
def test_bad_options(data, tmp_path, capsys, options, words):
    try:
        status = run(data, tmp_path / "out", *options)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2 and re.search(words, error(capsys)) and not (tmp_path / "out").exists()


def test_memory_follows_the_size():
    models = (PaDiM("resnet18", "random", size=size) for size in ((224, 224), (448, 224)))
    small, large = (model.bytes_needed(32, 100, 100) for model in models)
    assert large.device == pytest.approx(2 * small.device, rel=0.01)


def test_images_too_small_for_a_backbone():
    """ResNets take a single pixel; a network that pools without padding does not."""
    layers = ("features.4", "features.12")
    network = torchvision.models.squeezenet1_1(weights=None)
    assert len(Backbone(network, layers).describe(64, 48)) == 2
    with pytest.raises(UserError, match=r"no images of 4x48.*--resize"):
        Backbone(network, layers).describe(4, 48)
    model = PaDiM("resnet18", "random", size=(1, 1)).fit([torch.randn(4, 3, 1, 1)])
    assert next(model.score([torch.randn(2, 3, 1, 1)])).maps.shape == (2, 1, 1)

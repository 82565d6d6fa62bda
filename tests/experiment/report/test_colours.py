"""Colours and masks of raw maps: two scales, one mask, nothing stored depends on them."""

import shutil

import numpy as np
import pytest
from PIL import Image

import main
from datasets.sample import write_sample
from experiment.report.colours import OF_CLASS, OF_THRESHOLD, are_faint, colours_of, scale_of
from experiment.report.threshold import Thresholds

FAST = ["--arch", "resnet18", "--weights", "random", "--rd", "20", "--num_workers", "0"]


@pytest.mark.parametrize(
    ("scale", "pixel", "ends", "wanted"),
    [
        ("class", 5.0, (1.0, 40.0), (1, 40, OF_CLASS)),
        ("threshold", 5.0, (1.0, 40.0), (0, 10, OF_THRESHOLD)),
        ("class", 5.0, None, (0, 10, OF_THRESHOLD)),
        ("class", 5.0, (3.0, 3.0), (0, 10, OF_THRESHOLD)),
        ("threshold", None, (1.0, 40.0), (1, 40, OF_CLASS)),
        ("threshold", 0.0, (1.0, 40.0), (1, 40, OF_CLASS)),
        ("threshold", -2.0, None, (0, 20, None)),
        ("class", None, None, (0, 20, None)),
    ],
)
def test_which_colours(scale, pixel, ends, wanted):
    """Where what is asked for is not known, the other is taken; else 0 to 2√d, d = 100."""
    found = colours_of(Thresholds(pixel, pixel, "", ends, 100), scale)
    assert (found.low, found.high, found.threshold) == (*wanted[:2], pixel)
    assert found.bar == wanted[2] if wanted[2] else (found.bar.low, found.bar.high, found.bar.mark) == (0, 20, None)


def test_the_mask_does_not_depend_on_the_scale():
    """Nor does rounding: a pixel that is the threshold itself is not above it."""
    rng = np.random.default_rng(0)
    raw = np.repeat(np.repeat(rng.gamma(2, 3, (20, 20)).astype(np.float32), 12, 0), 12, 1)
    for value in np.unique(raw)[::40]:
        masks = [
            colours_of(Thresholds(None, float(value), "", (0.3, 91.7), 9), s).mask(raw) for s in ("class", "threshold")
        ]
        np.testing.assert_array_equal(*masks)
        assert not masks[0][raw == value].all()
    assert colours_of(Thresholds(None, None, ""), "class").mask(raw) is None


def test_the_scale_of_a_run():
    rows = {
        "published": {"published": {"image": 0.9}, "image_rocauc": 0.9},
        "only_good": {"published": {"image": 0.9}, "image_rocauc": None},
        "own": {"published": None, "image_rocauc": 0.9},
    }
    content = {"classes": rows, "run": {"options": {"colours": None}}}
    assert [scale_of(content, name) for name in rows] == ["class", "threshold", "threshold"]
    content["run"]["options"]["colours"] = "class"
    assert {scale_of(content, name) for name in rows} == {"class"}


def test_faint_maps():
    colours = colours_of(Thresholds(None, None, "", (10.0, 100.0), 9), "class")
    assert are_faint(colours, [39.0] * 9 + [100.0]) and not are_faint(colours, [39.0] * 8 + [41.0, 100.0])
    assert not are_faint(colours, [])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """linen, with ten pictures that have a slight shadow, and one that is noise."""
    root = tmp_path_factory.mktemp("colours") / "data"
    write_sample(root, n_train=8, n_test=9, size=64)
    shutil.rmtree(root / "flange")
    test, truth = root / "linen/test", root / "linen/ground_truth"
    for kind in [*truth.iterdir()]:
        shutil.rmtree(kind)
        shutil.rmtree(test / kind.name)
    good = np.asarray(Image.open(next((test / "good").iterdir())))
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    shadow = np.where(mask[..., None] > 0, good * 0.8, good).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for kind, picture, count in (("noise", noise, 1), ("shadow", shadow, 10)):
        (test / kind).mkdir()
        (truth / kind).mkdir()
        for i in range(count):
            Image.fromarray(picture).save(test / kind / f"{i}.png")
            Image.fromarray(mask).save(truth / kind / f"{i}_mask.png")
    return root


def run(data, out, *options) -> None:
    assert main.main([*FAST, "--data_path", str(data), "--save_path", str(out), *options]) == 0


def test_a_run_whose_maps_are_faint_says_so(data, tmp_path, capsys):
    """In one line, where they are drawn on the class's scale; what is stored is the same, whatever the colours."""
    said = "linen: nine of ten defective pictures stay below a third of the heat maps' scale"
    for name, options in (("a", []), ("b", ["--colours", "class"]), ("c", ["--colours", "class", "--figures", "none"])):
        run(data, tmp_path / name, *options)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(said)]
        assert len(lines) == (name == "b")
        assert all("--colours threshold" in line for line in lines)
    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a / "scores_resnet18").iterdir():
        same = b / "scores_resnet18" / path.name
        if path.suffix == ".npy":
            assert path.read_bytes() == same.read_bytes()
        else:
            one, other = np.load(path), np.load(same)
            assert set(one.files) == set(other.files)
            for key in one.files:
                np.testing.assert_array_equal(one[key], other[key])
    figure = "pictures_resnet18/linen_0.png"
    assert (a / figure).read_bytes() != (b / figure).read_bytes()

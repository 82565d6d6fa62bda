"""A region of the pictures: what lies outside takes no part in anything, and one of all pixels changes no bit."""

import base64
import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from test_aupimo import by_definition as aupimo_by_definition
from test_pro import area, label

import main
import predict
from datasets.loader import batches
from datasets.mvtec import MVTecDataset
from datasets.preprocessing import Preprocessing
from datasets.region import read_region
from experiment import memory
from experiment.files.arrays import METRICS, arrays_of, row_of
from experiment.files.folder import Store
from experiment.files.region import from_text, is_region, to_text
from experiment.report.colours import OF_THRESHOLD, Colours, predicted_mask
from experiment.report.figures import panel_pictures
from experiment.report.results import curves
from experiment.saving import load, save
from experiment.scoring.maps import full_size
from padim.apart import evaluate_apart
from padim.counts import count_pixels
from padim.metrics import evaluate_maps
from padim.model import PaDiM
from padim.uncertainty import drawn_areas, draws
from system.errors import UserError

FAST = ["--arch", "resnet18", "--weights", "random", "--rd", "10", "--resize", "64", "--crop", "56"]
FAST += ["--num_workers", "0", "--classes", "linen"]


def test_it_is_read_as_masks_are_and_prepared_as_pictures_are(tmp_path):
    """Grey, a palette, transparency: what is neither black nor transparent; at the pictures' size and crop."""
    wanted = np.zeros((60, 90), bool)
    wanted[10:40, 20:70] = True
    grey = Image.fromarray(wanted.astype(np.uint8) * 7)
    palette = Image.fromarray(wanted.astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 200, 30, 30])
    clear = Image.new("RGBA", (90, 60), (255, 255, 255, 0))
    clear.paste((0, 99, 0, 255), (20, 10, 70, 40))
    preprocessing = Preprocessing(30, (20, 30))
    prepared = preprocessing.mask(grey)[0] != 0
    assert prepared.shape == (20, 30) and 0.2 < prepared.mean() < 0.8
    for i, picture in enumerate((grey, palette, clear)):
        picture.save(tmp_path / f"{i}.png")
        for path, name in ((tmp_path / f"{i}.png", "any"), (tmp_path, str(i))):
            found = read_region(path, name, preprocessing, [(tmp_path, (180, 120))])  # 一半大小：形状相同
            assert found.dtype == bool and (found == prepared).all()
    (tmp_path / "jpeg").mkdir()
    Image.fromarray(wanted.astype(np.uint8) * 255).save(tmp_path / "jpeg/x.jpg", quality=60)
    assert (read_region(tmp_path / "jpeg/x.jpg", "any", preprocessing) != prepared).mean() < 0.02


def test_a_record_keeps_every_pixel():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 13), (56, 64)):
        region = rng.random(shape) < 0.5
        region[0, 0] = True
        assert (from_text(to_text(region)) == region).all() and is_region(to_text(region), [*shape])
        assert not is_region(to_text(region), [shape[0], shape[1] + 1])
        assert not is_region(to_text(~np.ones(shape, bool)), [*shape])
    assert is_region(None, [3, 3]) and to_text(None) is None and from_text(None) is None
    for broken in ("", "?", "aGVsbG8=", to_text(region)[:40]):
        assert not is_region(broken, [56, 64])
    Image.fromarray(region).save(file := io.BytesIO(), "bmp")
    assert not is_region(base64.b64encode(file.getvalue()).decode(), [56, 64])


def scored(steps=None):
    """Maps, masks, labels of 24 pictures of 30×34, and a region of two parts that cuts some defects in two."""
    rng = np.random.default_rng(4)
    masks, labels = np.zeros((24, 30, 34), np.uint8), (np.arange(24) % 2).astype(np.uint8)
    for i in np.flatnonzero(labels):
        for y, x, h, w in rng.integers([0, 0, 2, 2], [20, 24, 10, 10], (2, 4)):
            masks[i, y : y + h, x : x + w] = 1
    maps = rng.gamma(4, 1, masks.shape) + 2 * masks
    maps = (maps if steps is None else np.round(maps * steps)).astype(np.float32)
    region = np.zeros((30, 34), bool)
    region[3:26, 2:14] = region[8:29, 17:33] = True
    return maps, masks, labels, region


def evaluated(maps, labels, masks, region=None):
    """The arrays and the row of `evaluate_maps`."""
    found = evaluate_maps(maps, labels, masks, region=region)
    return arrays_of(found, [], [], labels, masks, np.empty(0)), row_of(found, {}, None, "") | {
        "remarks": found.remarks
    }


@pytest.mark.parametrize("steps", [None, 2])
def test_figures_of_merit_are_those_of_its_pixels(steps):
    """Against scikit-learn and the definitions, in float64; whatever stands outside changes no bit."""
    maps, masks, labels, region = scored(steps)
    arrays, row = evaluated(maps, labels, masks, region=region)
    pixels, truth = maps[:, region].astype(np.float64), masks[:, region]
    precision, recall, thresholds = precision_recall_curve(truth.ravel(), pixels.ravel())
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    wanted = {
        "image_rocauc": roc_auc_score(labels, pixels.max(1)),
        "image_ap": average_precision_score(labels, pixels.max(1)),
        "pixel_rocauc": roc_auc_score(truth.ravel(), pixels.ravel()),
        "pixel_ap": average_precision_score(truth.ravel(), pixels.ravel()),
        "pixel_f1": f1.max(),
    }
    assert {key: row[key] for key in wanted} == pytest.approx(wanted, abs=1e-12)
    assert arrays["threshold_raw"] == thresholds[f1.argmax()]
    assert (arrays["score_min"], arrays["score_max"]) == (pixels.min(), pixels.max())
    low, high = pixels.min(), pixels.max()
    np.testing.assert_allclose(arrays["image_scores"], (pixels.max(1) - low) / (high - low), rtol=1e-6)
    defects = [
        (i, part == k) for i in range(24) for part in [label(masks[i] * region)] for k in range(1, part.max() + 1)
    ]
    points = [(0.0, 0.0)]
    for threshold in np.unique(pixels)[::-1]:
        overlap = np.mean([(maps[i][defect] >= threshold).mean() for i, defect in defects])
        points.append(((pixels[truth == 0] >= threshold).mean(), overlap))
    found = [area(*np.array(points).T, limit) for limit in (0.3, 0.05)]
    assert [row["pixel_aupro"], row["pixel_aupro_05"]] == pytest.approx(found, abs=1e-9)
    areas = aupimo_by_definition(pixels, truth, labels)
    np.testing.assert_allclose(arrays["pixel_aupimo"], areas, atol=1e-12)
    counts = count_pixels(maps, masks, region=region)
    assert counts.size == np.count_nonzero(region) and (counts.sizes == truth.sum(1)).all()
    weights = draws(labels)[:5]
    for drawn, found in zip(weights, drawn_areas(weights, counts.wins, counts.sizes, counts.size), strict=True):
        both = np.repeat(truth, drawn, 0).ravel(), np.repeat(pixels, drawn, 0).ravel()
        assert found == pytest.approx(roc_auc_score(*both), abs=1e-12)
    for anything in (np.nan, np.inf, -1e9):
        again, other = evaluated(np.where(region, maps, np.float32(anything)), labels, masks, region=region)
        assert other == row
        assert all(np.array_equal(again[key], arrays[key]) for key in again if key != "pixel_aupimo")
    with pytest.raises(UserError, match="not finite"):
        evaluated(np.where(region, np.float32(np.nan), maps), labels, masks, region=region)


def test_a_rectangle_is_the_picture_cropped():
    maps, masks, labels, region = scored()
    region[:] = False
    region[5:25, 4:30] = True
    here = np.s_[:, 5:25, 4:30]
    cut, wanted = evaluated(np.ascontiguousarray(maps[here]), labels, np.ascontiguousarray(masks[here]))
    arrays, row = evaluated(maps, labels, masks, region=region)
    assert row == wanted
    for key in cut.keys() - {"masks"}:
        np.testing.assert_array_equal(arrays[key], cut[key])
    kinds = ["a" if label else "good" for label in labels]
    apart = row_of(evaluate_apart(maps, labels, masks, kinds, ("a",), region=region)["a"], {}, None, "")
    assert {key: apart[key] for key in METRICS} == {key: row[key] for key in METRICS}


def test_one_of_all_pixels_changes_no_bit():
    maps, masks, labels, region = scored()
    wanted, wanted_row = evaluated(maps, labels, masks)
    arrays, row = evaluated(maps, labels, masks, region=np.ones_like(region))
    assert row == wanted_row
    for key in wanted:
        np.testing.assert_array_equal(arrays[key], wanted[key])


def test_a_defect_outside_is_said():
    maps, masks, labels, region = scored()
    masks[1] = 0
    masks[1][~region] = 1
    _, row = evaluated(maps, labels, masks, region=region)
    words = "1 of 12 defective test pictures have no defect pixel within the region, and still count as defective"
    assert words in row["remarks"]
    _, row = evaluated(maps, labels, masks)
    assert not any("region" in words for words in row["remarks"])


def test_all_defects_outside_are_said():
    maps, masks, labels, region = scored()
    masks[:, region] = 0
    _, row = evaluated(maps, labels, masks, region=region)
    assert row["pixel_rocauc"] is None and row["image_rocauc"] is not None
    assert row["remarks"][-2:] == [
        "no pixel figures of merit: all pixels of the masks are alike within the region",
        "12 of 12 defective test pictures have no defect pixel within the region, and still count as defective",
    ]


@pytest.fixture(scope="module")
def pictures(sample):
    return MVTecDataset(sample, "linen", "train", Preprocessing(64, 56)), disc(56, 56)


def disc(height, width):
    y, x = np.ogrid[:height, :width]
    return (y / height - 0.45) ** 2 + (x / width - 0.5) ** 2 < 0.1


def test_maps_maxima_and_left_out_scores_are_of_the_region(pictures, tmp_path):
    """The definition: those of the whole maps, of which only the region is looked at; the fit stands still."""
    train, region = pictures
    model = PaDiM("resnet18", "random", 20, size=(56, 56)).fit(batches(train, 4, 0))
    state = [part.clone() for part in model.state()]

    def every(region, work, *more):
        model.region = region
        return [*work(list(batches(train, 4, 0)), *more)]

    for work, more in ((model.score, ()), (model.leave_out, ()), (model.leave_out, ([3, 3, 2],))):
        whole, cut, ones = (every(each, work, *more) for each in (None, region, np.ones_like(region)))
        for all_of_it, looked_at, same in zip(whole, cut, ones, strict=True):
            assert np.isnan(looked_at.maps[:, ~region]).all()
            assert (looked_at.maps[:, region] == all_of_it.maps[:, region]).all()
            assert (looked_at.image_scores == all_of_it.maps[:, region].max(1)).all()
            assert (same.maps == all_of_it.maps).all() and (same.image_scores == all_of_it.image_scores).all()
    # 留出一组时各图单独的得分，与逐张留出的相同
    alone = np.concatenate([scores.alone for scores in every(region, model.leave_out, [3, 3, 2])])
    one_by_one = np.concatenate([scores.image_scores for scores in every(region, model.leave_out)])
    np.testing.assert_allclose(alone, one_by_one, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(state, model.state(), strict=True))
    model.region = region
    save(model, tmp_path / "train_x.pkl", preprocessing=train.preprocessing.record(), training_files="")
    load(again := PaDiM("resnet18", "random", 20, size=(56, 56)), tmp_path / "train_x.pkl")
    assert (again.region == region).all()


def test_its_border_is_a_border_of_the_picture_to_the_mask():
    """Opened with the disk of radius 4: what goes on outside may, or not."""
    raw = np.zeros((40, 40), np.float32)
    raw[10:30, :12] = 9
    wanted = predicted_mask(raw[:, 6:], 5.0)  # 区域从第 6 列起，就如图片从那里起
    raw[:, :6] = np.nan
    found = predicted_mask(raw, 5.0)
    assert found.any() and not found[:, :6].any() and (found[:, 6:] == wanted).all()
    assert not predicted_mask(np.full((40, 40), np.nan, np.float32), 5.0).any()


def test_figures_are_dimmed_outside():
    rng, region = np.random.default_rng(0), disc(60, 70)
    picture, truth = rng.integers(0, 256, (60, 70, 3), np.uint8), rng.random((60, 70)) < 0.5
    raw = (rng.random((60, 70)) + 10 * disc(60, 70)).astype(np.float32)
    colours = Colours(0.0, 10.0, 5.0, OF_THRESHOLD)
    whole, cut = (panel_pictures(picture, truth, each, colours) for each in (raw, np.where(region, raw, np.nan)))
    assert (cut[0] == picture).all()
    for dimmed, panel, source in zip(cut[1:], whole[1:], (whole[1], picture, whole[3], picture), strict=True):
        inner = region & ~np.any(dimmed != panel, 2)
        assert inner.sum() > 0.8 * region.sum()  # 掩码的边除外
        values = source[~region].astype(float) * 0.35 + 128 * 0.65
        red = (dimmed[~region] == (255, 0, 0)).all(1)
        assert np.abs(dimmed[~region][~red] - values[~red]).max() <= 1 and red.mean() < 0.1


@pytest.mark.parametrize("size", [(300, 200), (35, 25), (48, 32)])
def test_a_map_as_a_file_is_nan_outside_and_whole_inside(size):
    raw, region = np.random.default_rng(0).random((32, 48)).astype(np.float32), disc(32, 48)
    preprocessing = Preprocessing((32, 48), 0)
    whole, cut = (full_size(each, preprocessing, size) for each in (raw, np.where(region, raw, np.float32(np.nan))))
    x, y = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, (48, 32), strict=True))
    known = ~np.isnan(cut)
    assert (known == region[np.ix_(y, x)]).all() and known.any() and not known.all()
    assert (np.abs(cut[known] - whole[known]) < 1e-6).mean() > 0.7  # 边上的取像素自己的值
    assert cut[known].max() <= raw[region].max() and cut[known].min() >= raw[region].min()


# 命令：main.py 与 predict.py


def run(data, out, *options, figures="none") -> int:
    return main.main(
        [*FAST, "--data_path", str(data), "--save_path", str(out), "--figures", figures, *map(str, options)]
    )


def save_region(path, size, region=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.ones(size[::-1], bool) if region is None else region
    Image.fromarray(drawn.astype(np.uint8) * 255).save(path)
    return path


@pytest.fixture(scope="module")
def runs(sample, tmp_path_factory):
    """The same run three times: without a region, with one of ones, with a disc."""
    root = tmp_path_factory.mktemp("runs")
    save_region(root / "ones.png", (96, 96))
    save_region(root / "regions/linen.png", (96, 96), disc(96, 96))
    for name, given in (
        ("none", []),
        ("ones", ["--region", root / "ones.png"]),
        ("disc", ["--region", root / "regions"]),
    ):
        assert run(sample, root / name, "--leave_out", "one", *given, figures="2") == 0
    return root


def store(out):
    return Store(out, "resnet18")


def record(out):
    return json.loads(store(out).fitted("linen").with_suffix(".json").read_text(encoding="utf-8"))


def row(out):
    own = dict(store(out).read_results()["classes"]["linen"])
    return {key: value for key, value in own.items() if key not in ("seconds", "region", "published")}


def fit_of(out):
    path = store(out).fitted("linen")
    return path.read_bytes(), path.stat().st_mtime_ns


def predicted(model, pictures, out, *options):
    assert predict.main(["--model", str(model), str(pictures), "--out", str(out), "--json", *map(str, options)]) == 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line | {"seconds": 0} for line in lines]


def test_ones_are_bit_for_bit_no_region(runs, sample, tmp_path):
    none, ones = runs / "none", runs / "ones"
    assert row(none) == row(ones) and fit_of(none)[0] == fit_of(ones)[0]
    assert {**record(none), "region": None} == {**record(ones), "region": None}
    assert (from_text(record(ones)["region"]) == np.ones((56, 56), bool)).all() and record(none)["region"] is None
    for path in ("maps", "pictures"):
        assert getattr(store(none), path)("linen").read_bytes() == getattr(store(ones), path)("linen").read_bytes()
    for reader in (Store.read_arrays, Store.read_left_out):
        a, b = (reader(store(each), "linen") for each in (none, ones))
        assert all(np.array_equal(a[key], b[key], equal_nan=key == "pixel_aupimo") for key in a)
    assert store(none).figure("linen", 0).read_bytes() == store(ones).figure("linen", 0).read_bytes()
    a, b = (
        predicted(store(each).fitted("linen"), sample / "linen/test", tmp_path / each.name) for each in (none, ones)
    )
    assert a == b
    reason = store(ones).read_results()["verdict"]["reason"]
    assert f"--region {runs / 'ones.png'}" in reason


def test_what_lies_outside_takes_no_part(runs):
    """Everything that a run stores, from the maps of the run without a region."""
    none, cut, region = runs / "none", runs / "disc", Preprocessing(64, 56).mask(Image.fromarray(disc(96, 96)))[0] != 0
    whole, maps = (np.load(store(each).maps("linen")) for each in (none, cut))
    assert (maps[:, region] == whole[:, region]).all() and np.isnan(maps[:, ~region]).all()
    assert fit_of(none)[0] == fit_of(cut)[0]
    stored = store(none).read_arrays("linen")
    wanted, figures = evaluated(whole, stored["labels"], stored["masks"], region=region)
    arrays = store(cut).read_arrays("linen")
    for key in wanted.keys() - {"files", "kinds", "patches"}:
        np.testing.assert_array_equal(arrays[key], wanted[key])
    assert {key: row(cut)[key] for key in METRICS} == {key: figures[key] for key in METRICS}
    assert row(none) != row(cut) and (from_text(record(cut)["region"]) == region).all()
    unusual = store(cut).read_left_out("linen")
    assert (np.nanmax(unusual["maps"], (1, 2)) == unusual["scores"].astype(np.float32)).all()
    assert np.isnan(unusual["maps"][:, ~region]).all()
    assert sorted(record(cut)["left_out_scores"])[::-1] == unusual["scores"].tolist()
    assert all(a <= b for a, b in zip(record(cut)["left_out_scores"], record(none)["left_out_scores"], strict=True))
    assert curves(store(cut).read_results(), store(cut))["linen"]["pixel"] is not None
    figure = np.asarray(Image.open(store(cut).figure("linen", 0)).convert("RGB"))
    assert not np.array_equal(figure, np.asarray(Image.open(store(none).figure("linen", 0)).convert("RGB")))


def test_another_region_fits_nothing_again(runs, sample, tmp_path, capsys):
    """There and back: scored and left out again; stopped in between, nothing has changed."""
    out = shutil.copytree(runs / "none", tmp_path / "out")
    before = fit_of(out)
    for given, name in ((["--region", runs / "regions/linen.png"], "disc"), ([], "none")):
        capsys.readouterr()
        assert run(sample, out, *given) == 0  # 没有再说 --leave_out：从前留出过的，重新留出
        said = capsys.readouterr()
        assert "using the stored features" in said.out and "leave out" in said.err and "train |" not in said.err
        assert fit_of(out) == before
        wanted = runs / name
        assert row(out) | {"remarks": []} == row(wanted) | {"remarks": []}
        np.testing.assert_allclose(record(out)["left_out_scores"], record(wanted)["left_out_scores"], rtol=1e-4)
        assert {**record(out), "left_out_scores": 0} == {**record(wanted), "left_out_scores": 0}
        assert np.isnan(store(out).read_left_out("linen")["maps"]).any() == (name == "disc")
        assert not [*out.rglob("*.tmp")]
    capsys.readouterr()
    assert run(sample, out) == 0
    assert "leave out" not in capsys.readouterr().err  # 区域相同：留出的得分还在


def test_groups_that_are_left_out_again_are_checked_for_memory(sample, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert run(sample, out, "--leave_out", "3") == 0
    before, checked = fit_of(out), []
    monkeypatch.setattr(memory, "check_group", lambda model, name, size, spare: checked.append(size))
    assert run(sample, out, "--region", save_region(tmp_path / "ones.png", (96, 96))) == 0
    assert checked == [3] and fit_of(out) == before


def test_a_smaller_drawing_has_rounded_sides(tmp_path):
    pictures = [(tmp_path / "000.png", (1001, 667))]
    drawn = save_region(tmp_path / "half.png", (501, 334))
    assert read_region(drawn, "x", Preprocessing(64, 56), pictures).shape == (56, 56)
    with pytest.raises(UserError, match="is 334x510, picture"):
        read_region(save_region(tmp_path / "wide.png", (510, 334)), "x", Preprocessing(64, 56), pictures)


def test_left_out_scores_of_another_region_go_with_no_features(runs, sample, tmp_path, capsys):
    out = shutil.copytree(runs / "none", tmp_path / "out")
    capsys.readouterr()
    assert run(sample, out, "--region", runs / "ones.png", "--no_features") == 0
    words = "linen: its left-out scores were of another region and go; --leave_out one makes new ones"
    assert words in capsys.readouterr().out
    assert record(out)["left_out_scores"] is None and not store(out).left_out("linen").exists()
    assert record(out)["region"] == to_text(np.ones((56, 56), bool)) and record(out)["test_set"] is not None


def one_error(capsys) -> str:
    captured = capsys.readouterr()
    (line,) = [x for x in captured.err.replace("\r", "\n").splitlines() if x.startswith("error: ")]
    assert "Traceback" not in captured.err
    return line


def test_classes_of_one_table_have_their_regions(runs, sample, tmp_path, capsys):
    """A class that is not run keeps its row only where its region is the one that is given."""
    out, regions = shutil.copytree(runs / "disc", tmp_path / "out"), tmp_path / "regions"
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    save_region(regions / "flange.png", (96, 96))
    flange = [*FAST[:-1], "flange", "--figures", "none", "--data_path", str(sample), "--save_path", str(out)]
    capsys.readouterr()
    for given, words in (
        ([], "holds class 'linen', scored with another --region or with none; run it, too (--classes)"),
        (["--region", str(regions / "flange.png")], "holds class 'linen', scored with another --region"),
        (["--region", str(regions)], "holds class 'linen', scored with another --region"),
    ):
        assert main.main([*flange, *given]) == 2
        assert words in one_error(capsys)
        assert before == {path: path.read_bytes() for path in out.rglob("*.*")}
    save_region(regions / "linen.png", (96, 96), disc(96, 96))
    assert main.main([*flange, "--region", str(regions)]) == 0
    rows = store(out).read_results()["classes"]
    assert rows["flange"]["region"] != rows["linen"]["region"] is not None


def test_a_finished_class_is_computed_again_where_its_region_has_changed(runs, sample, tmp_path, capsys):
    out, path = tmp_path / "out", save_region(tmp_path / "region.png", (96, 96))
    given = ["--region", path]
    assert run(sample, out, *given) == 0
    content = store(out).read_results()
    store(out).write_results(content | {"complete": False})  # 如同被打断
    capsys.readouterr()
    assert run(sample, out, *given) == 0
    assert "finished already: linen" in capsys.readouterr().out
    store(out).write_results(content | {"complete": False})
    save_region(path, (96, 96), disc(96, 96))
    assert run(sample, out, *given) == 0
    assert "linen: its region has changed since" in capsys.readouterr().out
    assert row(out)["pixel_rocauc"] == row(runs / "disc")["pixel_rocauc"]


def test_a_defect_outside_is_not_found(sample, tmp_path):
    """By predict.py: neither in the decision nor in regions, maps and masks; inside it is.

    Only layer1 is read: what a deeper layer sees of the right half reaches far into the left one.
    """
    near = ["--layers", "layer1", "--resize", "128", "--crop", "0"]
    data = tmp_path / "data/linen"
    shutil.copytree(sample / "linen/train", data / "train")
    left = np.zeros((96, 96), bool)
    left[:, :48] = True
    region = save_region(tmp_path / "left.png", (96, 96), left)
    good = Image.open(sorted((data / "train/good").glob("*.png"))[0]).convert("RGB")
    for name, x in (("inside", 20), ("outside", 70)):
        marked = good.copy()
        marked.paste((20, 20, 200), (x, 40, x + 12, 52))
        (tmp_path / "new").mkdir(exist_ok=True)
        marked.save(tmp_path / f"new/{name}.png")
    good.save(tmp_path / "new/good.png")
    whole = {}
    for name, given in (("all", []), ("left", ["--region", region])):
        assert run(data.parent, tmp_path / name, *near, *given) == 0  # 没有测试图像：阈值来自留出的得分
        lines = predicted(store(tmp_path / name).fitted("linen"), tmp_path / "new", tmp_path / f"out_{name}", "--maps")
        whole[name] = {line["file"].split("/")[-1].split("\\")[-1]: line for line in lines}
    assert [whole["all"][f"{name}.png"]["decision"] for name in ("inside", "outside")] == ["defect", "defect"]
    assert whole["left"]["inside.png"]["decision"] == "defect" and whole["left"]["outside.png"]["decision"] == "good"
    assert whole["left"]["outside.png"]["regions"] == [] != whole["left"]["inside.png"]["regions"]
    maps = np.asarray(Image.open(tmp_path / "out_left/maps/new/outside.tif"))
    assert np.isnan(maps[:, 48:]).all() and np.nanmax(maps) < whole["left"]["outside.png"]["threshold"]
    assert not np.asarray(Image.open(tmp_path / "out_left/masks/new/outside.png")).any()
    assert np.asarray(Image.open(tmp_path / "out_left/masks/new/inside.png")).any()


def test_an_exported_model_holds_it(runs, sample, tmp_path):
    """The same answers by pickle and by ONNX; in the file itself, for any language; ones as none."""
    if torch.__version__ < "2.9":
        pytest.skip("this PyTorch is too old for export.py")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    import export

    answers = {}
    for name in ("none", "ones", "disc"):
        pickled, onnx = store(runs / name).fitted("linen"), tmp_path / f"{name}.onnx"
        assert export.main(["--model", str(pickled), "--out", str(onnx)]) == 0
        answers[name] = predicted(onnx, sample / "linen/test", tmp_path / name, "--maps")
        stored = predicted(pickled, sample / "linen/test", tmp_path / f"{name}_stored", "--maps")
        for found, wanted in zip(answers[name], stored, strict=True):
            assert found["score"] == pytest.approx(wanted["score"], rel=1e-4)
            assert (found["decision"], found["file"]) == (wanted["decision"], wanted["file"])
        for path in (tmp_path / name / "maps").rglob("*.tif"):
            other = tmp_path / f"{name}_stored/maps" / path.relative_to(tmp_path / name / "maps")
            np.testing.assert_allclose(*(np.asarray(Image.open(p)) for p in (path, other)), rtol=1e-4)
    assert answers["ones"] == answers["none"] != answers["disc"]
    session = onnxruntime.InferenceSession(tmp_path / "disc.onnx")
    region = from_text(json.loads(session.get_modelmeta().custom_metadata_map["region"]))
    maps, scores = session.run(None, {"pictures": np.random.default_rng(0).integers(0, 256, (3, 56, 56, 3), np.uint8)})
    assert (np.isnan(maps) == ~region).all() and (scores == np.nanmax(maps, (1, 2))).all()


def test_a_record_whose_region_is_none_of_its_size_is_refused(runs, tmp_path, capsys):
    out = shutil.copytree(runs / "disc/temp_resnet18", tmp_path / "temp_resnet18")
    beside = out / "train_linen.json"
    known = json.loads(beside.read_text(encoding="utf-8"))
    for broken in (to_text(np.ones((5, 5), bool)), "x", 3):
        beside.write_text(json.dumps(known | {"region": broken}), encoding="utf-8")
        assert predict.main(["--model", str(out / "train_linen.pkl"), str(tmp_path)]) == 2
        assert "it has region" in one_error(capsys)


def test_two_models_are_compared_on_one_region(runs, sample, tmp_path):
    """plot/compare.py: pixels of the region, and never of two."""
    import sys

    sys.path.insert(0, str(ROOT / "plot"))
    from _paired import compared, open_files

    first = runs / "disc/results_resnet18.json"
    other = tmp_path / "other"
    assert run(sample, other, "--region", runs / "regions", "--seed", "3") == 0
    _, models = open_files([first, other / "results_resnet18.json"])
    level = compared(models, "pixel")
    masks = store(other).read_arrays("linen")["masks"]
    region = from_text(record(other)["region"])
    maps = [np.load(store(each).maps("linen")) for each in (runs / "disc", other)]
    areas = [roc_auc_score(masks[:, region].ravel(), each[:, region].ravel()) for each in maps]
    assert level.areas[0] == pytest.approx(areas, abs=1e-9)
    low, high = level.intervals[0][0]
    assert low < areas[0] - areas[1] < high
    _, models = open_files([first, runs / "none/results_resnet18.json"])
    with pytest.raises(UserError, match="or regions of them"):
        compared(models, "pixel")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["other_shape.png"], "is 96x64, picture"),
        (["black.png"], "is black: nothing is looked at; what is not black is"),
        (["corner.png"], "nothing is looked at, once it is resized and cropped as the pictures are"),
        (["nowhere.png"], "nowhere.png' for class 'linen' (no such file)"),
        (["text.png"], "cannot read picture"),
        (["unrelated"], "linen.png' for class 'linen' ('{}' holds a.png, b.png)"),
        (["empty"], "holds no picture"),
        (["ones.png", "--protocol", "rd"], "--region is a place in the picture, and --protocol rd moves every picture"),
    ],
)
def test_mistakes(given, words, sample, tmp_path, capsys):
    save_region(tmp_path / "ones.png", (96, 96))
    save_region(tmp_path / "other_shape.png", (64, 96))
    save_region(tmp_path / "black.png", (96, 96), np.zeros((96, 96), bool))
    corner = np.zeros((96, 96), bool)
    corner[:4, :4] = True  # 裁剪只留中间的 7/8
    save_region(tmp_path / "corner.png", (96, 96), corner)
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    for name in ("a", "b"):
        save_region(tmp_path / f"unrelated/{name}.png", (96, 96))
    (tmp_path / "empty").mkdir()
    region, *more = given
    out = tmp_path / "out"
    try:
        status = run(sample, out, "--region", tmp_path / region, *more)
    except SystemExit as ended:  # argparse
        status = ended.code
    assert status == 2
    assert words.format(tmp_path / region) in one_error(capsys)
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("method", ["spade", "mahalanobis_ad"])
def test_predecessors_have_no_region(method, sample, tmp_path, capsys):
    """SPADE's image score is no maximum of its map, and MahalanobisAD has no maps."""
    with pytest.raises(SystemExit):
        main.main(["--method", method, "--data_path", str(sample), "--region", str(tmp_path)])
    assert f"--region means nothing for --method {method}" in one_error(capsys)


def test_predictions_need_no_mask(runs, sample, tmp_path, capsys):
    """The rows on standard output are those of the maps that main.py has stored."""
    pictures = sample / "linen/test"
    assert (
        predict.main(["--model", str(store(runs / "disc").fitted("linen")), str(pictures), "--num_workers", "0"]) == 0
    )
    rows = {r["file"]: float(r["score"]) for r in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    arrays, maps = store(runs / "disc").read_arrays("linen"), np.load(store(runs / "disc").maps("linen"))
    for name, raw in zip(arrays["files"], maps, strict=True):
        assert rows[str(sample / "linen" / name)] == pytest.approx(np.nanmax(raw), rel=1e-4)

"""What the figures show is what the results say."""

import csv
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from plotting import script
from synthetic import DIMENSIONS, GRID, SIDE, write_results

from experiment.files.folder import Store
from experiment.files.gaussians import read_fitted
from experiment.report import style
from experiment.report.colours import OF_CLASS, OF_THRESHOLD, Colours
from experiment.report.figures import heat_over, panel_pictures
from experiment.report.threshold import Thresholds, stands_out_from
from system.files import read_json, write_json

CLASSES = ("bottle", "tile")
METHODS = ("resnet18", "wide_resnet50_2", "spade_wide_resnet50_2", "mahalanobis_ad_efficientnet_b4")
CENTRE = GRID // 2 * GRID + GRID // 2


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("plotted")
    write_results(root, "resnet18", CLASSES)
    return root


@pytest.fixture(scope="module")
def store(root) -> Store:
    return Store(root, "resnet18")


@pytest.fixture(scope="module")
def methods(tmp_path_factory) -> Path:
    """The same pictures scored by all methods."""
    root = tmp_path_factory.mktemp("methods")
    for seed, key in enumerate(METHODS):
        write_results(root, key, CLASSES, seed)
    return root


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that would be written."""
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: (found.append(figure), path.touch()))
    return found


def run(name: str, *options: object) -> None:
    assert script(name).main([str(o) for o in [*options, "--format", "png"]]) == 0


def test_roc_curves(root, store, figures, tmp_path):
    run("roc_curve", "--result", root, "--out", tmp_path)
    rows, averages = (store.read_results()[key] for key in ("classes", "averages"))
    for axes, level in zip(figures[0].axes, ("image", "pixel"), strict=True):
        lines = {line.get_label().split()[0]: line for line in axes.lines if not line.get_label().startswith("_")}
        assert list(lines) == ["tile", "bottle"]  # 先纹理，后物体
        for name, line in lines.items():
            np.testing.assert_array_equal(line.get_xydata(), store.read_arrays(name)[f"{level}_roc"])
            assert line.get_label().split()[1] == f"{rows[name][f'{level}_rocauc']:.3f}"
        assert f"{averages['all'][f'{level}_rocauc']:.3f}" in axes.get_title()


def test_precision_recall(root, store, figures, tmp_path):
    run("precision_recall", "--result", root, "--out", tmp_path)
    axes = figures[0].axes[0]
    for name in CLASSES:
        arrays = store.read_arrays(name)
        line = next(line for line in axes.lines if line.get_label().startswith(name))
        np.testing.assert_array_equal(line.get_xydata(), arrays["pixel_pr"])
        assert line.get_label().endswith(f"{store.read_results()['classes'][name]['threshold']:.3f}")
        predicted = np.load(store.maps(name)) >= arrays["threshold_raw"]
        truth = arrays["masks"] > 0
        f1 = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
        assert float(re.search(r"F1 (\d\.\d+)", line.get_label())[1]) == pytest.approx(f1, abs=1.1e-3)


def test_the_best_f1_is_that_of_all_points(root, figures, tmp_path):
    """The stored curve is thinned, and may leave out its best point."""
    store = Store(shutil.copytree(root, tmp_path / "copy"), "resnet18")
    arrays = store.read_arrays("tile")
    store.write_arrays("tile", arrays | {"pixel_pr": arrays["pixel_pr"][:: len(arrays["pixel_pr"]) // 4]})
    run("precision_recall", "--result", store.root, "--out", tmp_path)
    (label,) = (line.get_label() for line in figures[0].axes[0].lines if line.get_label().startswith("tile"))
    assert f"F1 {store.read_results()['classes']['tile']['pixel_f1']:.3f} at" in label


def test_pro_curves(root, store, figures, tmp_path):
    run("pro_curve", "--result", root, "--out", tmp_path)
    axes, results = figures[0].axes[0], store.read_results()
    for name, line in zip(("tile", "bottle"), axes.lines, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), store.read_arrays(name)["pixel_pro"])
        assert line.get_label().split() == [name, f"{results['classes'][name]['pixel_aupro']:.3f}"]
    assert f"{results['averages']['all']['pixel_aupro']:.3f}" in axes.get_title()


def test_calibration(root, store, figures, tmp_path):
    """A point at k/(n + 1): how many good test pictures have a p value of at most that, as predict.py gives it."""
    run("calibration", "--result", root, "--out", tmp_path)
    for axes in figures[0].axes:
        name, counts = axes.get_title().splitlines()
        left_out = read_json(store.fitted(name).with_suffix(".json"))["left_out_scores"]
        good = np.load(store.maps(name)).max(axis=(1, 2))[store.read_arrays(name)["labels"] == 0].astype(float)
        assert counts == f"{len(left_out)} scores, {len(good)} pictures"
        thresholds = Thresholds(None, None, "", good=left_out)
        p_values = np.array([thresholds.p_value(score) for score in good])
        diagonal, line = axes.lines
        assert (diagonal.get_xydata() == [[0, 0], [1, 1]]).all()
        for expected, actual in line.get_xydata():
            assert actual == (p_values <= expected + 1e-9).mean()
        np.testing.assert_allclose(line.get_xdata(), np.arange(32) / 31)


def test_calibration_beside_others(tmp_path, figures):
    """A line a folder; what chance explains depends on how many there are, and is drawn once where these agree."""
    for seed, folder in enumerate(("a", "b")):
        write_results(tmp_path / folder, "resnet18", CLASSES, seed)
    run("calibration", "--result", tmp_path / "a", tmp_path / "b", "--out", tmp_path)
    (figure,) = figures
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["a", "b"]
    assert all(len(axes.lines) == 3 and len(axes.collections) == 1 for axes in figure.axes)


def test_calibration_with_and_without_the_own_lot(root, figures, tmp_path):
    store = Store(shutil.copytree(root, tmp_path / "copy"), "resnet18")
    path = store.fitted("tile").with_suffix(".json")
    record = read_json(path)
    kinds = {"left_out": {"by": 6, "groups": 5}, "left_out_alone_scores": record["left_out_scores"]}
    kinds["left_out_scores"] = [score + 3 for score in record["left_out_scores"]]
    write_json(path, record | kinds)
    run("calibration", "--result", store.root, "--out", tmp_path)
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert words[:2] == ["left out alone", "left out by lots"]
    lines = {axes.get_title().splitlines()[0]: axes.lines[1:] for axes in figures[0].axes}
    assert (len(lines["tile"]), len(lines["bottle"])) == (2, 1)
    alone, by_lots = (line.get_ydata() for line in lines["tile"])
    assert (by_lots <= alone).all() and (by_lots < alone).any()  # 阈值高了，高于它的就少


def test_the_band_holds_what_chance_does():
    """Scores and test pictures drawn alike: at each threshold, 95 % of the shares at least lie in the band."""
    calibration, rng = script("calibration"), np.random.default_rng(0)
    n, m, tries = 30, 40, 2000
    shares = np.array([calibration.curve(rng.normal(size=n), rng.normal(size=m))[1] for _ in range(tries)])
    low, high = calibration.band(n, m)
    inside = ((shares >= low) & (shares <= high)).mean(0)
    assert inside.min() > 0.94 and inside[1:-1].max() < 0.995
    assert abs(shares.mean(0) - np.arange(n + 2) / (n + 1)).max() < 0.01


def test_score_distribution(root, store, figures, tmp_path):
    run("score_distribution", "--result", root, "--out", tmp_path)
    for axes in figures[0].axes:
        arrays = store.read_arrays(axes.get_title())
        (threshold,) = (line.get_xdata()[0] for line in axes.lines)
        raw = np.load(store.maps(axes.get_title())).max(axis=(1, 2))
        assert threshold == arrays["image_threshold_raw"] and axes.get_xscale() == "linear"
        tops = [patch.get_xy()[:, 1].max() for patch in axes.patches]
        ends = float(raw.min()), float(raw.max())
        counts = [np.histogram(raw[arrays["labels"] == k], 20, ends)[0].max() for k in (0, 1)]
        assert tops == [counts[0], counts[0], counts[1], counts[1]]


def test_score_distribution_of_a_method_with_image_scores_of_its_own(methods, figures, tmp_path):
    run("score_distribution", "--result", methods, "--out", tmp_path, "--arch", *METHODS[2:])
    for figure, key in zip(figures, METHODS[2:], strict=True):
        for axes in figure.axes:
            arrays = Store(methods, key).read_arrays(axes.get_title())
            raw = script("_results").raw_scores(arrays)
            ends = arrays["image_score_min"], arrays["image_score_max"]
            assert (raw.min(), raw.max()) == pytest.approx(ends) and ends[0] > 30
            (threshold,) = (line.get_xdata()[0] for line in axes.lines)
            assert threshold == arrays["image_threshold_raw"]


def test_score_distribution_where_one_score_is_ten_times_the_others(tmp_path, figures):
    """The others do not share a bin: the axis is logarithmic, and says so."""
    write_results(tmp_path, "resnet18", ("bottle", "tile"))
    store = Store(tmp_path, "resnet18")
    arrays = store.read_arrays("tile")
    raw = np.geomspace(2, 8, len(arrays["labels"]))
    raw[-1] = 80
    arrays |= {"image_score_min": 2.0, "image_score_max": 80.0, "image_threshold_raw": raw[3]}
    store.write_arrays("tile", arrays | {"image_scores": ((raw - 2) / 78).astype(np.float32)})
    run("score_distribution", "--result", tmp_path, "--out", tmp_path)
    tile, bottle = figures[0].axes
    assert (tile.get_title(), tile.get_xscale(), bottle.get_xscale()) == ("tile", "log", "linear")
    assert tile.get_xlabel() == "logarithmic" and bottle.get_xlabel() == ""
    steps = {x for patch in tile.patches for (x, y) in patch.get_xy() if y > 0}
    assert len([x for x in steps if x < 8.1]) > 10


def test_localization_shows_the_median_of_every_kind(root, store, figures, tmp_path):
    run("localization", "--result", root, "--out", tmp_path, "--class", "bottle")
    arrays, figure = store.read_arrays("bottle"), figures[0]
    maps, images = np.load(store.maps("bottle")), np.load(store.pictures("bottle"))
    kinds = arrays["kinds"]
    labels = [text.get_text() for text in figure.texts]
    assert labels == ["good", "broken_large", "contamination", "manipulated_front"]
    for row, kind in enumerate(labels):
        members = np.flatnonzero(kinds == kind)
        i = members[np.argsort(arrays["image_scores"][members])[(len(members) - 1) // 2]]
        wanted = panel_pictures(images[i], arrays["masks"][i], maps[i], of_class(arrays))
        for axes, panel in zip(figure.axes[5 * row : 5 * row + 5], wanted, strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), panel)


def test_localization_of_chosen_images(root, store, figures, tmp_path):
    run("localization", "--result", root, "--out", tmp_path, "--class", "tile", "--index", 5, 2)
    images = np.load(store.pictures("tile"))
    for row, i in enumerate((5, 2)):
        np.testing.assert_array_equal(figures[0].axes[5 * row].images[0].get_array(), images[i])


def test_localization_is_padims_unless_a_model_is_named(methods, figures, tmp_path):
    rows = {key: Store(methods, key).read_results()["classes"]["tile"] for key in METHODS[:2]}
    better = max(rows, key=lambda key: rows[key]["pixel_rocauc"])
    for options, key in (((), better), (("--arch", METHODS[2]), METHODS[2])):
        run("localization", "--result", methods, "--out", tmp_path, "--class", "tile", "--index", 3, *options)
        store = Store(methods, key)
        arrays, maps, images = store.read_arrays("tile"), np.load(store.maps("tile")), np.load(store.pictures("tile"))
        heat = heat_over(images[3], maps[3], of_class(arrays))
        np.testing.assert_array_equal(figures[-1].axes[2].images[0].get_array(), heat)


def test_each_class_is_shown_from_the_model_that_is_best_at_it(tmp_path, figures):
    """The models need not have scored the same classes; one that has not scored a class does not stand for it."""
    aucs = {"resnet18": {"bottle": 0.9, "tile": 0.95}, "wide_resnet50_2": {"bottle": 0.99}}
    aucs |= {"spade_wide_resnet50_2": {"bottle": 0.999, "zipper": 0.8}}
    for key, classes in aucs.items():
        content = write_results(tmp_path / "result", key, tuple(classes))
        for name, value in classes.items():
            content["classes"][name]["pixel_rocauc"] = value
        Store(tmp_path / "result", key).write_results(content)
    options = ["--result", tmp_path / "result", "--out", tmp_path, "--index", 1]
    run("localization", *options, "--all")
    run("localization", *options, "--class", "tile")
    shown = [figure.axes[-1].get_ylabel().splitlines()[0].removeprefix("Anomaly score, ") for figure in figures]
    assert shown == ["ResNet18", "WideResNet50", "SPADE (WideResNet50)", "ResNet18"]  # tile、bottle、zipper；tile


def test_comparison(methods, figures, tmp_path):
    """Image, ground truth, and for each model with maps its own on its own scale."""
    run("localization", "--result", methods, "--out", tmp_path, "--compare", "--class", "tile", "--index", 5, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["comparison_tile.png"]
    panels = iter(figures[0].axes)
    for i in (5, 2):
        image, truth, *heats = (next(panels).images[0].get_array() for _ in range(5))
        for heat, key in zip(heats, METHODS[:3], strict=True):
            store = Store(methods, key)
            arrays, picture = store.read_arrays("tile"), np.load(store.pictures("tile"))[i]
            raw = np.load(store.maps("tile"))[i]
            np.testing.assert_array_equal(heat, heat_over(picture, raw, of_class(arrays)))
            np.testing.assert_array_equal(image, picture)
            np.testing.assert_array_equal(truth[..., 0] > 0, arrays["masks"][i] > 0)
    titles = [axes.get_title() for axes in figures[0].axes[2:5]]
    assert titles == ["PaDiM\n(ResNet18)", "PaDiM\n(WideResNet50)", "SPADE\n(WideResNet50)"]


def of_class(arrays: dict) -> Colours:
    return Colours(arrays["score_min"], arrays["score_max"], arrays["threshold_raw"], OF_CLASS)


def test_colours(methods, figures, tmp_path):
    """By the option; without one as the run has drawn: as published, as it was told, else by the threshold."""
    root = shutil.copytree(methods, tmp_path / "copy")
    options = ["--result", root, "--out", tmp_path, "--class", "tile", "--index", 5]
    store = Store(root, METHODS[0])
    content, arrays = store.read_results(), store.read_arrays("tile")
    raw, picture, threshold = (
        np.load(store.maps("tile"))[5], np.load(store.pictures("tile"))[5], arrays["threshold_raw"],
    )  # fmt: skip
    by_threshold = Colours(0, 2 * threshold, threshold, OF_THRESHOLD)

    def drawn(*more):
        run("localization", *options, *more)
        image = figures[-1].axes[2].images[0].get_array()
        words = figures[-1].axes[-1].get_ylabel().splitlines()[-1]
        return next(c for c in (of_class(arrays), by_threshold) if (heat_over(picture, raw, c) == image).all()), words

    one = ["--arch", METHODS[0]]
    published = of_class(arrays), "share of the class's range"
    by_factor = by_threshold, "times the threshold"
    assert drawn(*one) == published and drawn(*one, "--colours", "threshold") == by_factor
    assert figures[-1].axes[-1].get_ylim() == (0, 2) and figures[-1].axes[-1].lines[-1].get_ydata()[0] == 1
    assert drawn("--compare", "--arch", *METHODS[:2]) == published
    content["classes"]["tile"]["published"] = None
    store.write_results(content)
    assert drawn(*one) == by_factor and drawn(*one, "--colours", "class") == published
    assert drawn("--compare", "--arch", *METHODS[:2]) == by_factor  # 颜色在各模型那里说的是同一件事
    content["run"]["options"]["colours"] = "class"
    store.write_results(content)
    assert drawn(*one) == published
    run("localization", *options, *one, "--lang", "zh")
    assert figures[-1].axes[-1].get_ylabel() == "异常得分，ResNet18\n占本类得分范围的比例"


def test_comparison_of_what_two_models_have_scored(methods, figures, tmp_path):
    root = shutil.copytree(methods, tmp_path / "copy")
    Store(root, METHODS[0]).arrays("tile").unlink()
    options = ["--result", root, "--out", tmp_path, "--compare"]
    run("localization", *options, "--arch", *METHODS[:2])
    run("localization", *options, "--all")
    assert [len(figure.axes) for figure in figures] == [4 * 4 + 1, 4 * 4 + 1, 4 * 5 + 1]


def test_without_masks(figures, tmp_path, capsys):
    write_results(tmp_path / "result", "resnet18", ("bottle",), masks=False)
    options = ["--result", tmp_path / "result", "--out", tmp_path]
    for name in ("localization", "roc_curve", "score_distribution", "patch_gaussian", "auroc_table"):
        run(name, *options)
    words = {text.get_text() for axes in figures[0].axes for text in axes.texts}
    assert words == {"not\navailable"}
    left, right = figures[3].axes
    assert [text.get_text() for text in left.get_legend().get_texts()][1:] == ["normal image", "defective image"]
    assert [label.get_text() for label in right.get_xticklabels()] == ["normal", "defective"]
    assert script("precision_recall").main([str(o) for o in options]) == 2
    assert capsys.readouterr().err.startswith("error: no class in")


def test_gaussian_parameters(root, store, figures, tmp_path):
    run("gaussian_parameters", "--result", root, "--out", tmp_path, "--class", "tile", "--condition")
    mean, covariance = read_fitted(store.fitted("tile"), GRID * GRID, DIMENSIONS)
    panels = {axes.get_title(): axes for axes in figures[0].axes}
    here = covariance[CENTRE].astype(np.float64)

    def shown(title):
        return panels[title].images[0].get_array()

    np.testing.assert_allclose(shown("Norm of the mean").ravel(), np.linalg.norm(mean, axis=1))
    np.testing.assert_allclose(shown("Covariance"), here)
    deviations = np.sqrt(np.diag(here))
    np.testing.assert_allclose(shown("Correlation"), here / deviations / deviations[:, None], rtol=1e-6)
    values = panels["Eigenvalues"].lines[0].get_ydata()
    np.testing.assert_allclose(values, np.linalg.eigvalsh(here)[::-1])
    numbers = figures[0].axes[4].images[0].get_array()
    np.testing.assert_allclose(10 ** numbers.ravel(), np.linalg.cond(covariance.astype(np.float64)), rtol=1e-4)


def test_patch_gaussian(root, store, figures, tmp_path):
    from scipy.spatial.distance import mahalanobis

    run("patch_gaussian", "--result", root, "--out", tmp_path, "--class", "tile")
    mean, covariance = read_fitted(store.fitted("tile"), GRID * GRID, DIMENSIONS)
    mean, covariance = mean[CENTRE].astype(np.float64), covariance[CENTRE].astype(np.float64)
    arrays, (left, right) = store.read_arrays("tile"), figures[0].axes
    inverse = np.linalg.inv(covariance)
    wanted = [mahalanobis(patch, mean, inverse) for patch in arrays["patches"]]
    drawn = np.concatenate([points.get_offsets() for points in right.collections])
    np.testing.assert_allclose(sorted(drawn[:, 1]), sorted(wanted), rtol=1e-6)
    outer = max(left.patches, key=lambda ellipse: ellipse.width)
    largest = np.sqrt(np.linalg.eigvalsh(covariance)[::-1][:2])
    np.testing.assert_allclose([outer.width, outer.height], 6 * largest)
    # 平面里的距离不超过全部维里的距离
    plane = np.concatenate([points.get_offsets() for points in left.collections])
    assert (
        len(plane) == len(wanted) and (np.sort(np.linalg.norm(plane / largest, axis=1)) <= np.sort(wanted) + 1e-9).all()
    )


def test_training_pictures(root, store, figures, tmp_path):
    run("training_pictures", "--result", root, "--out", tmp_path, "--class", "tile")
    unusual, arrays = store.read_left_out("tile"), store.read_arrays("tile")
    scores = read_json(store.fitted("tile").with_suffix(".json"))["left_out_scores"]
    limit, colours = stands_out_from(scores), of_class(arrays)
    pictures, (bar, *strips) = figures[0].axes[:12], figures[0].axes[12:]
    for i, axes in enumerate(pictures):
        wanted = unusual["images"][i], heat_over(unusual["images"][i], unusual["maps"][i], colours)
        shown = axes.images[0].get_array()
        for panel, part in zip(wanted, (shown[:, :SIDE], shown[:, -SIDE:]), strict=True):
            np.testing.assert_array_equal(part, panel)
        score, file = axes.get_title(loc="left").split()
        assert score == f"{unusual['scores'][i]:.1f}" and f"train/good/{file}" == unusual["files"][i]
        assert axes.spines["left"].get_visible() == (unusual["scores"][i] > limit) == (i == 0)
    assert bar.get_ylim() == (0, 1) and bar.get_ylabel() == "Left-out anomaly score\nshare of the class's range"
    raw = np.load(store.maps("tile")).max(axis=(1, 2))
    good = arrays["labels"] == 0
    for axes, values in zip(strips, (scores, raw[good], raw[~good]), strict=True):
        assert axes.get_ylabel().endswith(f"n = {len(values)}")
        edges = np.array([patch.get_x() for patch in axes.patches] + [max([*scores, *raw])])
        assert edges[0] == pytest.approx(min([*scores, *raw]))
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        assert [patch.get_height() for patch in axes.patches] == counts.tolist() and counts.sum() == len(values)
        at = [line.get_xdata()[0] for line in axes.lines]
        assert at == pytest.approx([np.percentile(scores, 99), arrays["image_threshold_raw"]])


def test_training_pictures_without_test_pictures(root, figures, tmp_path):
    """Nor labels: what there is."""
    store = Store(shutil.copytree(root, tmp_path / "copy"), "resnet18")
    options = ["--result", store.root, "--out", tmp_path]
    good = {"labels": np.zeros(12, np.uint8), "image_threshold_raw": None}
    store.write_arrays("tile", store.read_arrays("tile") | good)
    run("training_pictures", *options, "--class", "tile")
    for name in CLASSES:
        store.arrays(name).unlink()
    run("training_pictures", *options, "--all")
    for figure, strips in zip(figures, (2, 1, 1), strict=True):
        shown = figure.axes[13:]
        assert len(shown) == strips and all(len(axes.lines) == 1 for axes in shown)


def test_training_pictures_by_lots(root, figures, tmp_path):
    """Both distributions, both percentiles; a row for each lot, the one that stands out in red."""
    store = Store(shutil.copytree(root, tmp_path / "copy"), "resnet18")
    path, unusual = store.fitted("tile").with_suffix(".json"), store.read_left_out("tile")
    record = read_json(path)
    alone, lots = record["left_out_scores"], [f"train/good/day {i // 6}" for i in range(30)]
    scores = [score + 8 * (lot == "train/good/day 3") for score, lot in zip(alone, lots, strict=True)]
    kinds = {"left_out": {"by": "folder", "groups": 5}, "left_out_alone_scores": alone, "left_out_scores": scores}
    write_json(path, record | kinds)
    store.write_left_out("tile", unusual | {"lots": np.array(lots)})
    run("training_pictures", "--result", store.root, "--out", tmp_path, "--class", "tile")
    strips, rows = figures[0].axes[13:-1], figures[0].axes[-1]
    assert len(strips) == 4 and "as if its lot were left out" in figures[0].subfigs[0].texts[0].get_text()
    for axes, values in zip(strips, (alone, scores), strict=False):
        assert sum(patch.get_height() for patch in axes.patches) == len(values) == 30
        at = [line.get_xdata()[0] for line in axes.lines]
        assert at[:2] == pytest.approx([np.percentile(scores, 99), np.percentile(alone, 99)])
    labels = rows.get_yticklabels()
    assert {label.get_text() for label in labels} == {f"day {i} (6)" for i in range(5)}
    assert [label.get_text() for label in labels if label.get_color() == style.DEFECT_COLOUR] == ["day 3 (6)"]
    assert labels[-1].get_text() == "day 3 (6)"  # 中位数最高的在最上
    medians = [line.get_xdata()[0] for line in rows.lines]
    assert medians == sorted(medians) and medians[-1] == np.median(scores[18:24])

    store.write_left_out("tile", unusual | {"lots": np.array(lots[1:])})
    options = ["--result", str(store.root), "--out", str(tmp_path), "--class", "tile"]
    assert script("training_pictures").main(options) == 2  # 批次与得分不是一次写的


def test_no_training_picture_stands_out(root, figures, tmp_path):
    store = Store(shutil.copytree(root, tmp_path / "copy"), "resnet18")
    path = store.fitted("tile").with_suffix(".json")
    record, unusual = read_json(path), store.read_left_out("tile")
    words = []
    for change in (lambda s: s[:-1], lambda s: [*s[:10], *[11.0] * 30]):  # 去掉突出的一张；半数相同
        scores = change(record["left_out_scores"])
        write_json(path, record | {"left_out_scores": scores})
        store.write_left_out("tile", {k: value if value is None else value[1:] for k, value in unusual.items()})
        run("training_pictures", "--result", store.root, "--out", tmp_path, "--class", "tile")
        assert not any(axes.spines["left"].get_visible() for axes in figures[-1].axes[:11])
        words += [text.get_text().splitlines()[1] for text in figures[-1].subfigs[0].texts]
    assert [line.split(":")[0] for line in words] == ["none stands out", "half of the scores are equal"]


def test_model_parameters(root, store):
    record = read_json(store.fitted("tile").with_suffix(".json"))
    parameters = script("model_parameters").count(record)
    edges = (0, 64, 192, 448)
    wanted = [sum(a <= c < b for c in record["dimensions"]) for a, b in pairwise(edges)]
    assert parameters.kept == wanted and sum(wanted) == DIMENSIONS
    assert (parameters.mean_values, parameters.covariance_values) == (144 * 6, 144 * 36)
    assert store.fitted("tile").stat().st_size == pytest.approx(4 * 144 * 42, abs=500)


def test_auroc_table(root, store, tmp_path, figures):
    run("auroc_table", "--result", root, "--out", tmp_path)
    results = store.read_results()
    with open(tmp_path / "auroc_table.csv", encoding="utf-8") as file:
        lines = {line["class"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["tile", "bottle", "all_textures", "all_objects", "all"]
    rows = results["classes"] | {k if k == "all" else f"all_{k}": row for k, row in results["averages"].items()}
    for name, line in lines.items():
        for level in ("image", "pixel"):
            assert float(line[f"resnet18_{level}"]) == pytest.approx(rows[name][f"{level}_rocauc"], abs=1e-6)
            published = (rows[name]["published"] or {}).get(level)
            assert line[f"resnet18_{level}_published"] == ("" if published is None else f"{published:.3f}")
    heights = [patch.get_height() for patch in figures[0].axes[0].patches]
    assert heights == [rows[name]["image_rocauc"] for name in lines]
    text = (tmp_path / "auroc_table.md").read_text(encoding="utf-8")
    assert "**" not in text  # 只有一个模型，说不上谁最好
    ours, theirs = text.split("\n\n")
    assert f"\n| tile | {rows['tile']['image_rocauc']:.3f} | {rows['tile']['pixel_rocauc']:.3f} |\n" in ours
    assert theirs.startswith("| published |") and "\n| tile | 0.959 | 0.917 |\n" in theirs
    assert len({line.count("|") for line in text.splitlines() if line}) == 1


def test_intervals_in_the_tables(root, store, tmp_path, capsys):
    rows = store.read_results()["classes"]
    run("auroc_table", "--result", root, "--out", tmp_path, "--interval", "--format", "png")
    text, tex = ((tmp_path / f"auroc_table.{suffix}").read_text(encoding="utf-8") for suffix in ("md", "tex"))
    with open(tmp_path / "auroc_table.csv", encoding="utf-8") as file:
        lines = {line["class"]: line for line in csv.DictReader(file)}
    shown = 0
    for name, row in rows.items():
        for level in ("image", "pixel"):
            ends = row[f"{level}_rocauc_interval"]
            found = [lines[name][f"resnet18_{level}_{end}"] for end in ("low", "high")]
            assert found == (["", ""] if ends is None else [f"{end:.6f}" for end in ends])
            if ends is not None:
                words = f"{row[f'{level}_rocauc']:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
                assert words in text and words in tex
                shown += 1
    assert shown and text.count("[") == shown  # 平均与发表值没有
    assert lines["all"]["resnet18_pixel_low"] == ""
    assert script("auroc_table").main(["--result", str(root), str(root), "--interval"]) == 2
    assert "give one --result" in capsys.readouterr().err


def cells(block: str) -> dict[str, list[str]]:
    """The cells of a Markdown table, by a row's first one."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
    return {line[0]: line[1:] for line in lines if not line[0].startswith("-")}


def test_methods_side_by_side(methods, tmp_path, figures):
    """The best of a level in bold; what a method has not is no column."""
    run("auroc_table", "--result", methods, "--out", tmp_path)
    rows = {key: Store(methods, key).read_results()["classes"] for key in METHODS}
    ours, theirs = map(cells, (tmp_path / "auroc_table.md").read_text(encoding="utf-8").split("\n\n"))
    names = ("PaDiM (ResNet18)", "PaDiM (WideResNet50)", "SPADE (WideResNet50)", "MahalanobisAD (EfficientNet-B4)")
    assert ours["class"] == [f"{name} image" for name in names] + [f"{name} pixel" for name in names[:3]]
    for name in CLASSES:
        for level, part in (("image", ours[name][:4]), ("pixel", ours[name][4:])):
            values = [f"{rows[key][name][f'{level}_rocauc']:.3f}" for key in METHODS[: len(part)]]
            assert part == [f"**{value}**" if value == max(values) else value for value in values]
    assert list(theirs) == ["published (MahalanobisAD: with other weights)", "tile", "bottle"]
    assert theirs["tile"] == ["0.959", "0.974", "0.965", "**0.986**", "0.917", "**0.939**", "0.928"]
    assert theirs["bottle"] == ["0.996", "0.998", "0.972", "**1.000**", "0.981", "**0.982**", "0.970"]
    with open(tmp_path / "auroc_table.csv", encoding="utf-8") as file:
        line = next(csv.DictReader(file))
    assert line["mahalanobis_ad_efficientnet_b4_image_published"] == "0.986"
    assert "mahalanobis_ad_efficientnet_b4_pixel" not in line
    image, pixel = figures[0].axes
    assert (len(image.patches), len(pixel.patches)) == (4 * (len(ours) - 1), 3 * (len(ours) - 1))


def test_no_average_over_different_classes_beside_another(tmp_path, figures):
    """Neither in the tables nor as a bar; where the classes of a group are the same, there is one."""
    content = write_results(root := tmp_path / "result", "resnet18", ("bottle", "tile", "pill"))
    write_results(root, METHODS[2], ("bottle", "pill"), 1)
    write_results(root, METHODS[3], ("bottle", "pill", "tile"), 2)
    run("auroc_table", "--result", root, "--out", tmp_path)
    ours, theirs = map(cells, (tmp_path / "auroc_table.md").read_text(encoding="utf-8").split("\n\n"))
    assert list(ours)[1:4] == ["tile", "bottle", "pill"] and ours["tile"][1] == ours["tile"][4] == "–"
    for group in ("textures", "all"):
        assert set(ours[f"*mean of {group} (–: of different classes)*"]) == {"–"}
    assert f"{content['averages']['objects']['pixel_rocauc']:.3f}" == ours["*mean of objects*"][3].strip("*")
    assert not any("mean" in name for name in theirs)
    with open(tmp_path / "auroc_table.csv", encoding="utf-8") as file:
        lines = {line["class"]: line for line in csv.DictReader(file)}
    assert (lines["all"]["resnet18_image"], lines["all"]["resnet18_image_n"]) == ("", "0")
    assert r"mean of all (--: of different classes) & -- & --" in (tmp_path / "auroc_table.tex").read_text("utf-8")
    labels = [label.get_text() for label in figures[0].axes[1].get_xticklabels()]
    assert labels == ["tile", "bottle", "pill", "mean of objects"]
    # 没有像素级的方法不在像素级的平均之列，类别不同也无妨
    run("auroc_table", "--result", root, "--out", tmp_path, "--arch", METHODS[2], METHODS[3])
    ours = cells((tmp_path / "auroc_table.md").read_text(encoding="utf-8").split("\n\n")[0])
    image, other, pixel = ours["*mean of all (–: of different classes)*"]
    assert image == other == "–" and pixel == ours["*mean of objects*"][2] != "–"


def test_chosen_models_in_the_order_given(methods, tmp_path, figures):
    run("auroc_table", "--result", methods, "--out", tmp_path, "--arch", METHODS[2], METHODS[0])
    with open(tmp_path / "auroc_table.csv", encoding="utf-8") as file:
        titles = [title for title in next(csv.reader(file)) if title.endswith("_published")]
    wanted = [f"{key}_{level}_published" for level in ("image", "pixel") for key in (METHODS[2], METHODS[0])]
    assert titles == wanted


def test_a_level_without_figures(figures, tmp_path, capsys):
    """It is left out; a table without any is an error."""
    store = Store(tmp_path / "result", METHODS[3])
    write_results(store.root, store.key, CLASSES)
    run("auroc_table", "--result", store.root, "--out", tmp_path)
    assert len(figures[0].axes) == 1 and "pixel" not in (tmp_path / "auroc_table.tex").read_text(encoding="utf-8")
    content = store.read_results()
    for row in (*content["classes"].values(), *content["averages"].values()):
        row["image_rocauc"] = None
    store.write_results(content)
    assert script("auroc_table").main(["--result", str(store.root), "--out", str(tmp_path)]) == 2
    assert "error: no class in" in capsys.readouterr().err


def test_several_seeds(tmp_path, figures, capsys):
    roots = [tmp_path / f"seed{k}" for k in range(3)]
    values = [write_results(r, "resnet18", CLASSES, k)["classes"]["tile"]["image_rocauc"] for k, r in enumerate(roots)]
    run("auroc_table", "--result", *roots, "--out", tmp_path)
    text = (tmp_path / "auroc_table.md").read_text(encoding="utf-8")
    assert f"| tile | {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f} |" in text and "(n = 3)" in text
    options = ["--result", *map(str, roots), "--out", str(tmp_path)]
    content = read_json(path := Store(roots[2], "resnet18").results)
    for change, words in (
        ({"weights_sha256": "1"}, "weights"), ({"dimensions": [1]}, "numbers of dimensions"),
        ({"precision": "bf16"}, "precision"), ({"preprocessing": {}}, "preprocessing"),
    ):  # fmt: skip
        made_with = content["run"]["configuration"] | change
        write_json(path, content | {"run": content["run"] | {"configuration": made_with}})
        assert script("auroc_table").main(options) == 2
        assert f"different {words};" in capsys.readouterr().err
    for split in ("training", "test"):
        rows = content["classes"] | {"tile": content["classes"]["tile"] | {f"{split}_files": "1"}}
        write_json(path, content | {"classes": rows})
        assert script("auroc_table").main(options) == 2
        assert f"different {split} pictures;" in capsys.readouterr().err
    write_results(roots[2], "resnet18", ("tile",), 2)
    assert script("auroc_table").main(options) == 2
    assert "different classes" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["resnet18", "spade_wide_resnet50_2"])
def test_the_same_seed_is_no_second_one(key, tmp_path, capsys, figures):
    """Not even behind another; a method that draws nothing has none, unless the pictures are turned."""
    roots = [tmp_path / f"seed{k}" for k in range(3)]
    for k, seed in enumerate((0, 1, 1)):
        write_results(roots[k], key, ("tile",), seed)
    options = ["--out", str(tmp_path), "--format", "png", "--result"]
    for given in ([roots[0], roots[0]], roots):
        assert script("auroc_table").main([*options, *map(str, given)]) == 2
        assert "do not differ in the seed" in capsys.readouterr().err
    for k, root in enumerate(roots):
        content = read_json(path := Store(root, key).results)
        made_with = content["run"]["configuration"] | ({"seed": k} if key == "resnet18" else {})
        made_with["preprocessing"] |= {"protocol": "rd", "seed": k}
        write_json(path, content | {"run": content["run"] | {"configuration": made_with}})
    assert script("auroc_table").main([*options, *map(str, roots)]) == 0
    assert "(n = 3)" in (tmp_path / "auroc_table.md").read_text(encoding="utf-8")


def test_the_latex_table_compiles(tmp_path, figures):
    for key in METHODS:
        write_results(tmp_path / "result", key, ("metal_nut", "tile"))
    run("auroc_table", "--result", tmp_path / "result", "--out", tmp_path)
    text = (tmp_path / "auroc_table.tex").read_text(encoding="utf-8")
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    spans = [sum(map(int, re.findall(r"multicolumn\{(\d)\}", line))) for line in body]
    assert len(columns) == 8 and spans[:2] == [7, 7]
    assert all(line.count("&") == 7 or span == 8 for line, span in zip(body[2:], spans[2:], strict=True))
    assert r"\textbf{0.986}" in text and "with other weights" in text
    assert r"metal\_nut" in text and not re.search(r"(?<!\\)_", text.split("\n", 1)[1])
    for rule in ("toprule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1
    assert text.count("{") == text.count("}")
    if shutil.which("pdflatex"):
        document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "document.tex").write_text(document, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def benchmark(path: Path) -> Path:
    part = {"stages": {"fit": 5.0, "score": 4.0, "total": 9.5}, "end_to_end": 12.0, "peak_memory_bytes": 1_200_000_000}
    stages = {"network": 1.0, "train features": 10.0, "covariances": 20.0, "distances": 9.0, "maps": 3.0}
    floor = {"forward": 3.0, "decode": 2.5, "fit and score": 4.0, "ratio": 1.3}
    textbook = {"stages": stages, "end_to_end": 46.0, "peak_memory_bytes": None}
    record = {"textbook": textbook, "padim": part, "floor": floor}
    content = {"machine": "", "date": "", "architectures": {"resnet18": record | {"ratios": {}}}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_complexity_of_methods(methods, figures, tmp_path):
    store = Store(shutil.copytree(methods, tmp_path / "copy"), METHODS[3])
    content = store.read_results()
    for row in content["classes"].values():
        row["seconds"] = {"fit": 11.0, "score": 4.0, "total": 15.0}
    store.write_results(content | {"run": content["run"] | {"peak_memory_bytes": 900_000_000}})
    run("complexity", "--result", store.root, "--out", tmp_path)
    times, memories = figures[0].axes
    labels = [label.get_text().split("\n")[0] for label in times.get_yticklabels()]
    assert labels[2:] == ["SPADE (WideResNet50)", "MahalanobisAD (EfficientNet-B4)"]
    assert [bar.get_width() for bar in times.patches][-2:] == [11, 4]
    assert [bar.get_width() for bar in memories.patches] == [1.5, 1.5, 1.5, 0.9]


@pytest.mark.parametrize("given", [True, False])
def test_complexity(given, root, figures, tmp_path):
    run("complexity", "--result", root, "--out", tmp_path)
    times, memories = figures[0].axes
    assert [bar.get_width() for bar in times.patches] == [3, 0.5, 2, 1, 0.5]  # 最后是未计入各阶段的时间
    assert [bar.get_width() for bar in memories.patches] == [1.5]
    if given:
        options = ["--result", root, "--benchmark", benchmark(tmp_path / "b.json")]
    else:
        shutil.copytree(root, tmp_path / "copy")
        benchmark(tmp_path / "copy" / "benchmark.json")
        options = ["--result", tmp_path / "copy"]
    run("complexity", *options, "--out", tmp_path)
    _, _, times, memories = figures[1].axes
    assert [bar.get_width() for bar in times.patches] == [30, 12, 4, 5, 4, 3]
    assert [line.get_xdata()[0] for line in times.lines if len(line.get_xdata())] == [5.5]
    assert [bar.get_width() for bar in memories.patches] == [1.2]

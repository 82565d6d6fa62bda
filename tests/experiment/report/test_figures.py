from threading import Event, Thread

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.morphology import disk, opening
from skimage.segmentation import find_boundaries

from experiment.files.folder import Store
from experiment.report import drawing, figures
from experiment.report.colours import OF_CLASS, OF_THRESHOLD, Colours, predicted_mask
from experiment.report.drawing import Drawer, chosen_figures
from experiment.report.figures import LocalizationCanvas, boundary, roc_figure
from padim.metrics import ClassEvaluation, evaluate_maps, normalise
from system.files import Staged

H, W = 60, 80


@pytest.fixture
def scored(tmp_path):
    """A stored class of three pictures, two with a bright defect, its evaluation and its masks."""
    rng = np.random.default_rng(0)
    store = Store(tmp_path, "resnet18")
    masks = np.zeros((3, H, W), np.uint8)
    masks[1:, 20:44, 30:54] = 1
    with Staged() as staged, store.score_files("x", (3, H, W), staged) as (maps, images, _):
        maps[:] = rng.random((3, H, W)) + 4 * masks
        images[:] = rng.integers(0, 256, images.shape)
        found = evaluate_maps(maps, np.array([0, 1, 1]), masks)
    return store, found, masks


def colours(found: ClassEvaluation) -> Colours:
    return Colours(*found.pixel_range, found.pixel.threshold, OF_CLASS)


@pytest.fixture
def drawer():
    drawer = Drawer()
    yield drawer
    drawer.stop()


def panels(figure: np.ndarray, canvas: LocalizationCanvas) -> list[np.ndarray]:
    return [figure[canvas.top : canvas.top + H, x : x + W] for x in canvas.columns]


def test_the_five_panels(scored, drawer):
    store, found, masks = scored
    drawer.draw(store, "x", [1], masks, colours(found)).finish()
    figure = np.asarray(Image.open(store.figure("x", 1)))
    canvas = LocalizationCanvas(H, W, OF_CLASS)
    image, truth, heat, mask, segmentation = panels(figure, canvas)
    stored = np.load(store.pictures("x"))[1]
    scores = normalise(np.load(store.maps("x"))[1], *found.pixel_range)
    np.testing.assert_array_equal(image, stored)
    np.testing.assert_array_equal(truth[..., 0] > 0, masks[1] > 0)
    jet = matplotlib.colormaps["jet"](scores)[..., :3] * 255
    assert np.abs(heat - (stored / 2 + jet / 2)).max() < 4
    wanted = opening(scores > found.threshold, disk(4))
    np.testing.assert_array_equal(mask[..., 0] > 0, wanted)
    assert wanted.any()
    red = (segmentation == [255, 0, 0]).all(-1)
    assert red.any() and (segmentation[~red] == stored[~red]).all()
    assert not red[:10].any()


def test_colours_by_the_threshold(scored, drawer):
    """They run to twice the threshold, whatever the class holds; the mask is the same."""
    store, found, masks = scored
    threshold = found.pixel.threshold
    for own in (colours(found), Colours(0, 2 * threshold, threshold, OF_THRESHOLD)):
        drawer.draw(store, "x", [1], masks, own).finish()
        found = panels(np.asarray(Image.open(store.figure("x", 1))), LocalizationCanvas(H, W, own.bar))
        if own.bar == OF_CLASS:
            published = found
    stored, raw = np.load(store.pictures("x"))[1], np.load(store.maps("x"))[1]
    jet = matplotlib.colormaps["jet"](raw / (2 * threshold))[..., :3] * 255
    assert np.abs(found[2] - (stored / 2 + jet / 2)).max() < 4
    assert np.abs(found[2].astype(int) - published[2]).max() > 50
    for k in (0, 1, 3, 4):
        np.testing.assert_array_equal(found[k], published[k])


def test_every_figure_is_there_once_drawing_is_finished(scored, drawer):
    store, found, masks = scored
    drawings = drawer.draw(store, "x", range(3), masks, colours(found))
    drawings.finish()
    alone = LocalizationCanvas(H, W, OF_CLASS)
    maps, images = np.load(store.maps("x")), np.load(store.pictures("x"))
    for i in range(3):
        wanted = alone.draw(images[i], masks[i], maps[i], colours(found))
        np.testing.assert_array_equal(np.asarray(Image.open(store.figure("x", i))), wanted)
    assert drawings.name == "x" and len(list(store.root.rglob("*.png"))) == 3
    drawer.draw(store, "x", [], masks, colours(found)).finish()


def test_a_figure_that_cannot_be_written_is_an_error(scored, drawer, monkeypatch):
    store, found, masks = scored

    def full(figure, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(figures, "save_figure", full)
    with pytest.raises(OSError, match="No space left"):
        drawer.draw(store, "x", [0, 1, 2], masks, colours(found)).finish()


def test_nothing_more_is_drawn_once_it_is_stopped(scored, monkeypatch):
    store, found, masks = scored
    started, go_on, drawn = Event(), Event(), []

    def slow(figure, path):
        started.set()
        assert go_on.wait(20)
        drawn.append(path)

    monkeypatch.setattr(figures, "save_figure", slow)
    monkeypatch.setattr(drawing, "cores", lambda: 2)  # 一个绘图线程
    drawer = Drawer()
    drawer.draw(store, "x", [0, 1, 2], masks, colours(found))
    assert started.wait(20)
    stopping = Thread(target=drawer.stop)
    stopping.start()
    go_on.set()
    stopping.join(20)
    assert not stopping.is_alive() and len(drawn) < 3


def test_what_is_not_available_says_so():
    canvas = LocalizationCanvas(H, W, OF_CLASS)
    figure = canvas.draw(np.zeros((H, W, 3), np.uint8), None, np.zeros((H, W)), Colours(0, 1, None, OF_CLASS))
    _, truth, _, mask, segmentation = panels(figure, canvas)
    for panel in (truth, mask, segmentation):
        np.testing.assert_array_equal(panel, canvas.missing)
    assert np.median(canvas.missing) > 200 and canvas.missing.min() < 150


def test_the_mask_is_opened():
    scores = np.zeros((40, 40))
    scores[2:4, 2:4] = 1  # 比结构元小：被开运算去掉
    scores[15:35, 15:35] = 1
    mask = predicted_mask(scores, 0.5)
    assert not mask[:10].any() and mask[20:30, 20:30].all()


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [("all", [0, 1, 2, 3, 4, 5, 6]), ("none", []), (3, [0, 2, 4]), (0, []), (99, [0, 1, 2, 3, 4, 5, 6])],
)
def test_chosen_figures(wanted, indices):
    assert chosen_figures(7, wanted) == indices


def test_roc_figure_with_missing_levels(tmp_path):
    curve = np.array([[0, 0], [0.1, 0.8], [1, 1]]), 0.85
    path = tmp_path / "roc.png"
    roc_figure({"a": {"image": curve, "pixel": None}, "b": {"image": None, "pixel": curve}}, path)
    image = np.asarray(Image.open(path).convert("RGB"))
    assert image.shape[1] > 1500 and (image < 100).any()
    for only in (curve, None):  # 哪一类都没有的一级，不留空格子
        roc_figure({"a": {"image": only, "pixel": None}, "b": {"image": None, "pixel": None}}, path)
        image = np.asarray(Image.open(path).convert("RGB"))
        assert 900 < image.shape[1] < 1200 and (image < 100).any()


def test_masks_and_their_boundaries_are_skimages():
    """Of any size, at the border, empty and full."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        scores = gaussian_filter(rng.standard_normal(rng.integers(1, 90, 2)), rng.uniform(0.5, 9))
        threshold = np.quantile(scores, np.clip(rng.uniform(-0.1, 1.1), 0, 1)) - 1e-9
        mask = predicted_mask(scores, threshold)
        np.testing.assert_array_equal(mask, opening(scores > threshold, disk(4)))
        np.testing.assert_array_equal(boundary(mask), find_boundaries(mask, mode="thick"))

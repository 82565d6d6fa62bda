"""The figures that the experiment draws; imports no torch, so that a drawing process starts quickly."""

import multiprocessing
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from padim import style
from padim.command import cores, obey_parent
from padim.metrics import normalise
from padim.store import Store, replacing

PANELS = ("Image", "GroundTruth", "Predicted heat map", "Predicted mask", "Segmentation result")
OPENING_RADIUS = 4  # 像素
HEAT_OPACITY = 0.5
_NARROWEST, _LOWEST = 126, 120  # 像素：最长的标题、色条的标题所需
_BATCH = 4  # 一个绘图任务的图片数


def predicted_mask(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Scores above the threshold, opened with a disk of radius 4: (H, W) bool."""
    from skimage.morphology import disk, opening  # 装入慢：只画曲线的脚本不必等它

    return opening(scores > threshold, disk(OPENING_RADIUS))


@lru_cache(maxsize=1)
def _heat_colours() -> np.ndarray:
    return (matplotlib.colormaps[style.HEAT](np.arange(256))[:, :3] * 255).astype(np.float32)


def panel_images(
    image: np.ndarray, truth: np.ndarray | None, scores: np.ndarray, threshold: float | None
) -> list[np.ndarray | None]:
    """The pictures of the five `PANELS`, (H, W, 3) uint8 each; None is not available.

    Parameters are those of `LocalizationCanvas.draw`.
    """
    heat = _heat_colours()[(np.clip(scores, 0, 1) * 255).astype(np.uint8)]
    overlay = (image * (1 - HEAT_OPACITY) + heat * HEAT_OPACITY).astype(np.uint8)
    mask = segmentation = None
    if threshold is not None:
        from skimage.segmentation import find_boundaries

        defect = predicted_mask(scores, threshold)
        mask = _grey(defect)
        segmentation = image.copy()
        segmentation[find_boundaries(defect, mode="thick")] = (255, 0, 0)
    return [image, None if truth is None else _grey(truth), overlay, mask, segmentation]


class LocalizationCanvas:
    """The five-panel figure for pictures of one size; everything that never changes is drawn once.

    Panels are as many pixels wide as the pictures, so no pixel is resampled; around small ones there
    is room for the titles and the colour bar.
    """

    def __init__(self, height: int, width: int, dpi: int = 100):
        gap, left, top, bottom, right = 12, 12, 30, 12, 84
        pitch, bar_height = max(width, _NARROWEST), max(height, _LOWEST)
        self.columns = [left + i * (pitch + gap) + (pitch - width) // 2 for i in range(len(PANELS))]
        self.top, end = top, left + len(PANELS) * (pitch + gap) - gap
        total = (end + right, top + bar_height + bottom)
        figure = Figure((total[0] / dpi, total[1] / dpi), dpi=dpi)
        canvas = FigureCanvasAgg(figure)
        for x, title in zip(self.columns, PANELS, strict=True):
            centre = ((x + width / 2) / total[0], 1 - (top - 8) / total[1])
            figure.text(*centre, title, ha="center", va="bottom", size=style.LABEL_SIZE)
        bar = [(end + 16) / total[0], bottom / total[1], 14 / total[0], bar_height / total[1]]
        colour_bar = figure.colorbar(ScalarMappable(cmap=style.HEAT), cax=figure.add_axes(bar))
        colour_bar.ax.tick_params(labelsize=style.LABEL_SIZE - 1)
        colour_bar.set_label("Anomaly score", size=style.LABEL_SIZE)
        canvas.draw()
        self.background = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        self.missing = self._missing_panel(height, width, dpi)

    @staticmethod
    def _missing_panel(height: int, width: int, dpi: int) -> np.ndarray:
        figure = Figure((width / dpi, height / dpi), dpi=dpi, facecolor="0.93")
        canvas = FigureCanvasAgg(figure)
        words = "not available" if width >= 2 * _NARROWEST // 3 else "not\navailable"
        figure.text(0.5, 0.5, words, ha="center", va="center", size=style.LABEL_SIZE, color="0.35")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def draw(
        self, image: np.ndarray, truth: np.ndarray | None, scores: np.ndarray, threshold: float | None
    ) -> np.ndarray:
        """The figure of one picture.

        Parameters
        ----------
        image : ndarray, (H, W, 3) uint8
        truth : ndarray (H, W), or None
            Non-zero is defect; None where the class has no masks.
        scores : ndarray, (H, W) float
            Normalised to [0, 1] over the class.
        threshold : float or None
            None where the labels define none.

        Returns
        -------
        ndarray, (height, width, 3) uint8
        """
        panels = [self.missing if panel is None else panel for panel in panel_images(image, truth, scores, threshold)]
        figure = self.background.copy()
        for x, panel in zip(self.columns, panels, strict=True):
            figure[self.top : self.top + panel.shape[0], x : x + panel.shape[1]] = panel
        return figure


def _grey(mask: np.ndarray) -> np.ndarray:
    return np.repeat((np.asarray(mask) != 0).astype(np.uint8)[..., None] * 255, 3, axis=2)


@lru_cache(maxsize=1)
def _canvas(height: int, width: int) -> LocalizationCanvas:
    return LocalizationCanvas(height, width)


@dataclass(frozen=True)
class Scale:
    """What a class's figures have in common: the ends of the normalisation, and the threshold of normalised scores."""

    low: float
    high: float
    threshold: float | None


def draw_localizations(
    root: Path, arch: str, name: str, indices: list[int], masks: np.ndarray | None, scale: Scale
) -> None:
    """Draw and write the localization figures of these test pictures from the stored maps and pictures.

    ``masks`` are theirs alone, (len(indices), H, W).
    """
    store = Store(root, arch)
    maps, images = (np.load(path, mmap_mode="r") for path in (store.maps(name), store.images(name)))
    canvas = _canvas(*maps.shape[1:])
    for k, i in enumerate(indices):
        scores = normalise(np.asarray(maps[i]), scale.low, scale.high)
        figure = canvas.draw(images[i], None if masks is None else masks[k], scores, scale.threshold)
        with replacing(store.picture(name, i)) as temporary:
            Image.fromarray(figure).save(temporary, format="png", compress_level=2)


def chosen_figures(count: int, wanted: str | int) -> list[int]:
    """The test pictures to draw: all, none, or a number spread evenly over the test set."""
    if wanted == "all":
        return list(range(count))
    number = 0 if wanted == "none" else min(wanted, count)
    return [i * count // number for i in range(number)]


def _rehearse() -> None:
    """Draw an empty figure of the usual size: all libraries are loaded, and the canvas is ready."""
    _canvas(224, 224).draw(np.zeros((224, 224, 3), np.uint8), None, np.zeros((224, 224)), 0.5)


@dataclass(frozen=True)
class Drawing:
    """Some figures of a class, handed in to be drawn; arguments are those of `draw_localizations`."""

    arguments: tuple
    future: Future

    def finish(self) -> None:
        """Wait for the figures, or draw them here if no process has begun them."""
        if self.future.cancel():
            draw_localizations(*self.arguments)
        else:
            self.future.result()


class FigurePool:
    """Processes that draw localization figures while the experiment goes on; started when needed."""

    def __init__(self) -> None:
        # spawn：不复制主进程的内存，各平台行为一致；子进程只装入本文件所需
        self._size = max(1, min(8, cores() - 1))  # 给主进程留一个核
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(self._size, spawn, initializer=obey_parent)

    def __enter__(self) -> "FigurePool":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C：不等正在画的
            for child in multiprocessing.active_children():
                child.terminate()
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, *task: Any) -> Future:
        # 子进程在装好自己的处理函数之前就收到的 Ctrl-C：让它一出生就屏蔽着
        masked = hasattr(signal, "pthread_sigmask") and signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(*task)
        finally:
            if masked is not False:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)

    def warm_up(self) -> None:
        """Start all processes now, so that they load their libraries while others load theirs."""
        for _ in range(self._size):
            self._submit(_rehearse)

    def draw(self, store: Store, name: str, indices: list[int], arrays: dict[str, Any]) -> list[Drawing]:
        """Hand in these test pictures of a class, a few at a time; ``arrays`` are those of `padim.metrics`."""
        masks, scale = arrays["masks"], Scale(arrays["score_min"], arrays["score_max"], arrays["threshold"])
        drawings = []
        for start in range(0, len(indices), _BATCH):
            part = indices[start : start + _BATCH]
            # 掩码随任务送去：绘图进程不必为几张图解压全类的。相邻的几张不复制，掩码可能是几 GB 的文件
            near = slice(part[0], part[-1] + 1) if part[-1] - part[0] < len(part) else part
            call = store.root, store.arch, name, part, None if masks is None else masks[near], scale
            drawings.append(Drawing(call, self._submit(draw_localizations, *call)))
        return drawings


Curves = dict[str, dict[str, tuple[np.ndarray, float] | None]]


def roc_drawing(curves: Curves, say: style.Say) -> Figure:
    """The two-panel ROC figure, image level and pixel level, at print size.

    Parameters
    ----------
    curves : dict
        ``{class: {"image": (points, rocauc) or None, "pixel": the same}}``, points (K, 2).
    say : callable
        From `padim.style.look`, inside which this is called.
    """
    lines, order = style.class_lines(curves), style.class_order(curves)
    rows = -(-len(order) // 2)  # 图例分两列，放在图下：曲线再多也不遮挡
    figure = Figure((style.DOUBLE, 3.85 + 0.168 * rows), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = say("Image-level ROC", "图像级 ROC"), say("Pixel-level ROC", "像素级 ROC")
    for level, title, axes in zip(("image", "pixel"), titles, panels, strict=True):
        aucs = []
        for name in order:
            if curves[name][level] is not None:
                points, auc = curves[name][level]
                aucs.append(auc)
                axes.plot(points[:, 0], points[:, 1], label=f"{name}  {auc:.3f}", **lines[name])
        axes.plot([0, 1], [0, 1], color="0.75", lw=0.7, ls=(0, (1, 2)))
        mean = say(f"average AUC {np.mean(aucs):.3f}", f"平均 AUC {np.mean(aucs):.3f}") if aucs else None
        axes.set_title(f"{title}{say(', ', '，')}{mean or say('not available', '无数据')}")
        axes.set(xlabel=say("False-positive rate", "假阳性率"), ylabel=say("True-positive rate", "真阳性率"))
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", anchor="N")
        if aucs:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, handlelength=2.4, borderaxespad=0)
    return figure


def roc_figure(curves: Curves, path: Path) -> None:
    """Write `roc_drawing` as a PNG, in English."""
    with style.look() as say, replacing(path) as temporary:
        roc_drawing(curves, say).savefig(temporary, format="png", dpi=300)

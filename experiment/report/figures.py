"""The figures that a run draws itself: localization of single pictures, and the ROC curves.

运行时自己画的图：逐张定位图与 ROC 曲线。
"""

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.ndimage import binary_dilation, binary_erosion, generate_binary_structure

from experiment.files.records import LEVELS
from experiment.files.signed import save_signed
from experiment.report import style
from experiment.report.colours import Bar, Colours
from experiment.report.words import shortened
from system.files import replacing

PANELS = ("Image", "GroundTruth", "Predicted heat map", "Predicted mask", "Segmentation result")
HEAT_OPACITY = 0.5
_VEIL, _VEIL_OPACITY = 128, 0.65  # 不看的地方蒙上的灰
_NARROWEST, _LOWEST = 126, 120  # 像素：最长的标题、色条的标题所需


def boundary(mask: np.ndarray) -> np.ndarray:
    """Both sides of a mask's (H, W) edge, as skimage.segmentation.find_boundaries draws it: (H, W) bool."""
    cross = generate_binary_structure(2, 1)
    return binary_dilation(mask, cross) != binary_erosion(mask, cross, border_value=1)


@lru_cache(maxsize=1)
def _heat_colours() -> np.ndarray:
    return (matplotlib.colormaps[style.HEAT](np.arange(256))[:, :3] * 255).astype(np.float32)


def heat_over(picture: np.ndarray, raw: np.ndarray, colours: Colours) -> np.ndarray:
    """A picture (H, W, 3) uint8 with the colours of its raw map (H, W) laid over it; dimmed where that is NaN."""
    scaled = np.where(outside := np.isnan(raw), 0, colours.scaled(raw))
    heat = _heat_colours()[(np.clip(scaled, 0, 1) * 255).astype(np.uint8)]
    over = (picture * (1 - HEAT_OPACITY) + heat * HEAT_OPACITY).astype(np.uint8)
    over[outside] = picture[outside]
    return _dimmed(over, outside)


def _dimmed(panel: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """A panel (H, W, 3) uint8, under a grey veil ``outside`` (H, W) of what is looked at."""
    veiled = panel.copy()
    veiled[outside] = panel[outside] * (1 - _VEIL_OPACITY) + _VEIL * _VEIL_OPACITY
    return veiled


def colour_bar(axes: Axes, bar: Bar, words: str, size: float) -> None:
    """Make these axes the colour bar of heat maps, called ``words`` in ``size`` points."""
    scale = ScalarMappable(Normalize(bar.low, bar.high), style.HEAT)
    made = axes.figure.colorbar(scale, cax=axes)
    made.locator = MaxNLocator(5, steps=[1, 2, 5, 10])  # 0 到 2：逢 0.5 一格，阈值处有一格
    made.ax.tick_params(labelsize=size - 1)
    made.set_label(words, size=size, linespacing=1.3)
    axes.grid(False)
    if bar.mark is not None:
        axes.axhline(bar.mark, color="black", lw=1.5)


def panel_pictures(
    picture: np.ndarray, truth: np.ndarray | None, raw: np.ndarray, colours: Colours
) -> list[np.ndarray | None]:
    """The pictures of the five `PANELS`, (H, W, 3) uint8 each; None is not available.

    Parameters are those of `LocalizationCanvas.draw`.
    """
    mask, segmentation, outside = None, None, np.isnan(raw)
    if (defect := colours.mask(raw)) is not None:
        mask = _dimmed(_grey(defect), outside)
        segmentation = _dimmed(picture, outside)
        segmentation[boundary(defect)] = (255, 0, 0)
    truth = None if truth is None else _dimmed(_grey(truth), outside)
    return [picture, truth, heat_over(picture, raw, colours), mask, segmentation]


class LocalizationCanvas:
    """The five-panel figure for pictures of one size; everything that never changes is drawn once.

    Panels are as many pixels wide as the pictures, so no pixel is resampled; around small ones there
    is room for the titles and the colour bar.
    """

    def __init__(self, height: int, width: int, bar: Bar, dpi: int = 100):
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
        place = (end + 16) / total[0], bottom / total[1], 14 / total[0], bar_height / total[1]
        colour_bar(figure.add_axes(place), bar, bar.english.capitalize(), style.LABEL_SIZE)
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

    def draw(self, picture: np.ndarray, truth: np.ndarray | None, raw: np.ndarray, colours: Colours) -> np.ndarray:
        """The figure of one picture.

        Parameters
        ----------
        picture : ndarray, (H, W, 3) uint8
        truth : ndarray (H, W), or None
            Non-zero is defect; None where the class has no masks.
        raw : ndarray, (H, W) float32
            Its anomaly map.
        colours : Colours
            Such as have the canvas's colour bar.

        Returns
        -------
        ndarray, (height, width, 3) uint8
        """
        panels = [self.missing if panel is None else panel for panel in panel_pictures(picture, truth, raw, colours)]
        figure = self.background.copy()
        for x, panel in zip(self.columns, panels, strict=True):
            figure[self.top : self.top + panel.shape[0], x : x + panel.shape[1]] = panel
        return figure


def _grey(mask: np.ndarray) -> np.ndarray:
    return np.repeat((np.asarray(mask) != 0).astype(np.uint8)[..., None] * 255, 3, axis=2)


@lru_cache(maxsize=1)
def canvas_for(height: int, width: int, bar: Bar) -> LocalizationCanvas:
    """The canvas for pictures of this size with this colour bar; the last one is kept."""
    return LocalizationCanvas(height, width, bar)


def save_figure(figure: np.ndarray, path: Path) -> None:
    """Write a localization figure (H, W, 3) uint8 as a PNG."""
    save_signed(figure, path, compress_level=2)


Curves = dict[str, dict[str, tuple[np.ndarray, float] | None]]


def roc_drawing(curves: Curves, say: style.Say) -> Figure:
    """The two-panel ROC figure, image level and pixel level, at print size; a level that no class has has no panel.

    Parameters
    ----------
    curves : dict
        ``{class: {"image": (points, rocauc) or None, "pixel": the same}}``, points (K, 2).
    say : callable
        From `experiment.report.style.look`, inside which this is called.
    """
    lines, order = style.class_lines(curves), style.class_order(curves)
    rows = -(-len(order) // 2)  # 图例分两列，放在图下：曲线再多也不遮挡
    titles = say("Image-level ROC", "图像级 ROC"), say("Pixel-level ROC", "像素级 ROC")
    drawn = [each for each in zip(LEVELS, titles, strict=True) if any(c[each[0]] is not None for c in curves.values())]
    drawn = drawn or [(LEVELS[0], titles[0])]
    figure = Figure((style.DOUBLE if len(drawn) > 1 else style.SINGLE, 3.85 + 0.168 * rows), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    for (level, title), axes in zip(drawn, panels, strict=True):
        aucs = []
        for name in order:
            if (curve := curves[name][level]) is not None:
                points, auc = curve
                aucs.append(auc)
                axes.plot(points[:, 0], points[:, 1], label=f"{shortened(name, 18)}  {auc:.3f}", **lines[name])
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
    with style.look() as say, replacing(path, sync=False) as temporary:
        drawing = roc_drawing(curves, say)
        with style.legible(drawing):
            drawing.savefig(temporary, format="png", dpi=300)

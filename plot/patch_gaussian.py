"""The Gaussian of the centre position in its two leading directions, with the test patches over it.

中心位置的高斯在其两个主方向上的截面，及其上的测试图块（论文 III.B、III.C）。
"""

import _root  # noqa: F401, I001

import argparse
import sys

import numpy as np
from _options import Script
from _results import WITHOUT_GAUSSIANS, Results
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from experiment.report import style
from system.errors import UserError
from experiment.report.style import Say

RADII = (1, 2, 3)


def leading_directions(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two largest eigenvalues (2,) of a covariance (d, d) and their unit vectors (d, 2)."""
    values, vectors = np.linalg.eigh(covariance)
    return values[:-3:-1], vectors[:, :-3:-1]  # eigh 升序：取末两个


def mahalanobis(patches: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The distances (N,) of patches (N, d) in all d dimensions."""
    deviations = patches - mean
    # 公式 2
    return np.sqrt(np.einsum("nd,nd->n", deviations, np.linalg.solve(covariance, deviations.T).T))


def patch_kinds(arrays: dict, grid: tuple[int, int]) -> np.ndarray:
    """0 for patches of normal pictures, 1 for those of defective ones, 2 where masks show a defect in them; (N,)."""
    kinds = (arrays["labels"] != 0).astype(int)
    if arrays["masks"] is not None:
        (height, width), (h, w) = arrays["masks"].shape[1:], grid
        # 中心一格所覆盖的像素，行与列
        rows = slice(h // 2 * height // h, -(-(h // 2 + 1) * height // h))
        columns = slice(w // 2 * width // w, -(-(w // 2 + 1) * width // w))
        kinds[arrays["masks"][:, rows, columns].any(axis=(1, 2))] = 2
    return kinds


def kinds_in_print(has_masks: bool, say: Say) -> list[tuple[str, str, str, str]]:
    """The name, short name, colour and marker of each of `patch_kinds`."""
    normal = say("normal image", "正常图像"), say("normal", "正常"), style.NORMAL_COLOUR, "o"
    if not has_masks:  # 无从知道图块在缺陷之上还是之外
        return [normal, (say("defective image", "缺陷图像"), say("defective", "缺陷"), style.DEFECT_COLOUR, "D")]
    off = say("defective image, off the defect", "缺陷图像，缺陷之外"), say("off the\ndefect", "缺陷之外")
    on = say("defective image, on the defect", "缺陷图像，缺陷之上"), say("on the\ndefect", "缺陷之上")
    return [normal, (*off, style.PALETTE[4], "^"), (*on, style.DEFECT_COLOUR, "D")]


def contours(axes: Axes, variances: np.ndarray, say: Say) -> None:
    """Draw ellipses of equal Mahalanobis distance in this plane, darker where the density is higher."""
    for radius in reversed(RADII):
        size = 2 * radius * np.sqrt(variances)  # 全轴长：标准差的 2·radius 倍
        axes.add_patch(Ellipse((0, 0), *size, fc="0.5", ec="none", alpha=0.12))
        label = say("Mahalanobis distance 1, 2, 3", "马氏距离 1、2、3") if radius == 1 else None
        axes.add_patch(Ellipse((0, 0), *size, fc="none", ec="0.35", lw=0.7, label=label))


def figure(results: Results, name: str, args: argparse.Namespace, say: Say) -> Figure:
    """Draw the plane of the two leading directions on the left, and the distances in all dimensions on the right."""
    arrays = results.arrays(name)
    means, covariances, grid = results.fitted(name)
    centre = grid[0] // 2 * grid[1] + grid[1] // 2  # 按行编号
    results.check(name, covariances[centre : centre + 1], centre)
    mean, covariance = np.array(means[centre], np.float64), np.array(covariances[centre], np.float64)
    if arrays["patches"].shape[1:] != mean.shape or len(mean) < 2:
        path = str(results.store.arrays(name))
        raise UserError(f"{path!r} does not belong to the stored features; make it again with: {results.storing}")
    variances, directions = leading_directions(covariance)
    plane = (arrays["patches"] - mean) @ directions  # (N, 2)
    distances, kinds = mahalanobis(arrays["patches"], mean, covariance), patch_kinds(arrays, grid)

    drawing = Figure((style.DOUBLE, 3.1), layout="constrained")
    left, right = drawing.subplots(1, 2, width_ratios=(3, 2))
    contours(left, variances, say)
    looks = kinds_in_print(arrays["masks"] is not None, say)
    shown = [k for k in range(len(looks)) if (kinds == k).any()]
    # 左：投影到两个主方向；右：全部 d 维的马氏距离，横向错开
    for k in shown:
        here, count = kinds == k, int((kinds == k).sum())
        words, _, colour, marker = looks[k]
        look = {"s": 14, "lw": 0.4, "ec": "white", "color": colour, "marker": marker}
        left.scatter(*plane[here].T, zorder=3, label=words, **look)
        right.scatter(shown.index(k) + (np.arange(count) / count - 0.5) * 0.4, distances[here], **look)
    reach = np.maximum(np.abs(plane).max(axis=0), RADII[-1] * np.sqrt(variances)) * 1.08  # 三个椭圆与所有的点都在画内
    left.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]))
    left.set(xlabel=say("first leading direction", "第一主方向"), ylabel=say("second leading direction", "第二主方向"))
    left.set_title(f"{style.printable(name, 30)}{say(', ', '，')}{style.arch_label(results.store.key)}")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, borderaxespad=0)
    right.set_xticks(range(len(shown)), [looks[k][1] for k in shown])
    right.set(xlim=(-0.5, len(shown) - 0.5), ylim=(0, None), ylabel=say("Mahalanobis distance", "马氏距离"))
    right.set_title(say(f"All {len(mean)} dimensions", f"全部 {len(mean)} 维"))
    return drawing


SCRIPT = Script("patch_gaussian", __doc__, figure, each_class=True, lacking=WITHOUT_GAUSSIANS)
options = SCRIPT.options
main = SCRIPT.main

if __name__ == "__main__":
    sys.exit(main())

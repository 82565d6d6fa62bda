"""How the sample pictures are drawn: a woven cloth and a turned flange, sound and with defects.

样本图片的画法：亚麻布与法兰盘，完好的与带缺陷的。
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

Picture = np.ndarray  # (S, S, 3) float32，取值 [0, 1]
Mask = np.ndarray  # (S, S) bool


@dataclass(frozen=True)
class SampleClass:
    """How one class is drawn: the sound product, and a painter for every kind of defect."""

    draw: Callable[[int, np.random.Generator], Picture]
    defects: dict[str, Callable[[Picture, np.random.Generator], tuple[Picture, Mask]]]


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres as ``(x, y)`` in [-1, 1], float32, each broadcastable to (S, S)."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
    return axis[None, :], axis[:, None]


def _edge(distance: np.ndarray, size: int) -> np.ndarray:
    """Coverage of a shape from its signed distance (negative inside), antialiased over a pixel."""
    return np.clip(0.5 - distance * size / 2, 0, 1)


def _clouds(size: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smooth noise of unit standard deviation, (S, S); ``scale`` is its grain in picture widths."""
    # 在粗网格上滤波再放大：同样平滑，大图快得多
    coarse = 64
    noise = gaussian_filter(rng.standard_normal((coarse, coarse)), scale * coarse, mode="wrap")
    noise = ((noise - noise.mean()) / noise.std()).astype(np.float32)
    return np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC))


def _wave(t: np.ndarray, rng: np.random.Generator, frequencies: tuple[int, ...]) -> np.ndarray:
    """Sum of sines of random phase over ``t`` in [-1, 1]; amplitude falls with frequency."""
    total = np.zeros_like(t)
    for k in frequencies:
        total += np.sin(np.pi * k * t + rng.uniform(0, 2 * np.pi)) / k
    return total


def _blob(size: int, centre: tuple[float, float], radius: float, rng: np.random.Generator) -> np.ndarray:
    """Signed distance (approximate, negative inside) of an irregular round patch, (S, S)."""
    x, y = _grid(size)
    x, y = x - centre[0], y - centre[1]
    angle = np.arctan2(y, x)
    outline = sum(rng.uniform(-1, 1) / k * np.cos(k * angle + rng.uniform(0, 6.28)) for k in (2, 3, 5, 9))
    return np.hypot(x, y) - radius * (1 + 0.3 * outline)


def _curve(size: int, points: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Signed distance to a polyline of ``points`` (n, 2) with half-width ``width``, one or (n,); (S, S)."""
    x, y = _grid(size)
    nearest = np.full((size, size), np.inf, np.float32)
    widths = np.broadcast_to(np.asarray(width, np.float32), len(points))
    for ((ax, ay), a), ((bx, by), b) in pairwise(zip(points, widths, strict=True)):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - t * dx, y - ay - t * dy) - (a + t * (b - a)))
    return nearest


def _stroke(
    centre: tuple[float, float], heading: float, length: float, bend: float, rng: np.random.Generator
) -> np.ndarray:
    """A gently bending line as (13, 2) points; it sets out at ``heading``, and its ends are opposite ``centre``."""
    headings = heading + bend * np.cumsum(rng.normal(0, 1, 12))
    steps = np.stack([np.cos(headings), np.sin(headings)], 1) * length / 12
    return np.asarray(centre) + np.vstack([[0, 0], np.cumsum(steps, 0)]) - steps.sum(0) / 2


def _paint(picture: Picture, cover: np.ndarray, colour: np.ndarray | tuple[float, ...]) -> tuple[Picture, Mask]:
    """Blend ``colour`` over ``picture`` where ``cover`` > 0; the mask is exactly what changed."""
    # 低于 8 % 的覆盖肉眼不可见：不画，也不算缺陷，掩码才逐像素准确
    cover = np.where(cover >= 0.08, cover, 0)[..., None]
    return picture * (1 - cover) + np.asarray(colour, np.float32) * cover, cover[..., 0] > 0


def _lighting(size: int, rng: np.random.Generator) -> np.ndarray:
    """A slowly varying brightness factor: exposure, a tilted lamp, vignetting; (S, S)."""
    x, y = _grid(size)
    tilt = rng.normal(0, 0.02, 2)
    return rng.normal(1, 0.02) * (1 + tilt[0] * x + tilt[1] * y - 0.05 * (x * x + y * y))


# 纹理类：亚麻布


def draw_linen(size: int, rng: np.random.Generator) -> Picture:
    """Plain-weave cloth under a diffuse lamp: (S, S, 3)."""
    x, y = _grid(size)
    threads = 17  # 半幅的线数：256 像素时一根线约 7.5 像素
    tilt = rng.normal(0, 0.012)
    u = threads * (x + tilt * y) + 0.14 * _wave(y, rng, (2, 5, 9)) + 0.1 * _wave(x, rng, (3, 7))
    v = threads * (y - tilt * x) + 0.14 * _wave(x, rng, (2, 5, 9)) + 0.1 * _wave(y, rng, (3, 7))
    column, row = np.floor(u), np.floor(v)
    warp_on_top = (column + row) % 2 == 0

    def roundness(across: np.ndarray, along: np.ndarray) -> np.ndarray:  # 圆柱形的线，在交叉处上下起伏
        return np.sqrt(np.clip(1 - (2 * (across % 1) - 1) ** 2, 0, 1)) * (0.72 + 0.28 * np.sin(np.pi * (along % 1)))

    shade = np.where(warp_on_top, roundness(u, v), roundness(v, u))
    tone = rng.normal(0, 0.05, (2, 4 * threads)).astype(np.float32)  # 每根线深浅不同
    tone = np.where(warp_on_top, tone[0][column.astype(int) % (4 * threads)], tone[1][row.astype(int) % (4 * threads)])
    fibre = 0.035 * rng.standard_normal((size, size), np.float32)
    light = (0.42 + 0.5 * shade + tone * shade + fibre + 0.012 * _clouds(size, rng, 0.08)) * _lighting(size, rng)
    return light[..., None] * np.array([0.86, 0.79, 0.66], np.float32)


def _anywhere(rng: np.random.Generator, reach: float = 0.55) -> tuple[float, float]:
    return tuple(rng.uniform(-reach, reach, 2))


def linen_hole(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A torn hole with frayed threads that shows the dark table."""
    size = len(picture)
    x, y = _grid(size)
    cx, cy = centre = _anywhere(rng)
    ends = rng.uniform(0, 0.07, (2, 80))
    warp, weft = (ends[i][np.floor(40 + 34 * t).astype(int)] for i, t in enumerate((x, y)))
    # 断头沿线伸进洞里，长短不一：上下是经线，左右是纬线
    steep = np.sin(np.arctan2(y - cy, x - cx)) ** 2
    torn = _blob(size, centre, rng.uniform(0.17, 0.22), rng) + steep * warp + (1 - steep) * weft
    return _paint(picture, 0.95 * _edge(torn, size), (0.18, 0.17, 0.16))


def linen_stain(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A spill of coffee: the weave stays visible, the rim is darker."""
    size = len(picture)
    distance = _blob(size, _anywhere(rng, 0.5), rng.uniform(0.2, 0.26), rng)
    rim = np.exp(-((distance / 0.025) ** 2))
    cover = _edge(distance, size) * (0.82 + 0.18 * rim + 0.05 * _clouds(size, rng, 0.05))
    return _paint(picture, np.clip(cover, 0, 1), picture * np.array([0.5, 0.33, 0.2], np.float32))


def linen_thread(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A coarse twisted yarn lying on the cloth."""
    size = len(picture)
    x, y = _grid(size)
    width = rng.uniform(0.028, 0.036)
    line = _stroke(_anywhere(rng, 0.35), rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1), 0.28, rng)
    distance = _curve(size, line, width)
    roundness = np.sqrt(np.clip(1 - (1 + np.minimum(distance, 0) / width) ** 2, 0, 1))
    shade = (0.4 + 0.7 * roundness) * (0.8 + 0.2 * np.sin(120 * (x + y)))
    colour = rng.choice([[0.5, 0.12, 0.12], [0.16, 0.24, 0.46], [0.22, 0.3, 0.2]])
    return _paint(picture, _edge(distance, size), colour * shade[..., None])


# 物体类：法兰盘

_OUTER, _INNER, _BOLT_CIRCLE, _BOLT = 0.74, 0.30, 0.53, 0.075


def draw_flange(size: int, rng: np.random.Generator) -> Picture:
    """A turned steel flange with six bolt holes on a rubber belt: (S, S, 3)."""
    x, y = _grid(size)
    belt = 0.13 + 0.012 * np.sin(110 * (x + 0.2 * y)) + 0.018 * rng.standard_normal((size, size), np.float32)
    belt = (belt + 0.008 * _clouds(size, rng, 0.1))[..., None] * np.array([0.95, 1.0, 1.06], np.float32)

    # 姿态的轻微变化：平移与转动
    dx, dy = rng.normal(0, 0.006, 2)
    x, y = x - dx, y - dy
    radius, angle = np.hypot(x, y), np.arctan2(y, x) - np.deg2rad(rng.normal(0, 0.8))
    body = np.maximum(radius - _OUTER, _INNER - radius)
    for k in range(6):
        a = k * np.pi / 3
        rotated = np.hypot(
            radius * np.cos(angle) - _BOLT_CIRCLE * np.cos(a), radius * np.sin(angle) - _BOLT_CIRCLE * np.sin(a)
        )
        body = np.maximum(body, _BOLT - rotated)

    grooves = np.interp(radius, np.linspace(0, 1.5, 400), gaussian_filter(rng.standard_normal(400), 0.8))
    sheen = 0.09 * np.cos(2 * (angle - 0.7)) + 0.05 * np.cos(angle + 2.2)  # 车削面的各向异性反光
    metal = 0.58 + sheen + 0.025 * grooves + 0.012 * rng.standard_normal((size, size))
    bevel = np.exp(-(((body + 0.018) / 0.009) ** 2)) * (0.16 * np.cos(angle + 2.2) + 0.06)
    metal = (metal + bevel + 0.01 * _clouds(size, rng, 0.06))[..., None] * np.array([0.97, 0.99, 1.03])

    shadow = 1 - 0.55 * np.clip(1 - np.maximum(body - 0.02, 0) / 0.07, 0, 1) * (body > -0.05)
    cover = _edge(body, size)[..., None]
    picture = belt * shadow[..., None] * (1 - cover) + metal * cover
    return (picture * _lighting(size, rng)[..., None]).astype(np.float32)


def _on_metal(rng: np.random.Generator) -> tuple[tuple[float, float], float]:
    """A point of the ring half-way between two bolt holes, and its angle."""
    angle = (rng.integers(6) + 0.5 + rng.uniform(-0.08, 0.08)) * np.pi / 3
    radius = rng.uniform(0.49, 0.55)
    return (radius * np.cos(angle), radius * np.sin(angle)), angle


def flange_scratch(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A deep scratch across the turning marks: a dark groove beside a bright burr."""
    size = len(picture)
    centre, outwards = _on_metal(rng)
    line = _stroke(centre, outwards + rng.uniform(-0.7, 0.7), rng.uniform(0.3, 0.36), 0.06, rng)
    width = 0.022 * np.sin(np.linspace(0.25, np.pi - 0.25, len(line))) ** 0.5  # 两端收尖
    along = line[-1] - line[0]
    aside = 0.007 * np.array([-along[1], along[0]]) / np.hypot(*along)
    burr, groove = (_edge(_curve(size, place, width), size) for place in (line - aside, line + aside))
    picture, bright = _paint(picture, burr, (0.93, 0.94, 0.96))
    picture, dark = _paint(picture, groove, (0.16, 0.16, 0.17))
    return picture, bright | dark


def flange_chip(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A piece broken off the outer rim: the belt shows through, below a grey fracture."""
    size = len(picture)
    angle = rng.uniform(0, 2 * np.pi)
    centre = (_OUTER + 0.01) * np.cos(angle), (_OUTER + 0.01) * np.sin(angle)
    x, y = _grid(size)
    broken = _blob(size, centre, rng.uniform(0.17, 0.2), rng)
    fracture = 0.22 * np.exp(-(((broken + 0.012) / 0.016) ** 2))[..., None]
    rubber = 0.1 + fracture + 0.015 * rng.standard_normal((size, size, 1), np.float32)
    return _paint(picture, _edge(np.maximum(broken, np.hypot(x, y) - _OUTER - 0.004), size), rubber)


def flange_rust(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A patch of rust, thin at its border."""
    size = len(picture)
    distance = _blob(size, _on_metal(rng)[0], rng.uniform(0.13, 0.16), rng)
    grain = _clouds(size, rng, 0.013)
    cover = np.clip(-(distance + 0.012 * grain) / 0.03, 0, 1) * (0.88 - 0.1 * grain)
    return _paint(picture, np.clip(cover, 0, 0.98), np.array([0.3, 0.13, 0.05]) * (0.6 + 0.7 * picture))


CLASSES: dict[str, SampleClass] = {
    "linen": SampleClass(draw_linen, {"hole": linen_hole, "stain": linen_stain, "thread": linen_thread}),
    "flange": SampleClass(draw_flange, {"chip": flange_chip, "rust": flange_rust, "scratch": flange_scratch}),
}

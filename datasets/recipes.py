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


def _curve(size: int, points: np.ndarray, width: float) -> np.ndarray:
    """Signed distance to a polyline of ``points`` (n, 2) with half-width ``width``, (S, S)."""
    x, y = _grid(size)
    nearest = np.full((size, size), np.inf, np.float32)
    for (ax, ay), (bx, by) in pairwise(points):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2)
    return np.sqrt(nearest) - width


def _stroke(start: tuple[float, float], length: float, bend: float, rng: np.random.Generator) -> np.ndarray:
    """A gently bending line as (13, 2) points."""
    heading = rng.uniform(0, 2 * np.pi) + bend * np.cumsum(rng.normal(0, 1, 12))
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * length / 12
    return np.asarray(start) + np.vstack([[0, 0], np.cumsum(steps, 0)]) - steps.sum(0) / 2


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
    """A torn hole that shows the dark table."""
    size = len(picture)
    frayed = _blob(size, _anywhere(rng), rng.uniform(0.07, 0.13), rng) + 0.012 * _clouds(size, rng, 0.02)
    return _paint(picture, _edge(frayed, size), (0.07, 0.065, 0.06))


def linen_stain(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A spill of coffee: the weave stays visible, the rim is darker."""
    size = len(picture)
    distance = _blob(size, _anywhere(rng), rng.uniform(0.13, 0.22), rng)
    inside = _edge(distance, size)
    rim = np.exp(-((distance / 0.02) ** 2))
    cover = inside * (0.5 + 0.3 * rim + 0.05 * _clouds(size, rng, 0.05)) * rng.uniform(0.35, 1)
    return _paint(picture, np.clip(cover, 0, 0.9), picture * np.array([0.62, 0.45, 0.3], np.float32))


def linen_thread(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A loose thread lying on the cloth."""
    size = len(picture)
    width = rng.uniform(0.008, 0.014)
    distance = _curve(size, _stroke(_anywhere(rng, 0.4), rng.uniform(0.3, 0.9), 0.35, rng), width)
    glow = np.clip(-distance / width, 0, 1)[..., None]
    colour = rng.choice([[0.55, 0.16, 0.14], [0.72, 0.66, 0.55], [0.3, 0.36, 0.5]])
    return _paint(picture, _edge(distance, size), colour * (0.55 + 0.6 * glow))


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


def _on_metal(rng: np.random.Generator) -> tuple[float, float]:
    """A point of the ring between two bolt holes."""
    angle = (rng.integers(6) + 0.5 + rng.uniform(-0.15, 0.15)) * np.pi / 3
    radius = rng.uniform(0.42, 0.62)
    return radius * np.cos(angle), radius * np.sin(angle)


def flange_scratch(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A bright scratch across the turning marks."""
    size = len(picture)
    distance = _curve(size, _stroke(_on_metal(rng), rng.uniform(0.2, 0.32), 0.06, rng), 0.011)
    return _paint(picture, _edge(distance, size) * rng.uniform(0.3, 1), (0.93, 0.94, 0.96))


def flange_chip(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A piece broken off the outer rim: the belt shows through."""
    size = len(picture)
    angle = rng.uniform(0, 2 * np.pi)
    centre = (_OUTER + 0.01) * np.cos(angle), (_OUTER + 0.01) * np.sin(angle)
    x, y = _grid(size)
    broken = np.maximum(_blob(size, centre, rng.uniform(0.09, 0.14), rng), np.hypot(x, y) - _OUTER - 0.004)
    rubber = np.float32(0.1) + 0.015 * rng.standard_normal((size, size, 1), np.float32)
    return _paint(picture, _edge(broken, size), rubber)


def flange_rust(picture: Picture, rng: np.random.Generator) -> tuple[Picture, Mask]:
    """A patch of rust, thin at its border."""
    size = len(picture)
    distance = _blob(size, _on_metal(rng), rng.uniform(0.05, 0.11), rng)
    cover = np.clip(-distance / 0.04, 0, 1) * (0.75 + 0.12 * _clouds(size, rng, 0.015)) * rng.uniform(0.5, 1)
    return _paint(picture, np.clip(cover, 0, 0.95), np.array([0.45, 0.22, 0.1]) * (0.6 + 0.7 * picture))


CLASSES: dict[str, SampleClass] = {
    "linen": SampleClass(draw_linen, {"hole": linen_hole, "stain": linen_stain, "thread": linen_thread}),
    "flange": SampleClass(draw_flange, {"chip": flange_chip, "rust": flange_rust, "scratch": flange_scratch}),
}

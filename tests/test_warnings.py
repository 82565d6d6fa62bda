"""A run on valid data is silent: with warnings as errors it ends as without.

One warning is meant to be seen: memory is short, and with how much less the run goes on (`padim.extraction`).
"""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

# 别的库彼此说的，平常谁也看不到：最旧的 matplotlib 配最新的 pyparsing；torch 2.9 自己的临时文件夹
OTHERS = [f"ignore::DeprecationWarning:matplotlib.{name}" for name in ("_fontconfig_pattern", "_mathtext")]
OTHERS += ["ignore:Implicitly cleaning up:ResourceWarning"]
RGB = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def data(sample, tmp_path_factory):
    """A class with masks, and pictures among its own that are valid but not plain RGB."""
    root = tmp_path_factory.mktemp("warnings") / "data"
    shutil.copytree(sample / "linen", root / "linen")
    good = root / "linen/train/good"
    palette = RGB.quantize(16)
    palette.save(good / "palette.png", transparency=bytes(range(0, 256, 16)))
    RGB.convert("CMYK").save(good / "cmyk.jpg")
    Image.fromarray(np.asarray(RGB)[..., 0].astype(np.uint16) * 257).save(good / "deep.tif")
    turned = Image.Exif()
    turned[0x0112] = 6
    RGB.save(good / "turned.jpg", exif=turned)
    return root


def silent(script: str, *options: object) -> None:
    allowed = [word for each in OTHERS for word in ("-W", each)]
    command = [sys.executable, "-W", "error", *allowed, str(ROOT / script), *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()


def test_main_and_predict(data, tmp_path):
    result = tmp_path / "result"
    options = ["--arch", "resnet18", "--weights", "random", "--rd", 8, "--figures", 2, "--leave_out", "one"]
    silent("main.py", *options, "--data_path", data, "--save_path", result)
    Image.new("L", (9500, 9500), 128).save(tmp_path / "large.png")  # 九千万像素：Pillow 会怀疑
    pictures = [data / "linen/train/good", tmp_path / "large.png"]
    silent("predict.py", *pictures, "--model", result / "temp_resnet18/train_linen.pkl", "--out", tmp_path / "new")
    assert len(list((tmp_path / "new/pictures").rglob("*.png"))) == 13

"""What the commands say on standard error is theirs: progress bars, and the lines below; whatever the versions."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

pytestmark = pytest.mark.lowest

BAR = re.compile(r".+: +\d+%\|.*\| [\d.,kMG]+/[\d.,kMG]+ \[.+\]")
PREDICT = re.compile(
    r"linen: threshold .+ \(best F1 .+\)|\d+ pictures scored: .+|to look at them: python plot/results_page\.py .+"
    r"|wrote (predictions|localization figures): .+"
)
# 小数据上才有的话：区间算不出，或 AUPIMO 太粗
MAIN = re.compile(r"linen: (no interval of the (image|pixel) ROC AUC: .+|AUPIMO starts at .+: it is coarse)")
NOTHING = re.compile("")
FAST = ["--arch", "resnet18", "--weights", "random", "--resize", "64", "--crop", "0"]
OLD = torch.__version__ < "2.9"  # 旧得不能导出


def said(*command: object, status: int = 0) -> list[str]:
    """What a command leaves on standard error beside its progress bars, line by line."""
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", stdin=subprocess.DEVNULL)
    assert done.returncode == status, done.stderr
    lines = [line.strip() for line in re.split(r"[\r\n]", done.stderr)]
    return [line for line in lines if line and not BAR.fullmatch(line)]


def foreign(own: re.Pattern, *command: object) -> list[str]:
    return [line for line in said(*command) if not own.fullmatch(line)]


def test_every_command(sample, tmp_path):
    out, pictures = tmp_path / "out", sample / "linen/test"
    data = ["--data_path", sample, "--save_path", out, "--classes", "linen"]
    assert foreign(MAIN, "main.py", *FAST, "--rd", 8, "--figures", 1, "--leave_out", "one", *data) == []
    assert foreign(NOTHING, "ablation.py", *FAST, "--study", "layers", "--rd", 8, *data) == []
    assert foreign(NOTHING, "plot/roc_curve.py", "--result", out, "--out", tmp_path / "figures") == []
    model = out / "temp_resnet18/train_linen.pkl"
    assert foreign(PREDICT, "predict.py", "--model", model, pictures, "--out", tmp_path / "new") == []
    assert len(said("-m", "datasets.mvtec", "--download", tmp_path / "mvtec", status=2)) == 1  # 没有人答应许可证


@pytest.mark.skipif(OLD, reason="this PyTorch is too old for export.py")
def test_an_exported_model(result, sample, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="python -m pip install -r requirements-export.txt")
    exported = tmp_path / "linen.onnx"
    assert foreign(NOTHING, "export.py", "--model", result / "temp_resnet18/train_linen.pkl", "--out", exported) == []
    assert foreign(PREDICT, "predict.py", "--model", exported, sample / "linen/test", "--out", tmp_path / "new") == []


@pytest.mark.skipif(not OLD, reason="this PyTorch can export")
def test_a_torch_that_is_too_old_for_the_export(result, tmp_path):
    model = result / "temp_resnet18/train_linen.pkl"
    (line,) = said("export.py", "--model", model, "--out", tmp_path / "linen.onnx", status=2)
    assert re.fullmatch(r"error: export\.py needs PyTorch 2\.9 or newer, and .+ -r requirements-export\.txt", line)
    assert list(tmp_path.iterdir()) == []

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks.tree import measure


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_a_tree_counts_children(tmp_path):
    child = "import time; x = bytearray(120_000_000); x[::4096] = b'1' * len(x[::4096]); time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    measured = measure([sys.executable, "-c", parent], tmp_path, interval=0.05)
    assert measured.stdout == "done\n" and measured.seconds > 2
    assert 120e6 < measured.peak_memory_bytes < 200e6


def test_a_failing_command_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="oh no"):
        measure([sys.executable, "-c", "raise SystemExit('oh no')"], tmp_path)


@pytest.mark.slow
def test_the_benchmark_agrees_with_its_textbook(tmp_path):
    options = ["--arch", "resnet18", "--train", "12", "--test", "9", "--size", "96", "--rounds", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *options, "--work", str(tmp_path)]
    subprocess.run([*command, "--json", str(tmp_path / "b.json")], check=True, stdout=subprocess.DEVNULL)
    entry = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["architectures"]["resnet18"]
    agreement = entry["agreement"]
    assert agreement["raw maps, largest relative deviation"] < 1e-4
    assert abs(agreement["pixel ROC AUC"]) < 5e-5 and abs(agreement["threshold"]) < 1e-3


@pytest.mark.slow
def test_spade_agrees_with_its_textbook(tmp_path):
    options = ["--arch", "resnet18", "--train", "8", "--test", "3", "--size", "96", "--rounds", "1"]
    options += ["--method", "spade", "--work", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *options]
    subprocess.run([*command, "--json", str(tmp_path / "b.json")], check=True, stdout=subprocess.DEVNULL)
    entry = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["architectures"]["resnet18"]
    assert entry["agreement"]["maps, largest relative deviation"] < 1e-4
    assert entry["agreement"]["image_scores, largest relative deviation"] < 1e-4

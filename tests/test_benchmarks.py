import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from layouts import elpv
from synthetic import write_results

from benchmarks import gpu, thresholds
from benchmarks.like_mvtec import NUMBERS
from benchmarks.report import table
from benchmarks.tree import measure
from datasets.mvtec import CLASSES
from experiment.files.folder import Store
from system.errors import UserError
from system.files import read_json


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_a_tree_counts_children(tmp_path):
    child = "import time; x = bytearray(120_000_000); x[::4096] = b'1' * len(x[::4096]); time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('done')"
    measured = measure([sys.executable, "-c", parent], tmp_path, interval=0.05)
    assert measured.stdout == "done\n" and measured.seconds > 2
    assert 120e6 < measured.peak_memory_bytes < 200e6


def test_a_failing_command_says_why(tmp_path):
    with pytest.raises(UserError, match="oh no"):
        measure([sys.executable, "-c", "raise SystemExit('oh no')"], tmp_path)


def test_the_numbers_are_those_of_mvtec_ad():
    assert [sum(column) for column in list(zip(*NUMBERS.values(), strict=True))[:2]] == [3629, 1725]
    assert sorted(NUMBERS) == list(CLASSES)


def test_a_table_has_a_column_for_each_network():
    report = {"a": {"part": {"seconds": 0.5, "images": 3, "bytes": 2e9}}, "b": {"part": {"images": 4}}}
    wanted = ["|  | a | b |", "| --- | --- | --- |", "| part: seconds | 0.500 | – |", "| part: images | 3 | 4 |"]
    assert table(report).splitlines() == [*wanted, "| part: bytes | 2.00 GB | – |"]


def test_what_thresholds_are_worth(tmp_path, capsys):
    """Counted here from the maps and the left-out scores."""
    write_results(tmp_path / "drawn", "resnet18", ("tile", "pill"))
    assert thresholds.main(["--result", str(tmp_path / "drawn")]) == 0
    head, _, *rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines()]
    store = Store(tmp_path / "drawn", "resnet18")
    assert [row[1].strip() for row in rows] == ["tile", "pill"]
    for row in rows:
        label, name, how, n, _, good, *false, defective, _, found, _ = (cell.strip() for cell in row)
        left_out = read_json(store.fitted(name).with_suffix(".json"))["left_out_scores"]
        raw, labels = np.load(store.maps(name)).max(axis=(1, 2)), store.read_arrays(name)["labels"]
        assert (label, how, n, good, defective) == ("drawn", "one by one", str(len(left_out)), "3", "9") and len(
            head
        ) == len(row)
        for share, percentile in zip(false, (90, 95, 99), strict=True):
            passed = raw[labels == 0] >= np.percentile(left_out, percentile)
            assert share.startswith(f"{100 * passed.mean():.1f} (")
        assert found.startswith(f"{100 * (raw[labels == 1] >= np.percentile(left_out, 95)).mean():.1f} (")
    assert thresholds.percent(3, 10) == "30.0 (6.7–65.2)"  # Clopper 与 Pearson 1934
    assert thresholds.main(["--result", str(tmp_path)]) == 2
    assert "make them with main.py --leave_out" in capsys.readouterr().err


@pytest.mark.slow
def test_thresholds_are_measured_on_both_splits(tmp_path, capsys):
    elpv(tmp_path / "data")
    options = ["--arch", "resnet18", "--weights", "random", "--rd", "5", "--resize", "40x36", "--crop", "0"]
    options += ["--leave_out", "2"]
    assert thresholds.main(["--work", str(tmp_path), "--data_path", str(tmp_path / "data"), *options]) == 0
    rows = [line.split("|")[1:5] for line in capsys.readouterr().out.splitlines()[2:]]
    ways = ("one by one", "by blocks of 2, 2 groups")
    assert [tuple(cell.strip() for cell in row) for row in rows] == [
        (split, name, how, "4")
        for split in ("elpv", "elpv_lots")
        for name in ("elpv_mono", "elpv_poly")
        for how in ways
    ]


@pytest.mark.slow
def test_every_part_of_the_gpu_benchmark_on_the_cpu(tmp_path, capsys):
    """On few and small pictures: that it runs, and that the CPU agrees with itself."""
    trial = ["--device", "cpu", "--arch", "resnet18", "--divisor", "100", "--side", "48", "--classes", "grid"]
    trial += ["--rounds", "1", "--work", str(tmp_path)]
    assert gpu.main([*trial, "--part", *(part for part in gpu.PARTS if part != "layout")]) == 0
    assert gpu.main([*trial, "--part", "layout"]) == 0  # 分两次做，记在同一处
    figures = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["figures"]["resnet18"]
    assert set(figures) == set(gpu.PARTS)
    assert figures["run"]["images"] == 7 and figures["pickles"]["end to end, seconds"] > 1
    assert all(value > 0 for part in ("rates", "latency", "layout") for value in figures[part].values())
    assert set(figures["precision"]) == {"float32", "bf16"}
    assert set(figures["agreement"]["CPU"].values()) == {0.0}
    assert "| run: images | 7 |" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert not (tmp_path / "gpu_resnet18").exists()
    assert gpu.main([*trial, "--device", "cuda:99"]) == 2 and "error: --device cuda:99" in capsys.readouterr().err


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


@pytest.mark.slow
def test_the_benchmark_of_exported_models(tmp_path):
    pytest.importorskip("onnxscript")
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--arch", "resnet18", "--work", str(tmp_path)]
    small = ["--half", "--train", "12", "--test", "9", "--size", "96"]
    for more in (small, ["--latency"]):
        subprocess.run([*command, *more, "--json", str(tmp_path / "b.json")], check=True, stdout=subprocess.DEVNULL)
        entry = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))["architectures"]["resnet18"]
        if more is small:
            whole, half = entry["exported"], entry["exported, --half"]
            assert whole["maps, largest relative deviation"] < 1e-4 < half["maps, largest relative deviation"] < 1e-2
            assert whole["file bytes"] > 1.8 * half["file bytes"]
        else:
            assert entry["exported"]["matrices, bytes"] == 4 * 3136 * 100 * 100
            assert entry["exported"]["quickest"]["onnxruntime"] > entry["exported"]["quickest"]["onnxruntime, network"]
    assert not list(tmp_path.rglob("*.onnx"))

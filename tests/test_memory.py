import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from padim import memory
from padim.memory import TooLargeError, check, estimate, free
from padim.model import PaDiM


@pytest.fixture(scope="module")
def model() -> PaDiM:
    return PaDiM("resnet18", "random")


def test_free_memory_is_plausible():
    room = free(torch.device("cpu"))
    assert room is not None and 50e6 < room < 1e14


def test_the_terms(model):
    small, large = (estimate(model, 1, 500, 1, d).device for d in (100, 200))
    assert 2.5 < large / small < 4  # 协方差随 d² 增长，嵌入块随 d
    assert estimate(model, 32, 10**6, 1) == estimate(model, 32, 500, 1)  # 与训练图像数无关
    assert estimate(model, 32, 500, 4000).host > estimate(model, 32, 500, 100).host
    streamed = memory.SORTED // 224**2 + 1  # 更大的测试集逐段评估，不再需要更多
    assert estimate(model, 32, 500, streamed) == estimate(model, 32, 500, 10 * streamed)
    assert estimate(model, 32, 500, 4000, evaluated=False) == estimate(model, 32, 500, 0, evaluated=False)


def test_a_batch_is_no_larger_than_the_data_set(model):
    assert estimate(model, 20_000, 6, 4) == estimate(model, 6, 6, 4)
    assert estimate(model, 20_000, 6, 4).host < 1.2e9
    assert estimate(model, 64, 600, 4).host > estimate(model, 32, 600, 4).host


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as on Linux")
def test_the_estimate_is_what_a_fit_takes():
    code = (
        "import torch; from padim.memory import estimate; from padim.model import PaDiM\n"
        "from padim.results import peak_memory\n"
        "model = PaDiM('resnet18', 'random', dimensions=200); before = peak_memory()\n"
        "model.fit(torch.randn(32, 3, 224, 224) for _ in range(4))\n"
        "print(peak_memory() - before, estimate(model, 32, 128, 0).device)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    taken, estimated = map(int, run.stdout.split())
    assert 0.7 * estimated < taken < 1.2 * estimated


def test_what_does_not_fit_is_refused_with_what_would(model, monkeypatch):
    check(model, "bottle", 32, 200, 80)
    need = estimate(model, 32, 200, 80).host
    monkeypatch.setattr(memory, "free", lambda device: int(need * 0.97))
    with pytest.raises(TooLargeError, match=r"'bottle' needs about .* GB of main memory.*--batch_size 16 or --rd"):
        check(model, "bottle", 32, 200, 80)
    monkeypatch.setattr(memory, "free", lambda device: 100)
    with pytest.raises(TooLargeError, match="no option makes it fit"):
        check(model, "bottle", 32, 200, 80)
    monkeypatch.setattr(memory, "free", lambda device: None)
    check(model, "bottle", 32, 200, 80)


def test_processes_share_main_memory(model, monkeypatch):
    need = estimate(model, 32, 200, 80).host
    monkeypatch.setattr(memory, "free", lambda device: int(need * 3.1))
    check(model, "bottle", 32, 200, 80, processes=3)
    with pytest.raises(TooLargeError, match=r"are free for each of 4 processes; --batch_size"):
        check(model, "bottle", 32, 200, 80, processes=4)


def test_processes_have_a_gpu_each(model, monkeypatch):
    """Only what is asked about the device counts: the model stays where it is."""
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    need = estimate(model, 32, 200, 80)
    monkeypatch.setattr(memory, "free", lambda device: need.device if device.type == "cuda" else 3 * need.host)
    check(model, "bottle", 32, 200, 80, processes=3)
    with pytest.raises(TooLargeError, match=r"main memory.*each of 4 processes"):
        check(model, "bottle", 32, 200, 80, processes=4)


def test_images_that_no_batch_size_makes_fit(model, monkeypatch):
    monkeypatch.setattr(memory, "free", lambda device: 100)
    with pytest.raises(TooLargeError, match="no option makes it fit here but a smaller --resize and --crop"):
        check(model, "bottle", 32, 200, 80)
    with pytest.raises(TooLargeError, match=r"no option makes it fit here$"):
        check(model, "bottle", 32, 0, 80, fitted=True)

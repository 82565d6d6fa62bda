"""The estimate is what a class takes, and what does not fit is refused with what would need less."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from datasets.preprocessing import Preprocessing
from experiment import memory
from experiment.memory import check
from padim.counts import at_once
from padim.model import PaDiM
from system.errors import UserError
from system.resources import free_memory


@pytest.fixture(scope="module")
def model() -> PaDiM:
    return PaDiM("resnet18", "random")


@pytest.fixture
def needed(monkeypatch):
    """The least free main memory with which a check passes, in bytes."""

    def find(model: PaDiM, *numbers: int, **more: object) -> int:
        low, high = 0, 1 << 45
        while high - low > 1:
            middle = (low + high) // 2
            monkeypatch.setattr(memory, "free_memory", lambda free=middle: free)
            try:
                check(model, "bottle", *numbers, **more)
                high = middle
            except UserError:
                low = middle
        return high

    return find


def test_free_memory_is_plausible():
    assert 50e6 < free_memory() < 1e14


V1 = {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "7000", "memory.stat": ""}
V1_LIMITED = {
    "memory.limit_in_bytes": "9000",
    "memory.usage_in_bytes": "7000",
    "memory.stat": "total_inactive_file 500",
}
V2 = {"memory.max": "max", "memory.current": "7000", "memory.stat": "inactive_file 500"}
V2_LIMITED = V2 | {"memory.max": "8000"}


@pytest.mark.parametrize(
    ("lines", "folders", "free"),
    [
        ("0::/\n", {".": V2_LIMITED}, 1500),  # 容器：自己就是根
        ("0::/user.slice/session.scope\n", {"user.slice": V2_LIMITED, "user.slice/session.scope": V2}, 1500),
        ("0::/a/b\n", {"a": V2_LIMITED | {"memory.max": "9000"}, "a/b": V2_LIMITED}, 1500),
        ("0::/a/b\n", {"a": V2_LIMITED, "a/b": V2_LIMITED | {"memory.max": "9000"}}, 1500),
        ("4:memory:/slurm/job_1\n0::/\n", {"memory/slurm/job_1": V1_LIMITED, "memory": V1}, 2500),
        ("4:memory:/slurm/job_1\n", {"memory/slurm": V1_LIMITED, "memory/slurm/job_1": V1}, 2500),
        ("4:cpu,memory:/x\n", {"cpu,memory/x": V1_LIMITED}, 2500),
        ("4:memory:/docker/0123\n", {"memory": V1_LIMITED}, 2500),  # 旧的 Docker：看不见自己的那一级
        ("4:memory:/x\n0::/y\n", {"unified/y": V2_LIMITED, "memory/x": V1_LIMITED}, 1500),
        ("4:cpu:/x\n", {"memory/x": V1_LIMITED}, None),  # 不是内存的组
        ("0::/a\n", {"a": V2}, None),
        ("", {}, None),
    ],
)
def test_the_limits_of_every_level_of_control_groups_count(tmp_path, lines, folders, free):
    (tmp_path / "cgroup").write_text(lines)
    for folder, files in folders.items():
        (tmp_path / "fs" / folder).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (tmp_path / "fs" / folder / name).write_text(content + "\n")
    found = free_memory(tmp_path / "cgroup", tmp_path / "fs")
    assert found == free if free else found > 50e6


def test_a_limit_of_this_kernel_is_seen():
    """A real control group, where one can be made: of the version that this system has."""
    roots = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    limits = ["memory.limit_in_bytes", "memory.max"]
    for root, limit in zip(roots, limits, strict=True):
        group = root / f"padim_{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(1 << 30))
            break
        except OSError:
            with suppress(OSError):
                group.rmdir()
    else:
        pytest.skip("control groups cannot be made here")
    try:
        code = (
            "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
            "from system.resources import free_memory; print(free_memory())"
        )
        command = [sys.executable, "-c", code, str(group / "cgroup.procs")]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert int(run.stdout) <= 1 << 30
    finally:
        group.rmdir()


def test_the_terms(model, needed):
    small, large = (PaDiM("resnet18", "random", dimensions=d).bytes_needed(1, 500, 1).device for d in (100, 200))
    assert 2.5 < large / small < 4  # 协方差随 d² 增长，嵌入块随 d
    assert needed(model, 32, 10**6, 1) == needed(model, 32, 500, 1)  # 与训练图像数无关
    assert needed(model, 32, 500, 4000) > needed(model, 32, 500, 100)
    assert needed(model, 32, 500, 4000, evaluated=False) == needed(model, 32, 500, 0, evaluated=False)
    assert needed(model, 32, 500, 100, more=10**9) == needed(model, 32, 500, 100) + 10**9


def test_principal_components_need_all_channels_of_some_images():
    few = PaDiM("resnet18", "random", dimensions=8)
    pooled = PaDiM("resnet18", "random", dimensions=8, reduction="pca")
    assert pooled.bytes_needed(1, 500, 1).device > few.bytes_needed(1, 500, 1).device


def test_a_batch_is_no_larger_than_the_data_set(model, needed):
    assert needed(model, 20_000, 6, 4) == needed(model, 6, 6, 4) < 1.2e9
    assert needed(model, 64, 600, 4) > needed(model, 32, 600, 4)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as on Linux")
@pytest.mark.slow
def test_the_estimate_is_what_a_fit_takes():
    code = (
        "import torch; from padim.model import PaDiM; from system.resources import peak_memory\n"
        "model = PaDiM('resnet18', 'random', dimensions=200); before = peak_memory()\n"
        "model.fit(torch.randn(32, 3, 224, 224) for _ in range(4))\n"
        "print(peak_memory() - before, model.bytes_needed(32, 128, 0).device)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    taken, estimated = map(int, run.stdout.split())
    assert 0.7 * estimated < taken < 1.2 * estimated


def test_what_does_not_fit_is_refused_with_what_needs_less(model, needed, monkeypatch):
    check(model, "bottle", 32, 200, 80)
    need = needed(model, 32, 200, 80)
    monkeypatch.setattr(memory, "free_memory", lambda: int(need * 0.97))
    wanted = r"'bottle' needs about .* GB of main memory, and .* GB are free; .*--batch_size.*--rd.*needs less$"
    with pytest.raises(UserError, match=wanted):
        check(model, "bottle", 32, 200, 80)
    with pytest.raises(UserError, match=r"free; another machine needs less$"):
        check(model, "bottle", 32, 200, 80, remedy="another machine")


def test_processes_share_main_memory(model, needed, monkeypatch):
    need = needed(model, 32, 200, 80)
    monkeypatch.setattr(memory, "free_memory", lambda: int(need * 3.1))
    check(model, "bottle", 32, 200, 80, processes=3)
    with pytest.raises(UserError, match=r"are free for each of 4 processes; .*--batch_size"):
        check(model, "bottle", 32, 200, 80, processes=4)


def test_saving_and_loading_copy_what_a_gpu_holds(model, needed, monkeypatch):
    """Only what is asked about the device counts: the model stays where it is."""
    assert needed(model, 32, 200, 80) == needed(model, 32, 200, 80, stored=False)
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    monkeypatch.setattr(memory, "_free_on_gpu", lambda device: 1 << 45)
    copies = sum(tensor.nbytes for tensor in (torch.empty(3136, 100), torch.empty(3136, 100, 100)))
    assert needed(model, 32, 200, 80) == needed(model, 32, 200, 80, stored=False) + copies


def test_processes_have_a_gpu_each(model, needed, monkeypatch):
    """Only what is asked about the device counts: the model stays where it is."""
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    room = model.bytes_needed(32, 200, 80).device
    monkeypatch.setattr(memory, "_free_on_gpu", lambda device: room)
    need = needed(model, 32, 200, 80)
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * need)
    check(model, "bottle", 32, 200, 80, processes=3)
    with pytest.raises(UserError, match=r"main memory.*each of 4 processes"):
        check(model, "bottle", 32, 200, 80, processes=4)
    for more in ({"processes": 3, "more": 1}, {"more": 1}):  # 另要的在显卡上
        with pytest.raises(UserError, match=r"of GPU memory, and [0-9.]+ GB are free; "):
            check(model, "bottle", 32, 200, 80, **more)


def test_the_error_names_the_largest_images_that_fit(needed, monkeypatch):
    asked, free = Preprocessing(512, 448), 700_000_000
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    with pytest.raises(UserError, match=r"free; --resize (\d+) --crop (\d+) would fit; a smaller") as problem:
        check(PaDiM("resnet18", "random", size=(448, 448)), "bottle", 8, 200, 80, preprocessing=asked)
    resize, crop = map(int, re.search(r"--resize (\d+) --crop (\d+) ", str(problem.value)).groups())
    assert 224 < crop < 448 and abs(resize / crop - 512 / 448) < 0.01
    assert needed(PaDiM("resnet18", "random", size=(crop, crop)), 8, 200, 80) <= free
    assert needed(PaDiM("resnet18", "random", size=(crop + 16, crop + 16)), 8, 200, 80) > free


def test_no_images_are_so_small_as_to_fit(model, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match="free; a smaller --batch_size"):
        check(model, "bottle", 8, 200, 80, preprocessing=Preprocessing())


def test_large_images_take_no_more_than_their_gaussians():
    """Beside P·d² a block of embeddings, and what passes the network, have a bound; small images are as ever."""
    usual, large = (PaDiM("resnet18", "random", size=(side, side)) for side in (224, 1024))
    assert usual.block == 128 and large.block < 128
    assert large.bytes_needed(4, 500, 1).host < large.state_bytes + 2.3 * 2**30
    assert at_once(224, 224) == 64 and at_once(2048, 2048) == 4


def test_smaller_images_of_a_network_in_bfloat16():
    model = PaDiM("resnet18", "random", precision="bf16")
    assert model.of_size(112, 160).grid == (28, 40)

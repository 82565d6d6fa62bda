"""Real ranks under torchrun: the same files as one process, written once; an end is reported once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from datasets.sample import write_sample
from experiment.files.gaussians import read_fitted
from experiment.ranks import SOLO, Ranks
from padim.gaussian import GaussianStream

FAST = ["--arch", "resnet18", "--weights", "random", "--rd", "20", "--figures", "1"]


def command(ranks: int, data: Path, out: Path, *options: str) -> list[str]:
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(ranks),
        "--master_port",
        "0",
        "--standalone",
        "--",
    ]
    given = [*FAST, "--data_path", str(data), "--save_path", str(out), *options]
    return [sys.executable, *(launcher if ranks > 1 else []), str(ROOT / "main.py"), *given]


def start(ranks: int, data: Path, out: Path, *options: str) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen(command(ranks, data, out, *options), env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def finish(ranks: int, data: Path, out: Path, *options: str) -> str:
    run = start(ranks, data, out, *options)
    said, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors[-3000:]
    return said


def results(out: Path, arch: str = "resnet18") -> dict:
    return json.loads((out / f"results_{arch}.json").read_text(encoding="utf-8"))


def assert_same(out: Path, wanted: Path) -> None:
    """As design.md says it: maps within 1e-4, Gaussians within 1e-4 of the largest entry, ROC AUC to four decimals."""
    names = {p.relative_to(wanted).as_posix() for p in wanted.rglob("*")}
    assert {p.relative_to(out).as_posix() for p in out.rglob("*")} == names
    ours, theirs = results(out), results(wanted)
    assert ours["complete"] and sorted(ours["run"]["finished"]) == sorted(theirs["run"]["finished"])
    for name, row in theirs["classes"].items():
        for key in ("image_rocauc", "pixel_rocauc", "pixel_aupro", "n_train", "n_test", "test_files"):
            value = row[key]
            assert ours["classes"][name][key] == (pytest.approx(value, abs=5e-5) if isinstance(value, float) else value)
        path = f"temp_resnet18/train_{name}"
        for a, b in zip(*(read_fitted(root / f"{path}.pkl", 3136, 20) for root in (out, wanted)), strict=True):
            assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()
        a, b = (json.loads((root / f"{path}.json").read_text(encoding="utf-8")) for root in (out, wanted))
        assert a["n_train"] == b["n_train"] and a["training_files"] == b["training_files"]
        left_out = [record["left_out_scores"] or [] for record in (a, b)]
        assert len(left_out[0]) == (13 if name == "linen" else 0)
        np.testing.assert_allclose(*left_out, rtol=1e-3)
        for kind in ("maps", "images"):
            a, b = (np.load(root / f"scores_resnet18/{name}_{kind}.npy") for root in (out, wanted))
            np.testing.assert_allclose(a, b, rtol=1e-4)
        a, b = (np.load(root / f"scores_resnet18/{name}.npz") for root in (out, wanted))
        for key in ("files", "labels", "masks"):
            assert np.array_equal(a[key], b[key])
        np.testing.assert_allclose(a["patches"], b["patches"], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Uneven shares for two and three ranks; one class without a labelled test set."""
    root = tmp_path_factory.mktemp("ranks") / "data"
    write_sample(root, 13, 7, 64)
    for path in (root / "linen/test").iterdir():
        if path.name != "good":
            for picture in path.iterdir():
                picture.unlink()
            path.rmdir()
    return root


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "out"
    finish(1, data, out)
    return out


@pytest.mark.parametrize("ranks", [3, pytest.param(2, marks=pytest.mark.slow)])
def test_the_images_of_a_class_are_divided(data, alone, tmp_path, ranks):
    said = finish(ranks, data, tmp_path / "out")
    assert f"2 classes on {ranks} processes: the images of each class are divided" in said
    assert_same(tmp_path / "out", alone)
    assert results(tmp_path / "out")["classes"]["flange"]["seconds"]["communication"] > 0
    assert said.count("wrote results:") == 1 and said.count("flange: image ROC AUC") == 1


@pytest.mark.slow
def test_a_trained_network_on_two_ranks(data, tmp_path):
    trained = ["--arch", "efficientnet_lite0", "--weights", "imagenet", "--classes", "flange"]
    trained += ["--resize", "75x110", "--crop", "0", "--figures", "none"]
    for ranks, name in ((1, "alone"), (2, "out")):
        finish(ranks, data, tmp_path / name, *trained)
    ours, theirs = (tmp_path / name for name in ("out", "alone"))
    maps = [np.load(out / "scores_efficientnet_lite0/flange_maps.npy") for out in (ours, theirs)]
    np.testing.assert_allclose(*maps, rtol=1e-4)
    rows = [results(out, "efficientnet_lite0")["classes"]["flange"] for out in (ours, theirs)]
    for key in ("image_rocauc", "pixel_rocauc", "pixel_aupro"):
        assert rows[0][key] == pytest.approx(rows[1][key], abs=5e-5)


def test_groups_are_left_out_by_one_process_each(data, alone, tmp_path):
    """Of 13 pictures 3 groups of four and one of one, among two processes."""
    out, wanted = shutil.copytree(alone, tmp_path / "out"), shutil.copytree(alone, tmp_path / "wanted")
    for ranks, folder in ((2, out), (1, wanted)):
        finish(ranks, data, folder, "--leave_out", "4")
    for name in ("flange", "linen"):
        records = [json.loads((root / f"temp_resnet18/train_{name}.json").read_text("utf-8")) for root in (out, wanted)]
        assert records[0]["left_out"] == records[1]["left_out"] == {"by": 4, "groups": 4}
        for key in ("left_out_scores", "left_out_alone_scores"):
            np.testing.assert_allclose(*(known[key] for known in records), rtol=1e-3)
        arrays = [np.load(root / f"temp_resnet18/train_{name}_left_out.npz") for root in (out, wanted)]
        assert np.array_equal(*(kept["files"] for kept in arrays))
        assert np.array_equal(*(kept["lots"] for kept in arrays))


@pytest.mark.slow
def test_all_ranks_look_at_one_region(data, alone, tmp_path):
    """Stored features, another region: scored and left out again by two processes, the first of which has read it."""
    region = np.zeros((64, 64), np.uint8)
    region[10:50, 20:60] = 255
    Image.fromarray(region).save(tmp_path / "region.png")
    out, wanted = shutil.copytree(alone, tmp_path / "out"), shutil.copytree(alone, tmp_path / "wanted")
    for ranks, folder in ((2, out), (1, wanted)):
        said = finish(ranks, data, folder, "--region", str(tmp_path / "region.png"))
        assert said.count("using the stored features") == 2
    assert_same(out, wanted)
    assert 0.3 < np.isnan(np.load(out / "scores_resnet18/flange_maps.npy")).mean() < 0.6


@pytest.mark.slow
def test_more_ranks_than_images(tmp_path):
    write_sample(tmp_path / "data", 2, 2, 64)
    finish(1, tmp_path / "data", tmp_path / "alone", "--reduction", "pca")
    finish(3, tmp_path / "data", tmp_path / "out", "--reduction", "pca")
    for name in ("flange", "linen"):
        path = f"scores_resnet18/{name}_maps.npy"
        np.testing.assert_allclose(*(np.load(tmp_path / where / path) for where in ("out", "alone")), rtol=1e-3)


def one_error(errors: str) -> str:
    lines = [line for line in re.split(r"[\r\n]", errors) if line.startswith("error: ")]
    assert len(lines) == 1, errors[-3000:]
    assert 'main.py", line' not in errors
    return lines[0]


def test_bad_input_is_reported_once(data, tmp_path):
    run = start(2, data, tmp_path / "out", "--classes", "bolt")
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and "no class 'bolt'" in one_error(errors)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ranks are found in /proc")
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_is_killed(data, alone, tmp_path, victim):
    """While the second class is fitted; one line from a survivor, and the same command goes on."""
    out = tmp_path / "out"
    run = start(2, data, out, "--batch_size", "1")
    while not (out / "temp_resnet18" / "train_flange.json").exists():
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    ranks = {
        int(re.search(rb"\0RANK=(\d+)", Path(f"/proc/{pid}/environ").read_bytes())[1]): int(pid) for pid in children
    }
    begun = time.perf_counter()
    os.kill(ranks[victim], signal.SIGKILL)
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and time.perf_counter() - begun < 60
    # 它自己先发现，是 error: 一行；torchrun 先来终止它，是 interrupted 一行
    assert errors.count("the same command goes on") == 1 and 'main.py", line' not in errors
    finish(2, data, out, "--batch_size", "1")
    assert_same(out, alone)


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_picture_in_one_ranks_share_is_damaged(data, tmp_path, victim):
    """Whichever rank meets it names it, and nobody waits for anybody."""
    root = shutil.copytree(data, tmp_path / "data")
    file = sorted((root / "flange/test").rglob("*.png"))[-1 if victim else 0]
    file.write_bytes(file.read_bytes()[:-200])
    run = start(2, root, tmp_path / "out", "--batch_size", "1", "--num_workers", "0")
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and file.name in one_error(errors)
    assert not (tmp_path / "out/scores_resnet18/flange.npz").exists()


SCRIPT = """
import sys, torch
from experiment.ranks import join
from padim.gaussian import GaussianStream
from system.errors import UserError
ranks, generator = join(), torch.Generator().manual_seed(0)
blocks = [torch.randn(70, n, 300, generator=generator) + 10 * n for n in (5, 3)]
stream, whole = GaussianStream(70, 300, torch.device("cpu")), GaussianStream(70, 300, torch.device("cpu"))
stream.update(blocks[ranks.rank])
stream.merge(ranks.sum)
whole.update(torch.cat(blocks, 1))
for ours, wanted in zip(stream.finish(), whole.finish()):
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max()
ranks.check_same("alike", [1, 2])
try:
    ranks.check_same("unlike", ranks.rank)
except UserError as problem:
    assert "--data_path" in str(problem)
    (open(sys.argv[1] + str(ranks.rank), "w")).close()
ranks.leave()
"""


def test_what_ranks_say_to_each_other(tmp_path):
    """Through gloo itself, with matrices of several strips and chunks."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launcher, str(tmp_path / "script.py"), str(tmp_path / "done")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=env, check=True, timeout=120)
    assert (tmp_path / "done0").exists() and (tmp_path / "done1").exists()


@pytest.mark.parametrize("shares", [(5, 9, 2), (1, 0, 7), (4, 4)])
def test_merged_streams_are_one_stream(shares):
    """Threads stand for ranks, and add up for themselves; of very different means, few images, none at all."""
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randn(6, n, 150, generator=generator) * 3 + 100 * k for k, n in enumerate(shares)]
    slots, together = [None] * len(shares), threading.Barrier(len(shares), timeout=60)

    def merged(rank: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        def add(tensor: torch.Tensor) -> torch.Tensor:
            slots[rank] = tensor.clone()
            together.wait()
            total = sum(slots)
            together.wait()
            return tensor.copy_(total)

        stream = GaussianStream(6, 150, torch.device("cpu"))
        if shares[rank]:
            stream.update(blocks[rank])
        stream.merge(add)
        return stream.count, *stream.finish()

    whole = GaussianStream(6, 150, torch.device("cpu"))
    whole.update(torch.cat(blocks, 1))
    mean, covariance = whole.finish()
    with ThreadPoolExecutor(len(shares)) as pool:
        for count, our_mean, our_covariance in pool.map(merged, range(len(shares))):
            assert count == sum(shares)
            assert (our_mean - mean).abs().max() < 1e-5 * mean.abs().max()
            assert (our_covariance - covariance).abs().max() < 1e-5 * covariance.abs().max()


def test_shares_are_everything_once():
    for size in (1, 2, 3, 7):
        for count in (0, 1, 2, 6, 50):
            shares = [Ranks(rank, size).share(count) for rank in range(size)]
            assert [i for share in shares for i in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_is_no_group():
    code = (
        "import sys, main; status = main.main(sys.argv[1:])\n"
        "import torch.distributed as dist; sys.exit(status or dist.is_initialized())"
    )
    assert SOLO.leads and SOLO.agree(lambda: 5) == 5 and SOLO.gather(3) == [3]
    assert subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0

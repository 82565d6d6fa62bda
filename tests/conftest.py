"""What tests share: the real images where they are at hand, a small sample data set, and what a run on it writes."""

import os
from pathlib import Path

import pytest

import main
from datasets.sample import write_sample
from system.command import yield_while_waiting

yield_while_waiting()  # 与各命令相同；torch 此时还没有装入

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared real images and golden results are not here")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def torchrun_folders(tmp_path_factory) -> None:
    """Every torchrun leaves a folder, by default in the system's temporary one; these go with the tests' own."""
    os.environ["PET_LOG_DIR"] = str(tmp_path_factory.mktemp("torchrun"))


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """Both sample classes: 8 training and 9 test pictures of 96×96 each. Tests do not change it."""
    root = tmp_path_factory.mktemp("sample") / "data"
    write_sample(root, n_train=8, n_test=9, size=96)
    return root


@pytest.fixture(scope="session")
def result(sample, tmp_path_factory) -> Path:
    """What main.py writes for both sample classes, with few dimensions. Tests add to it, and change nothing."""
    root = tmp_path_factory.mktemp("result") / "result"
    options = ["--arch", "resnet18", "--weights", "random", "--rd", "8", "--figures", "1", "--num_workers", "0"]
    assert main.main([*options, "--leave_out", "one", "--data_path", str(sample), "--save_path", str(root)]) == 0
    return root

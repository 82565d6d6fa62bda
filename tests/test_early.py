"""The first pictures of a run are decoded by another process while torch is imported."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import ROOT
from PIL import Image

from datasets.check import check_class
from datasets.early import FEWEST, Early
from datasets.images import DataError
from datasets.mvtec import MVTecDataset
from datasets.preprocessing import Preprocessing
from experiment.batches import decode_early
from experiment.current import Stopwatch
from experiment.files.folder import Store
from experiment.files.provenance import DataFolder
from system.resources import cores

COUNT = FEWEST + 5


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Noise, which no two pictures share, in colour, grey and 16 bits."""
    root, rng = tmp_path_factory.mktemp("early"), np.random.default_rng(0)
    for split, count in (("train", COUNT), ("test", 3)):
        folder = root / "tile" / split / "good"
        folder.mkdir(parents=True)
        for i in range(count):
            shape, kind = ((300, 280), np.uint16) if i % 5 == 0 else ((300, 280, 3), np.uint8)
            Image.fromarray(rng.integers(0, np.iinfo(kind).max, shape, kind)).save(folder / f"{i:03d}.png")
    return root


def waited(early: Early, least: int) -> None:
    """Wait until another process has decoded so many pictures."""
    size, end = 3 * 64 * 64, time.monotonic() + 60
    while os.fstat(early._file.fileno()).st_size < least * size:
        assert time.monotonic() < end, "nothing comes"
        time.sleep(0.02)


def begun(root: Path, least: int, preprocessing: Preprocessing | None = None) -> tuple[Early, MVTecDataset]:
    dataset = MVTecDataset(root, "tile", "train", preprocessing or Preprocessing(72, 64))
    early = Early(dataset, (64, 64))
    waited(early, least)
    return early, dataset


@pytest.mark.parametrize("more", [{}, {"protocol": "rd", "seed": 7}, {"bits": 12}], ids=["aligned", "rd", "bits"])
def test_items_are_the_data_set_s_own_in_every_bit(pictures, tmp_path, more):
    if "bits" in more:  # 12 位的图：没有更大的值
        root = tmp_path
        (root / "tile" / "train" / "good").mkdir(parents=True)
        for i in range(9):
            deep = np.random.default_rng(i).integers(0, 1 << 12, (300, 280), np.uint16)
            Image.fromarray(deep).save(root / "tile" / "train" / "good" / f"{i}.png")
    else:
        root = pictures
    early, dataset = begun(root, 5, Preprocessing(72, 64, **more))
    again = MVTecDataset(root, "tile", "train", dataset.preprocessing)  # 另一个对象，同样的图片
    assert early.of(again) is early and len(early) == len(dataset)
    for i in range(len(dataset)):
        for own, expected in zip(early[i], dataset[i], strict=True):
            assert own.dtype == expected.dtype and np.array_equal(own, expected)


def test_nothing_is_decoded_twice_and_all_is_handed_out(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    early, dataset = begun(tmp_path, COUNT)
    expected = [hashlib.sha256(image).digest() for image, _, _ in (dataset[i] for i in range(COUNT))]
    shutil.rmtree(tmp_path / "tile")  # 再解码，就找不到文件了
    assert early.of(dataset) is early
    assert [hashlib.sha256(early[i][0]).digest() for i in range(COUNT)] == expected


def test_another_data_set_is_left_as_it_is(pictures):
    early, _ = begun(pictures, 1)
    test = MVTecDataset(pictures, "tile", "test", Preprocessing(72, 64))
    assert early.of(test) is test
    assert early._process.returncode == 0 and not len(early._pictures)  # 进程已结束，图片已放下


def test_a_picture_that_cannot_be_read_is_an_error_in_its_turn(pictures, tmp_path):
    shutil.copytree(pictures, tmp_path, dirs_exist_ok=True)
    bad = tmp_path / "tile" / "train" / "good" / "004.png"
    bad.write_bytes(bad.read_bytes()[:9000])
    early, dataset = begun(tmp_path, 4)
    early.of(dataset)
    assert np.array_equal(early[3][0], dataset[3][0])
    with pytest.raises(DataError, match=r"004\.png"):
        early[4]
    assert np.array_equal(early[5][0], dataset[5][0])


def test_what_python_says_at_its_start_is_not_in_the_pictures(pictures, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("print('hello', flush=True); print('and more')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    early, dataset = begun(pictures, 2)
    early.of(dataset)
    assert len(early._pictures) >= 2
    assert all(np.array_equal(early[i][0], dataset[i][0]) for i in range(4))


def test_where_there_can_be_no_such_process(pictures, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(OSError):
        Early(MVTecDataset(pictures, "tile", "train"), (224, 224))
    monkeypatch.setattr(sys, "executable", shutil.which("false") or pytest.skip("no command that fails"))
    early = Early(dataset := MVTecDataset(pictures, "tile", "train"), (224, 224))  # 起来了，随即结束
    assert early.of(dataset) is early
    assert np.array_equal(early[0][0], dataset[0][0])


def hand_over(root: Path) -> str:
    return f"""
import sys, time
from pathlib import Path
from datasets.early import Early
from datasets.mvtec import MVTecDataset
dataset = MVTecDataset(Path({str(root)!r}), "tile", "train")
dataset.files, dataset.kinds, dataset.masks = dataset.files * 200, dataset.kinds * 200, dataset.masks * 200
early = Early(dataset, (8, 8))
print(early._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="no such signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_the_process_ends_with_the_run_whatever_ends_it(pictures, number):
    words = [sys.executable, "-c", hand_over(pictures)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout
        decoding = psutil.Process(int(run.stdout.readline()))
        time.sleep(0.5)
        assert decoding.is_running() and decoding.status() != psutil.STATUS_ZOMBIE
        run.send_signal(number)
    gone, _ = psutil.wait_procs([decoding], 10)
    assert gone


@pytest.fixture
def asked(pictures, tmp_path, monkeypatch):
    """`decode_early` for the pictures, and the store it looks at, in a process where torch is not there yet."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    data = DataFolder(MVTecDataset, pictures, Preprocessing(72, 64))
    checked = {"tile": check_class(MVTecDataset, pictures, "tile", data.preprocessing)}
    store = Store(tmp_path, "resnet18")

    def ask(**options: object) -> bool:
        early = decode_early(Namespace(**{"num_workers": None, "refit": False} | options), data, checked, store)
        if early:
            early.close()
        return early is not None

    return ask, store, checked


@pytest.mark.skipif(cores() < 2, reason="needs two cores")
def test_it_begins_where_it_gains_something(asked, monkeypatch):
    ask, store, checked = asked
    assert ask()
    assert not ask(num_workers=0)
    for path in (store.fitted("tile"), store.arrays("tile")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert not ask() and ask(refit=True)
        path.unlink()
    with monkeypatch.context() as few:
        few.setitem(checked, "tile", checked["tile"]._replace(n_train=FEWEST - 1))
        assert not ask()
    with monkeypatch.context() as one:
        one.setattr("experiment.batches.cores", lambda: 1)
        assert not ask()
    with monkeypatch.context() as several:
        for name in ("RANK", "LOCAL_RANK"):
            several.setenv(name, "0")
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            several.setenv(name, "2")
        assert not ask()
    with monkeypatch.context() as there:
        there.setitem(sys.modules, "torch", Stopwatch)
        assert not ask()


def run(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", *map(str, words)], cwd=ROOT, capture_output=True, text=True)


def test_a_run_is_the_same_with_it_and_without(pictures, tmp_path):
    """In processes of their own: nothing is decoded early with --num_workers 0."""
    files = []
    for workers in (0, 1):
        out = tmp_path / str(workers)
        code = (
            "import sys, main, experiment.batches as b; begun = [];"
            "own = b.Early.of; b.Early.of = lambda self, d: (r := own(self, d), begun.append(len(self._pictures)))[0];"
            "status = main.main(sys.argv[1:]); print('early', begun); sys.exit(status)"
        )
        words = ["--arch", "resnet18", "--weights", "random", "--resize", 72, "--crop", 64, "--num_workers", workers]
        done = run(code, *words, "--data_path", pictures, "--save_path", out, "--figures", "none")
        assert done.returncode == 0, done.stderr
        begun = done.stdout.rpartition("early ")[2].strip()
        assert begun == "[]" if workers == 0 or cores() < 2 else int(begun[1:-1].split(",")[0]) > 0
        files.append([(out / name).read_bytes() for name in (
            "temp_resnet18/train_tile.pkl", "scores_resnet18/tile_maps.npy", "scores_resnet18/tile_images.npy"
        )])  # fmt: skip
    assert files[0] == files[1]


def test_mistakes_in_the_data_do_not_wait_for_torch(tmp_path):
    code = (
        "import sys, main; status = main.main(sys.argv[1:]);"
        "print({'torch', 'torchvision', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)); sys.exit(status)"
    )
    done = run(code, "--data_path", tmp_path / "absent", "--save_path", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.startswith("error: no data folder") and done.stdout == "set()\n"


def test_only_mahalanobis_ad_imports_scikit_learn(pictures, tmp_path):
    code = "import sys, main; main.main(sys.argv[1:]); print('sklearn' in sys.modules, 'scipy.stats' in sys.modules)"
    words = ["--weights", "random", "--resize", 72, "--crop", 64, "--data_path", pictures, "--figures", "none"]
    done = run(code, "--arch", "resnet18", *words, "--save_path", tmp_path / "out")
    assert done.stdout.splitlines()[-1] == "False False", done.stderr

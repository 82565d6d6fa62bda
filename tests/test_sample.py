import time

import numpy as np
import pytest
from PIL import Image

from datasets import sample as sample_module
from datasets.catalogue import find_classes
from datasets.folder import check_class
from datasets.mvtec import MVTecDataset
from datasets.recipes import CLASSES
from datasets.sample import main, write_sample


def test_default_size_layout_and_time(tmp_path):
    start = time.perf_counter()
    write_sample(tmp_path / "s")
    assert time.perf_counter() - start < 10
    assert find_classes(MVTecDataset, tmp_path / "s") == ["flange", "linen"]
    for name in CLASSES:
        check_class(MVTecDataset, tmp_path / "s", name)
        train, test = (MVTecDataset(tmp_path / "s", name, split) for split in ("train", "test"))
        assert (len(train), len(test), test.labels.sum()) == (40, 18, 12)
        kinds = [n.split("/")[1] for n in test.names()]
        assert sorted(kinds.count(k) for k in set(kinds)) == [4, 4, 4, 6]
        assert Image.open(train.files[0]).size == (256, 256)


def test_deterministic_and_independent_of_the_number(sample, tmp_path):
    write_sample(tmp_path / "s", n_train=3, n_test=9, size=96)
    files = list((tmp_path / "s").rglob("*.png"))
    assert len(files) == 2 * (3 + 9 + 6)
    for path in files:
        assert path.read_bytes() == (sample / path.relative_to(tmp_path / "s")).read_bytes()


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, c in CLASSES.items() for k in c.defects])
def test_masks_are_exactly_the_pixels_that_changed(name, kind):
    rng = np.random.default_rng(4)
    sound = CLASSES[name].draw(128, rng)
    damaged, mask = CLASSES[name].defects[kind](sound.copy(), rng)
    changed = (damaged != sound).any(-1)
    assert 10 < mask.sum() < 0.2 * mask.size
    assert not (changed & ~mask).any() and (changed & mask).sum() > 0.98 * mask.sum()


def test_command(tmp_path, capsys):
    out = tmp_path / "s"
    assert main(["--out", str(out), "--train", "2", "--test", "4", "--size", "48"]) == 0
    assert str(out) in capsys.readouterr().out
    assert len(list(out.glob("*/train/good/*.png"))) == 4
    assert main(["--out", str(out)]) == 2
    line = capsys.readouterr().err
    assert line == f"error: {str(out)!r} is there already; remove it or give another --out\n"
    assert main(["--out", str(tmp_path / "t"), "--size", "3"]) == 2
    assert not (tmp_path / "t").exists() and capsys.readouterr().err.startswith("error: --train must be")
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err.startswith("error: ")


def test_nothing_is_left_of_a_broken_write(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(sample_module, "_write_picture", fail)
    with pytest.raises(OSError, match="disk full"):
        write_sample(tmp_path / "s", 2, 3, 48)
    assert not list(tmp_path.iterdir())

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import recipes
from datasets import sample as sample_module
from datasets.catalogue import find_classes
from datasets.check import check_class
from datasets.mvtec import MVTecDataset
from datasets.recipes import CLASSES
from datasets.sample import MARK, drawn_by, main, renew_sample, write_sample
from system.errors import UserError


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


def test_a_set_is_marked_with_the_code_that_drew_it(sample, tmp_path, monkeypatch):
    assert (sample / MARK).read_text(encoding="utf-8") == drawn_by()
    source, mark = recipes.__file__, drawn_by()
    copy = tmp_path / "recipes.py"
    monkeypatch.setattr(recipes, "__file__", str(copy))
    text = Path(source).read_text(encoding="utf-8")
    copy.write_bytes(text.replace("\n", "\r\n").encode())  # 检出时换了换行符
    assert drawn_by() == mark
    copy.write_text(text.replace("0.74", "0.75"), encoding="utf-8")
    assert drawn_by() != mark


def test_what_this_code_drew_is_left_alone(sample, tmp_path, capsys):
    own = shutil.copytree(sample, tmp_path / "s")
    (own / "linen" / "train" / "good" / "mine.png").touch()
    before = sorted(own.rglob("*"))
    renew_sample(own)
    assert sorted(own.rglob("*")) == before and capsys.readouterr().out == ""


def test_what_an_earlier_version_drew_is_drawn_again(sample, tmp_path, capsys):
    old = shutil.copytree(sample, tmp_path / "s")
    (old / MARK).write_text("datasets/sample.py, 0\n", encoding="utf-8")  # 没有标记的，见 test_main.py
    renew_sample(old)
    assert capsys.readouterr().out == f"{old}: an earlier version drew these pictures; drawing them again\n"
    assert (old / MARK).read_text(encoding="utf-8") == drawn_by()
    assert len(list((old / "linen" / "train" / "good").iterdir())) == 40
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    "foreign",
    ["notes.txt", "bolt/train/good/000.png", "linen/train/good/IMG_7.png", "linen/test/crack/000.png", "flange/a.png"],
)
def test_what_is_not_sample_data_is_never_deleted(sample, tmp_path, foreign):
    own = shutil.copytree(sample, tmp_path / "s")
    (own / MARK).unlink()
    (own / foreign).parent.mkdir(parents=True, exist_ok=True)
    (own / foreign).touch()
    before = sorted(own.rglob("*"))
    with pytest.raises(UserError, match=r"s' is where the sample data goes, and something else"):
        renew_sample(own)
    assert sorted(own.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_one_class_a_link_a_file_and_an_empty_folder_are_not_sample_data(sample, tmp_path):
    one, link, file, empty = (tmp_path / name for name in ("one", "link", "file", "empty"))
    shutil.copytree(sample / "linen", one / "linen")
    shutil.copytree(sample, tmp_path / "old")
    (tmp_path / "old" / MARK).unlink()
    link.symlink_to(tmp_path / "old")
    file.touch()
    empty.mkdir()
    before = sorted(tmp_path.rglob("*"))
    for place in (one, link, file, empty):
        with pytest.raises(UserError, match="something else is there"):
            renew_sample(place)
    assert sorted(tmp_path.rglob("*")) == before

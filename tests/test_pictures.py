"""Finding pictures, and preparing them: what is odd about a folder or a picture is said, and the others go on."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from datasets.pictures import NewPictures, find_pictures
from datasets.preprocessing import Preprocessing
from system.errors import UserError


def own(out):
    return {out / "pictures": "figures", out / "masks": "masks"}


def picture(path, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return path


def test_pictures_in_the_folder_where_results_go(tmp_path):
    """All but the figures that are written there."""
    out = tmp_path / "in"
    for name in ("a.png", "b/c.png", "b/pictures/d.png", "pictures/b/figure.png", "masks/b/c.png"):
        picture(out / name)
    found = [p.file.relative_to(out).as_posix() for p in find_pictures([out], own(out))]
    assert found == ["a.png", "b/c.png", "b/pictures/d.png"]
    assert len(find_pictures([out])) == 5
    for place in (out / "pictures", out / "pictures/b", out / "pictures/b/figure.png", out / "masks/b"):
        with pytest.raises(UserError, match=r"is where (figures|masks) go \(.*(pictures|masks)'\); give another --out"):
            find_pictures([place], own(out))
    shutil.rmtree(out / "b")
    (out / "a.png").unlink()
    with pytest.raises(
        UserError, match=r"no picture in '.*in' but in '.*pictures', where figures go, but in '.*masks', where masks go"
    ):
        find_pictures([out], own(out))


def test_every_figure_has_a_name_of_its_own(tmp_path):
    for name in ("a/x.png", "b/x.png", "c/x.png", "d/x_2.png", "e/x_2.png", "f/x_2_2.png", "g/x.jpg", "h/x.jpg"):
        picture(tmp_path / name)
    found = [
        p.figure.name for p in find_pictures([p for folder in sorted(tmp_path.iterdir()) for p in folder.iterdir()])
    ]
    assert found == ["x.png", "x_2.png", "x_3.png", "x_2_2.png", "x_2_3.png", "x_2_2_2.png", "x.jpg.png", "x.jpg_2.png"]
    file = tmp_path / "a/x.png"
    start = time.perf_counter()
    figures = {p.figure for p in find_pictures([file] * 20_000)}
    assert len(figures) == 20_000 and time.perf_counter() - start < 10


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("target", ["lost", "/nowhere/at/all"])
def test_a_link_to_a_folder_that_leads_nowhere(tmp_path, target):
    picture(tmp_path / "a/x.png")
    (tmp_path / "a/.hidden").symlink_to(target)
    assert len(find_pictures([tmp_path])) == 1
    (tmp_path / "a/lost").symlink_to(target, target_is_directory=True)
    with pytest.raises(UserError, match=r"a/lost' is a symbolic link that is circular or leads nowhere"):
        find_pictures([tmp_path])
    with pytest.raises(UserError, match=r"no picture or folder '.*lost'"):
        find_pictures([tmp_path / "a/lost"], own(tmp_path))


@pytest.mark.skipif(os.name == "nt", reason="longer paths than POSIX's")
def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """Its path is longer than the system takes; and one without permission."""
    picture(tmp_path / "a/x.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        Path("n" * 250).mkdir()
        os.chdir("n" * 250)
    os.chdir(tmp_path)
    with pytest.raises(UserError, match=r"cannot read folder '.*nnn' \(File name too long\)"):
        find_pictures([tmp_path])
    shutil.rmtree(tmp_path / ("n" * 250))
    (tmp_path / "b").mkdir(mode=0)
    if not os.access(tmp_path / "b", os.R_OK):  # 超级用户什么都读得了
        with pytest.raises(UserError, match=r"cannot read folder '.*b' \(Permission denied\)"):
            find_pictures([tmp_path])


def test_a_thin_picture_is_that_pictures_problem(tmp_path):
    files = [picture(tmp_path / "thin.png", (60_000, 1)), picture(tmp_path / "x.png")]
    pictures = NewPictures(files, Preprocessing(), (224, 224))
    framed, index, readable, size = pictures[0]
    assert (framed.shape, framed.dtype, framed.any(), size.tolist()) == ((224, 224, 3), np.uint8, False, [0, 0])
    assert (type(index), index, type(readable), readable) == (np.int64, 0, np.bool_, False)
    assert "thin.png" in pictures.problems[0] and pictures[1][2] and 1 not in pictures.problems


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on memory")
def test_a_picture_that_memory_does_not_suffice_for(tmp_path):
    """150 megabytes more than the process has, 700 needed for the resized picture; the others go on."""
    picture(tmp_path / "long.png", (8000, 3))
    picture(tmp_path / "x.png", (300, 300))
    code = f"""
import resource
from pathlib import Path
from datasets.pictures import NewPictures
from datasets.preprocessing import Preprocessing
from datasets.loader import batches
files = [Path({str(tmp_path)!r}) / name for name in ("x.png", "long.png", "x.png")]
list(batches(NewPictures([files[0]] * 4, Preprocessing(), (224, 224)), 2, 1))  # 该装入的都装入
pictures = NewPictures(files, Preprocessing(), (224, 224))
used = next(int(s.split()[1]) * 1024 for s in open("/proc/self/status") if s.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
for workers in (0, 1):
    ((_, _, readable, _),) = batches(pictures, 3, workers)
    assert readable.tolist() == [True, False, True], readable
    print(pictures.problems.pop(1))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("no memory" in s and "long.png" in s for s in lines)

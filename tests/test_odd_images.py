"""Hostile and odd picture files: the table of datasets/README.md, each row through the data set as main.py reads it."""

import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from datasets.catalogue import find_classes, locate
from datasets.check import check_class
from datasets.images import DataError, read_header, read_picture
from datasets.masks import read_mask
from datasets.mvtec import MVTecDataset

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A class with two training pictures and no test pictures."""
    good = tmp_path / "x" / "train" / "good"
    good.mkdir(parents=True)
    for i in range(2):
        Image.fromarray(RGB).save(good / f"{i}.png")
    return good


def refused(folder) -> str:
    """What is said about the class before anything is decoded."""
    with pytest.raises(DataError) as caught:
        check_class(MVTecDataset, folder.parents[2], "x")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_a_decompression_bomb_is_named_before_it_is_decoded(folder):
    (folder / "bomb.png").write_bytes(png(60_000, 60_000))
    message = refused(folder)
    assert "bomb.png" in message and "3600000000 pixels" in message
    assert (folder / "bomb.png").exists()


def test_a_thin_picture_that_grows_is_named_before_it_is_decoded(folder):
    """A file of some hundred bytes, whose shorter side is a single pixel."""
    (folder / "thin.png").write_bytes(png(60_000, 1, bytes(180_001)))
    assert (folder / "thin.png").stat().st_size < 400
    message = refused(folder)
    assert "thin.png" in message and "256x15360000" in message and "--resize HEIGHTxWIDTH" in message


def test_a_hundred_megapixels_are_no_bomb(folder):
    (folder / "large.png").write_bytes(png(12_000, 8_500))
    with pytest.warns(Image.DecompressionBombWarning):  # main.py 不显示这条警告
        assert read_header(folder / "large.png").size == (12_000, 8_500)


def test_a_text_that_grows_is_refused(folder):
    """A compressed text chunk of 200 MB in a file of 200 kB."""
    content = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1)
    text = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    whole = png(60, 40, b"".join(b"\0" + row.tobytes() for row in RGB))
    (folder / "text.png").write_bytes(whole[:33] + text + whole[33:])
    assert "text.png" in refused(folder)


def test_truncated_empty_and_foreign_files_are_named(folder):
    whole = (folder / "0.png").read_bytes()
    spoiled = folder / "spoiled.png"
    for content in (b"", b"hello", whole[:20], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>"):
        spoiled.write_bytes(content)
        assert "spoiled.png" in refused(folder)
    spoiled.write_bytes(whole[:1000])  # 文件头完好：解码时才知道
    check_class(MVTecDataset, folder.parents[2], "x")
    with pytest.raises(DataError, match=r"spoiled\.png.*truncated"):
        MVTecDataset(folder.parents[2], "x", "train")[2]


def test_animations_give_their_first_frame(tmp_path):
    first, second = Image.fromarray(RGB), Image.new("RGB", (60, 40))
    for name, kind in {"a.png": "PNG", "a.tif": "TIFF", "gif.png": "GIF"}.items():
        first.save(tmp_path / name, kind, save_all=True, append_images=[second])
        assert Image.open(tmp_path / name).n_frames == 2
        difference = np.abs(np.asarray(read_picture(tmp_path / name)).astype(int) - RGB)
        assert difference.max() <= (0 if kind != "GIF" else 80) and difference.mean() < 20
        assert read_header(tmp_path / name).size == (60, 40)
        assert np.asarray(read_mask(tmp_path / name)).any()


def test_names_with_anything_in_them(folder):
    names = ["with space.png", 'it\'s "quoted".png', "图像.png", "ümläut.PNG", "%s{0}$x;.png", "-v.png"]
    if os.name == "posix":
        names += ["new\nline.png", "tab\t.png", os.fsdecode(b"latin-\xe9.png")]
    for name in names:
        Image.fromarray(RGB).save(folder / name, "PNG")
    check_class(MVTecDataset, folder.parents[2], "x")
    data = MVTecDataset(folder.parents[2], "x", "train")
    assert set(data.names()) == {f"train/good/{name}" for name in [*names, "0.png", "1.png"]}
    assert len(data.fingerprint()) == 64 and data[len(data) - 1][0].shape == (3, 224, 224)
    if os.name == "posix":
        (folder / "new\nline.png").write_bytes(b"")
        assert r"new\nline.png" in refused(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_and_bad_ones_named(folder, tmp_path):
    Image.fromarray(RGB).save(tmp_path / "elsewhere.png")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    check_class(MVTecDataset, folder.parents[2], "x")
    np.testing.assert_array_equal(read_picture(folder / "link.png"), RGB)
    for name, target in {"broken.png": "nowhere.png", "circular.png": "circular.png"}.items():
        (folder / name).symlink_to(target)
        assert f"{name}' (a symbolic link that is circular or leads nowhere)" in refused(folder)
        (folder / name).unlink()
    real = folder.rename(tmp_path / "pictures")
    folder.symlink_to(real, target_is_directory=True)
    assert check_class(MVTecDataset, folder.parents[2], "x")[:2] == (3, 0)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize(
    "link", ["test", "test/hole", "ground_truth", "ground_truth/hole", "train/good", "train", ".", "../y"]
)
@pytest.mark.parametrize("circular", [False, True])
def test_a_link_to_a_folder_that_leads_nowhere(folder, link, circular):
    """It might have been any number of pictures: they are not missed in silence."""
    root = folder.parents[2]
    for kind in ("test/good", "test/dent", "ground_truth/dent"):
        (root / "x" / kind).mkdir(parents=True)
        Image.fromarray(RGB).save(root / "x" / kind / "0.png")
    place = root / "x" / link
    if link == "ground_truth/hole":
        (root / "x/test/hole").mkdir()
    if place.is_dir():
        place.rename(root / "moved")
    place = place.parent.resolve() / place.name
    place.symlink_to(place.name if circular else "/nowhere/at/all", target_is_directory=True)
    with pytest.raises(DataError) as caught:
        check_class(MVTecDataset, root, find_classes(MVTecDataset, *locate(MVTecDataset, root))[0])
    message = f"{str(place)!r} is a symbolic link that is circular or leads nowhere; mend it or remove it"
    assert str(caught.value) == message
    if link == "../y":  # 点了名的类别不受别处牵连
        assert find_classes(MVTecDataset, root, ["x"]) == ["x"] and check_class(MVTecDataset, root, "x").n_test == 2


@pytest.mark.skipif(os.name == "nt", reason="POSIX's")
def test_what_would_wait_for_ever_is_named(folder):
    os.mkfifo(folder / "pipe.png")
    assert "pipe.png' (not a regular file)" in refused(folder)
    (folder / "pipe.png").unlink()
    (folder / "folder.png").mkdir()
    assert "folder.png' (not a regular file)" in refused(folder)


@pytest.mark.skipif(not hasattr(os, "link"), reason="needs hard links")
def test_twenty_thousand_files(folder):
    for i in range(20_000):
        os.link(folder / "0.png", folder / f"n{i:05d}.png")
    start = time.perf_counter()
    assert check_class(MVTecDataset, folder.parents[2], "x")[:2] == (20_002, 0)
    assert len(MVTecDataset(folder.parents[2], "x", "train").fingerprint()) == 64
    assert time.perf_counter() - start < 60

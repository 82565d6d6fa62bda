"""Fetching the data set from a server on this machine: broken off, gone on with, wrong, hostile."""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from mvtec_server import WHOLE, Server, data_set, error, files, pack, serving, unpacked

from datasets import download
from datasets.check import check_class
from datasets.download import ARCHIVE, get_mvtec, main
from datasets.mvtec import CLASSES, MVTecDataset
from system.errors import UserError


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        yield server


def get(server: Server, folder, content: bytes | None = None) -> list[str]:
    return get_mvtec(folder, CLASSES, server.url, hashlib.sha256(content or server.content).hexdigest())


def test_download_and_use(server, tmp_path, capsys):
    folder = tmp_path / "a b" / "data"
    assert get(server, folder) == []
    assert files(folder) == unpacked() and (folder / ARCHIVE).read_bytes() == WHOLE
    assert sorted(p.name for p in folder.iterdir()) == sorted([*CLASSES, "readme.txt", ARCHIVE])
    bars = capsys.readouterr().err
    assert all(word in bars for word in ("downloading: 100%", "checking: 100%", "unpacking: "))
    for name in CLASSES:
        assert check_class(MVTecDataset, folder, name)[:3] == (2, 0, (224, 224))
        assert all(image.shape == (3, 224, 224) for image, _, _ in MVTecDataset(folder, name, "train"))


def test_main_runs_on_the_download(server, tmp_path):
    get(server, tmp_path / "a b")
    options = ["--arch", "resnet18", "--weights", "random", "--rd", "4", "--classes", "wood", "--figures", "none"]
    done = run_main(*options, "--data_path", tmp_path / "a b", "--save_path", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    get(server, tmp_path)
    server.asked.clear()
    for path in (tmp_path / "bottle").rglob("*.png"):
        path.unlink()
    (tmp_path / "bottle" / "train" / "good").rmdir()
    (tmp_path / "bottle" / "train").rmdir()
    (tmp_path / "bottle" / "mine.txt").write_bytes(b"mine")
    (tmp_path / "wood" / "train" / "good" / "000.png").write_bytes(b"changed")
    (tmp_path / ".unpacking" / "left").mkdir(parents=True)  # 被杀死的一次留下的
    assert set(get(server, tmp_path)) == {*CLASSES, "readme.txt"}  # 人动过的一概不碰
    assert (tmp_path / "wood" / "train" / "good" / "000.png").read_bytes() == b"changed"
    (tmp_path / "bottle" / "mine.txt").unlink()
    (tmp_path / "bottle").rmdir()
    assert "bottle" not in get(server, tmp_path)
    (tmp_path / "wood" / "train" / "good" / "000.png").write_bytes(unpacked()["wood/train/good/000.png"])
    assert files(tmp_path) == unpacked()
    (tmp_path / ARCHIVE).unlink()
    get(server, tmp_path)
    assert server.asked == [] and not (tmp_path / ARCHIVE).exists()


@pytest.mark.parametrize("tells_size", [True, False])
def test_broken_off_and_resumed(server, tmp_path, tells_size):
    server.limit, server.tells_size = len(WHOLE) // 3, tells_size
    part = tmp_path / f"{ARCHIVE}.part"
    words = "broke off at .* of .*the same command goes on" if tells_size else "SHA-256"
    with pytest.raises(UserError, match=words):
        get(server, tmp_path)
    if not tells_size:  # 没说大小的服务器：只有哈希看得出断了
        assert not part.exists()
        return
    assert part.read_bytes() == WHOLE[: len(WHOLE) // 3] and list(tmp_path.iterdir()) == [part]
    with pytest.raises(UserError, match="broke off"):
        get(server, tmp_path)
    server.limit = None
    get(server, tmp_path)
    assert server.asked == [None, *(f"bytes={k * (len(WHOLE) // 3)}-" for k in (1, 2))]
    assert files(tmp_path) == unpacked() and not part.exists()


@pytest.mark.parametrize("ranges", ["ignored", "wrong"])
def test_a_server_that_cannot_resume_starts_again(server, tmp_path, ranges):
    server.ranges = ranges
    part = tmp_path / f"{ARCHIVE}.part"
    part.write_bytes(WHOLE[:1000])
    get(server, tmp_path)
    assert server.asked == (["bytes=1000-"] if ranges == "ignored" else ["bytes=1000-", None])
    assert files(tmp_path) == unpacked()


@pytest.mark.parametrize(("more", "asked"), [(b"", 1), (b"too much", 2)])
def test_a_part_that_is_whole_or_too_long(server, tmp_path, more, asked):
    (tmp_path / f"{ARCHIVE}.part").write_bytes(WHOLE + more)
    get(server, tmp_path)
    assert len(server.asked) == asked and files(tmp_path) == unpacked()


def test_another_archive(server, tmp_path):
    """What was sent is removed; what somebody put there is not."""
    server.content = WHOLE[:-1] + b"?"
    part = tmp_path / f"{ARCHIVE}.part"
    with pytest.raises(UserError, match=rf"SHA-256 is \w+, not \w+.*{re.escape(str(part))}' is removed.*--url"):
        get(server, tmp_path, WHOLE)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ARCHIVE).write_bytes(b"mine")
    with pytest.raises(UserError, match=rf"{re.escape(ARCHIVE)}' is not .* move it away"):
        get(server, tmp_path, WHOLE)
    assert (tmp_path / ARCHIVE).read_bytes() == b"mine"


HOSTILE = {
    "../evil": b"x",
    "bottle/../../evil": b"x",
    "/tmp/evil_of_the_archive": b"x",
    "..\\evil": b"x",
    "C:\\evil": b"x",
    "C:evil": b"x",
    "..": None,
    "out": (tarfile.SYMTYPE, "../.."),
    "absolute": (tarfile.SYMTYPE, "/etc"),
    "inside": (tarfile.SYMTYPE, "bottle"),
    "hard": (tarfile.LNKTYPE, "../secret"),
    "character device": (tarfile.CHRTYPE, ""),
    "block device": (tarfile.BLKTYPE, ""),
    "pipe": (tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("last", [False, True])
def test_hostile_members(server, tmp_path, name, last):
    members = data_set()
    server.content = pack(members | {name: HOSTILE[name]} if last else {name: HOSTILE[name]} | members)
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "sub" / "data"
    with pytest.raises(UserError, match=re.escape(f"holds {name!r}")):
        get(server, folder)
    assert [p.name for p in folder.iterdir()] == [ARCHIVE]  # 什么也没解开，也没留下半个
    assert {p.name for p in tmp_path.rglob("*")} == {"secret", "sub", "data", ARCHIVE}


def test_archives_that_cannot_be_unpacked(server, tmp_path):
    some = {name: content for name, content in data_set().items() if not name.startswith("zipper")}
    archive = re.escape(ARCHIVE)
    for content, words in {
        WHOLE[: len(WHOLE) // 2]: f"cannot unpack .*{archive}",
        WHOLE[:-500] + bytes(500): f"cannot unpack .*{archive}",
        b"<html>gone</html>": f"cannot unpack .*{archive}",
        pack(some): f"{archive}.* does not hold the classes",
    }.items():
        server.content = content
        with pytest.raises(UserError, match=words):
            get(server, tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [ARCHIVE]
        (tmp_path / ARCHIVE).unlink()


def test_a_python_without_the_filter(server, tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(UserError, match=r"cannot unpack archives safely; 3\.10\.12"):
        get(server, tmp_path)
    assert server.asked == []


def test_a_disk_that_is_too_small(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * len(WHOLE) - 1))
    with pytest.raises(UserError, match=r"free, .* are needed"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def command(*options: object, cwd=ROOT, **kwargs) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "datasets.mvtec", *map(str, options)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, encoding="utf-8", **kwargs)


def run_main(*options: object, cwd) -> subprocess.CompletedProcess:
    words = [sys.executable, str(ROOT / "main.py"), *map(str, options)]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, encoding="utf-8")


def test_the_command_refuses_another_archive(server, tmp_path):
    """As a process: the real hash, which the small archive does not have."""
    done = command("--download", tmp_path / "x", "--url", server.url, "--accept-license")
    assert done.returncode == 2 and "CC BY-NC-SA 4.0" in done.stdout
    line = error(done.stderr)
    assert download.SHA256 in line and "is removed" in line
    assert list(tmp_path.iterdir()) == []


def test_nobody_to_ask(server, tmp_path):
    done = command("--download", tmp_path / "x", "--url", server.url, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "--accept-license" in error(done.stderr)
    assert "CC BY-NC-SA 4.0" in done.stdout
    assert server.asked == [] and not (tmp_path / "x").exists()


@pytest.mark.skipif(os.name == "nt", reason="terminals and limits are POSIX's")
@pytest.mark.parametrize(("answer", "goes_on"), [(b"y\n", True), (b"\n", False), (b"no\n", False), (b"\x04", False)])
def test_asked_on_a_terminal(server, tmp_path, monkeypatch, capsys, answer, goes_on):
    import pty

    monkeypatch.setattr(download, "SHA256", hashlib.sha256(WHOLE).hexdigest())
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    with os.fdopen(theirs, encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        status = main(CLASSES, ["--download", str(tmp_path / "x"), "--url", server.url])
    os.close(ours)
    printed = capsys.readouterr()
    if goes_on:
        assert status == 0 and files(tmp_path / "x") == unpacked()
        assert printed.out.endswith(f"next: python main.py --data_path {tmp_path / 'x'}\n")
    else:
        assert status == 2 and "licen" in error(printed.err)
        assert server.asked == [] and not (tmp_path / "x").exists()


def test_the_command(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download, "SHA256", hashlib.sha256(WHOLE).hexdigest())
    options = ["--download", str(tmp_path), "--url", server.url, "--accept-license"]
    (tmp_path / "readme.txt").write_bytes(b"my own")
    assert main(CLASSES, options) == 0
    printed = capsys.readouterr().out
    assert f"wrote MVTec AD: {tmp_path}" in printed and "left as they were: readme.txt;" in printed
    assert (tmp_path / "readme.txt").read_bytes() == b"my own"
    assert main(CLASSES, ["--download", str(tmp_path)]) == 0  # 已经在了：不问，不下载
    assert f"MVTec AD is in {tmp_path} already\nnext: python main.py" in capsys.readouterr().out
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:{port}/other", "HTTP Error 404"),
        ("http://127.0.0.1:9/", "refused"),
        ("http://no.such.host.invalid/", "cannot download"),
        ("http://:::/", "cannot download"),
        ("file:///etc/passwd", "--url"),
        ("mvtec.tar.xz", "--url"),
    ],
)
def test_bad_sources(server, tmp_path, capsys, url, words):
    url = url.format(port=server.server_address[1])
    assert main(CLASSES, ["--download", str(tmp_path / "x"), "--url", url, "--accept-license"]) == 2
    line = error(capsys.readouterr().err)
    assert words in line and url in line and "--url" in line
    assert not (tmp_path / "x").exists()


def test_bad_folders(server, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(CLASSES, ["--download", str(tmp_path / "file"), "--url", server.url, "--accept-license"]) == 2
    assert repr(str(tmp_path / "file")) in error(capsys.readouterr().err)
    with pytest.raises(SystemExit, match="2"):
        main(CLASSES, [])
    assert "--download" in error(capsys.readouterr().err)


@pytest.mark.skipif(os.name == "nt", reason="terminals and limits are POSIX's")
@pytest.mark.parametrize("stage", ["downloading", "unpacking"])
def test_a_full_disk(server, tmp_path, stage):
    """The process may not write a file larger than the limit; what is downloaded is used again."""
    import resource

    picture = np.random.default_rng(1).bytes(400_000)
    server.content = pack(data_set() | {"bottle/train/good/002.png": picture})
    if stage == "unpacking":
        (tmp_path / ARCHIVE).write_bytes(server.content)
    digest = hashlib.sha256(server.content).hexdigest()
    code = (
        "import sys; from datasets import download;"
        f"download.SHA256 = {digest!r}; sys.exit(download.main({CLASSES!r}, sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, "--download", str(tmp_path), "--url", server.url, "--accept-license"]

    def limited(size: int) -> subprocess.CompletedProcess:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", preexec_fn=limit)

    done = limited(300_000)
    assert done.returncode == 2 and "File too large" in error(done.stderr)
    left = [p.name for p in tmp_path.iterdir()]
    assert left == ([f"{ARCHIVE}.part"] if stage == "downloading" else [ARCHIVE])
    done = limited(resource.RLIM_INFINITY)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == unpacked() | {"bottle/train/good/002.png": picture}
    assert server.asked == ([None, f"bytes={300_000}-"] if stage == "downloading" else [])


def test_main_names_the_command(tmp_path, monkeypatch):
    monkeypatch.delenv("MVTEC_PATH", raising=False)
    done = run_main(cwd=tmp_path)
    assert done.returncode == 2
    line = error(done.stderr)
    assert "python -m datasets.mvtec --download data/mvtec_anomaly_detection" in line.replace("\\", "/")

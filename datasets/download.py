"""Fetching MVTec AD: its licence, a download that goes on after a break, a checked archive, safe unpacking.

MVTec AD 的下载：许可、断点续传、校验、安全解包。

``python -m datasets.mvtec --download DIR`` is the command.
"""

import hashlib
import lzma
import re
import shutil
import sys
import tarfile
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from system.command import Parser, run
from system.errors import UserError
from system.files import size
from system.lock import lock

URL = (
    "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
    "420938113-1629960298/mvtec_anomaly_detection.tar.xz"
)
SHA256 = "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"
ARCHIVE = "mvtec_anomaly_detection.tar.xz"
LICENCE = """\
MVTec AD (MVTec Software GmbH) is licensed under CC BY-NC-SA 4.0: give credit, no commercial use,
pass on what you make of it under the same licence.
https://creativecommons.org/licenses/by-nc-sa/4.0/
https://www.mvtec.com/company/research/datasets/mvtec-ad"""

_BLOCK = 1 << 18  # 一次读写的字节数
_TIMEOUT = 60  # 秒；这么久没有一个字节，就算断了


def get_mvtec(folder: Path, classes: Sequence[str], url: str, sha256: str) -> list[str]:
    """Download, check and unpack the data set, so that ``folder`` holds one folder a class.

    What an earlier call left is used: an unpacked data set, an archive, a part of one. A class's
    folder appears only when all of it is unpacked; folders that are there already stay as they are.

    Parameters
    ----------
    folder : Path
        Made if it is not there; it keeps the archive, too.
    classes : sequence of str
        What the archive must hold.
    url, sha256 : str
        The archive, and the hash of its content.

    Returns
    -------
    list of str
        What was there already and was left as it was.

    Raises
    ------
    UserError
        If the archive cannot be had, is another one, or must not be unpacked, or if another process
        is at it in this folder; the message names the remedy.
    """
    if is_complete(folder, classes):
        return list(classes)
    if not hasattr(tarfile, "data_filter"):
        version = ".".join(map(str, sys.version_info[:3]))
        raise UserError(f"Python {version} cannot unpack archives safely; 3.10.12, 3.11.4 and 3.12 or later can")
    with lock(folder / ".lock", "give another --download"):
        archive = _have_archive(folder / ARCHIVE, url, sha256)
        return _unpack(archive, folder, classes)


def _have_archive(archive: Path, url: str, sha256: str) -> Path:
    """The archive, checked; downloaded if it is not there."""
    if archive.exists():
        if (found := _hash(archive)) != sha256:
            raise UserError(f"{str(archive)!r} is not MVTec AD's archive (SHA-256 {found}); move it away")
    else:
        part = archive.with_name(f"{ARCHIVE}.part")
        _fetch(url, part)
        if (found := _hash(part)) != sha256:
            part.unlink()
            raise UserError(
                f"what {url} sent is not MVTec AD's archive: its SHA-256 is {found}, not {sha256}; "
                f"{str(part)!r} is removed; try again, or give another source with --url"
            )
        part.replace(archive)
    return archive


def is_complete(folder: Path, classes: Sequence[str]) -> bool:
    """Whether every class is there."""
    return all((folder / name / "train" / "good").is_dir() for name in classes)


def _bar(what: str, total: int | None, done: int = 0) -> tqdm:
    return tqdm(total=total, initial=done, desc=what, unit="B", unit_scale=True)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file, _bar("checking", path.stat().st_size) as bar:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _request(url: str, start: int) -> HTTPResponse:
    headers = {"Range": f"bytes={start}-"} if start else {}
    return urlopen(Request(url, headers=headers), timeout=_TIMEOUT)


def _connect(url: str, have: int) -> tuple[HTTPResponse | None, int, int | None]:
    """The response, the offset at which its body begins, and the whole size; None where nothing is left to send."""
    try:
        response = _request(url, have)
    except HTTPError as problem:
        if problem.code != 416 or not have:
            raise
        if problem.headers["Content-Range"] == f"bytes */{have}":
            return None, have, have
        response = _request(url, 0)  # 已有的比整个文件还长
    if response.status == 206:
        place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers["Content-Range"] or "")
        if place and int(place[1]) == have:
            return response, have, int(place[2])
        response.close()  # 续错了地方：从头再来
        response = _request(url, 0)
    length = response.headers["Content-Length"]
    return response, 0, int(length) if length else None


def _fetch(url: str, part: Path) -> None:
    """Download to ``part``, after what is there already if the server can."""
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url!r} is no http or https address; see --url")
    try:
        response, done, total = _connect(url, part.stat().st_size if part.exists() else 0)
    except (OSError, HTTPException, ValueError) as problem:
        raise UserError(
            f"cannot download {url} ({_reason(problem)}); try again, give another source with --url, "
            f"or put the archive at {str(part.with_suffix(''))!r} yourself"
        ) from problem
    if response is None:
        return
    with response:
        # 解开后不会比压缩包小：装不下就不必开始
        free, needed = shutil.disk_usage(part.parent).free, 2 * (total or 0) - done
        if free < needed:
            raise UserError(f"{str(part.parent)!r} has {size(free)} free, {size(needed)} or more are needed")
        broken = None
        with open(part, "ab" if done else "wb") as file, _bar("downloading", total, done) as bar:
            while True:
                try:
                    block = response.read(_BLOCK)
                except (OSError, HTTPException) as problem:
                    broken = _reason(problem)
                    break
                if not block:
                    break
                file.write(block)
                bar.update(len(block))
                done += len(block)
    if broken is None and total and done < total:
        broken = "the connection was closed"
    if broken:
        whole = f" of {size(total)}" if total else ""
        raise UserError(
            f"the download broke off at {size(done)}{whole} ({broken}); the same command goes on from there"
        )


def _reason(problem: Exception) -> str:
    cause = problem.reason if type(problem) is URLError else problem
    return " ".join(str(cause).split())[:120] or type(problem).__name__


def _unpack(archive: Path, folder: Path, classes: Sequence[str]) -> list[str]:
    """Unpack into a hidden folder, then move what it holds into ``folder``, each entry in one step, if it is not there.

    What was there is returned.
    """
    temporary = folder / ".unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # 上次被杀死时留下的
    temporary.mkdir()
    try:
        bar = _bar("unpacking", archive.stat().st_size)
        with bar, open(archive, "rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as tar:
            for member in tar:
                _check_member(member, archive)
                tar.extract(member, temporary, filter="data")
                bar.update(raw.tell() - bar.n)
        if not is_complete(temporary, classes):
            raise UserError(f"{str(archive)!r} does not hold the classes of MVTec AD; give another --url")
        return [entry.name for entry in sorted(temporary.iterdir()) if not _move(entry, folder / entry.name)]
    except (tarfile.TarError, lzma.LZMAError, EOFError) as problem:
        raise UserError(f"cannot unpack {str(archive)!r} ({_reason(problem)}); remove it and run again") from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    """Raise UserError for whatever has no place in a folder of pictures."""
    paths = PurePosixPath(member.name), PureWindowsPath(member.name)
    if any(p.anchor or ".." in p.parts for p in paths):
        problem = "leads out of the folder"
    elif not (member.isreg() or member.isdir()):
        problem = "is neither a file nor a folder"
    else:
        return
    raise UserError(f"{str(archive)!r} holds {member.name!r}, which {problem}; it is not unpacked, remove it")


def _move(entry: Path, target: Path) -> bool:
    """Rename, unless the target is there; whether it was done."""
    if target.exists():
        return False
    entry.rename(target)
    return True


def ask_licence() -> None:
    """Ask on the terminal.

    Raises
    ------
    UserError
        If the answer is not yes, or nobody is there to answer.
    """
    nobody = "nobody is there to accept the licence; if you do, give --accept-license"
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError(nobody)
    try:
        answer = input("Do you accept these terms? [y/N] ")
    except EOFError:
        raise UserError(nobody) from None
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError("the licence was not accepted; nothing was downloaded")


def main(classes: Sequence[str], argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status, see `system.command.run`.

    Parameters
    ----------
    classes : sequence of str
        What the archive must hold.
    argv : list of str, optional
        The options; by default those of this process.
    """
    parser = Parser(prog="python -m datasets.mvtec", description="Fetch MVTec AD.")
    parser.add_argument("--download", type=Path, metavar="DIR", required=True, help="where its classes go")
    parser.add_argument("--accept-license", action="store_true", help="do not ask: CC BY-NC-SA 4.0 is accepted")
    parser.add_argument("--url", default=URL, help="another source of the same archive")
    args = parser.parse_args(argv)
    folder = args.download

    def work() -> None:
        try:
            if is_complete(folder, classes):
                print(f"MVTec AD is in {folder} already")
            else:
                print(LICENCE)
                if not args.accept_license:
                    ask_licence()
                if kept := get_mvtec(folder, classes, args.url, SHA256):
                    print(f"left as they were: {', '.join(kept)}; remove them and run again to have the archive's")
                print(f"wrote MVTec AD: {folder} ({ARCHIVE} in it is no longer needed)")
        except OSError as problem:
            where = str(problem.filename or folder)
            raise UserError(
                f"{where!r}: {problem.strerror or problem}; what is downloaded is kept: mend this and run again"
            ) from problem
        words = f'"{folder}"' if " " in str(folder) else folder
        print(f"next: python main.py --data_path {words}")

    return run(work, "interrupted; the same command goes on from there")

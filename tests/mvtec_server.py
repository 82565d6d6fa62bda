"""A small archive in the shape of MVTec AD's, and a server on this machine that sends it, well or badly."""

import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.download import ARCHIVE
from datasets.mvtec import CLASSES


def pack(members: dict[str, object]) -> bytes:
    """A tar.xz of files (bytes), folders (None) and other things (a type and a target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
            elif content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o555  # 只读的文件夹里也要放得进文件
            else:
                info.type, info.linkname = content
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def data_set() -> dict[str, object]:
    rng, members = np.random.default_rng(0), {"readme.txt": b"read me"}
    for name in CLASSES:
        members |= {name: None, f"{name}/train": None, f"{name}/train/good": None}
        for i in range(2):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(picture, "png")
            members[f"{name}/train/good/{i:03d}.png"] = picture.getvalue()
    return members


WHOLE = pack(data_set())


class Server(ThreadingHTTPServer):
    """Serves ``content``; ``ranges``: honoured, ignored, wrong; ``limit``: bytes after which it hangs up.

    While ``flows`` is not set, it sends half and waits.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.flows = threading.Event()
        self.flows.set()
        self.content, self.ranges, self.limit, self.tells_size, self.asked = WHOLE, "honoured", None, True, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/mvtec.tar.xz"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted, total = self.server, self.headers["Range"], len(self.server.content)
        server.asked.append(wanted)
        start = int(wanted[len("bytes=") : -1]) if wanted else 0
        if self.path != "/mvtec.tar.xz":
            return self.send_error(404)
        if server.ranges == "ignored":
            start = 0
        elif wanted and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            return self.end_headers()
        elif wanted and server.ranges == "wrong":
            start -= 1
        self.send_response(206 if wanted and server.ranges != "ignored" else 200)
        if wanted and server.ranges != "ignored":
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.tells_size:
            self.send_header("Content-Length", str(total - start))
        self.end_headers()
        end = total if server.limit is None else min(total, start + server.limit)
        half = start if server.flows.is_set() else (start + end) // 2
        self.wfile.write(server.content[start:half])
        self.wfile.flush()
        server.flows.wait()
        with suppress(OSError):  # 另一头可能已被杀死
            self.wfile.write(server.content[half:end])

    def log_message(self, *_):
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A server in a thread."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.flows.set()
        server.shutdown()
        thread.join()


def files(folder: Path) -> dict[str, bytes]:
    """Everything there but the archive."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if name != ARCHIVE}


def unpacked() -> dict[str, bytes]:
    return {name: content for name, content in data_set().items() if content is not None}


def error(text: str) -> str:
    """The one line that is no progress bar."""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line and "B/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), text
    return lines[0]

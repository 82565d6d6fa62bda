"""Mutated files: every one is read, or refused with the project's own error. Run as a process of its own.

``python tests/fuzz.py pickles --files 10000`` prints what came of them; the exit status is 1 if anything
was executed, or if reading ended otherwise. A file that takes longer than 20 seconds, or memory beyond the
limit, ends otherwise too.
"""

import argparse
import io
import pickle
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image

from datasets.images import read_header, read_picture
from datasets.masks import read_mask
from experiment.files.gaussians import map_fitted, read_fitted
from experiment.files.unpickle import Pickler
from system.errors import UserError

P, D = 12, 3
SECONDS = 20
MEGABYTES = {"pickles": 300, "pictures": 2000}  # 一张合法的图片可有 1.79 亿像素


class Payload:
    """Runs code when Python's own unpickler reads it."""

    def __reduce__(self):
        return exec, ("import sys; sys.executed = True",)


# 与被测的名单分开写：那里多放进一个名字，这里就会发现
CONSTRUCTORS = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("numpy._core.multiarray", "_reconstruct"),
}  # fmt: skip


def dumped(arrays: list[np.ndarray], protocol: int) -> bytes:
    """As numpy writes them, in protocol 5 as this program does."""
    written = io.BytesIO()
    (Pickler if protocol == 5 else pickle.Pickler)(written, protocol).dump(arrays)
    return written.getvalue()


def pickles() -> list[bytes]:
    """Arrays as every protocol and both numpys write them, and code."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((P, D, D))
    covariance = (factors @ factors.transpose(0, 2, 1) + np.eye(D)).T
    files = []
    for dtype in ("f4", "f8"):
        arrays = [rng.standard_normal((D, P)).astype(dtype), covariance.astype(dtype)]
        for protocol in range(2, 6):
            content = dumped(arrays, protocol)
            files += [content, content.replace(b"numpy._core", b"numpy.core")]  # 第二份的长度字节不对：也是一种变异
            files.append(pickle.dumps([*arrays, Payload()], protocol))
    return files + [pickle.dumps([Payload()] * 2, protocol) for protocol in range(6)]


def pictures() -> list[bytes]:
    """Small pictures of every format and mode."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    modes = {"PNG": ("RGB", "RGBA", "L", "1", "P", "I;16"), "JPEG": ("RGB", "L", "CMYK"), "BMP": ("RGB", "L", "1")}
    modes |= {"TIFF": ("RGB", "L", "I;16", "CMYK", "F"), "GIF": ("P",), "WEBP": ("RGB",), "PPM": ("RGB",)}
    files = []
    for kind, names in modes.items():
        for mode in names:
            image = rgb.convert("L").convert("I").convert("I;16") if mode == "I;16" else rgb.convert(mode)
            for options in ({}, {"exif": exif}) if kind in ("PNG", "JPEG", "TIFF") else ({},):
                image.save(file := io.BytesIO(), kind, **options)
                files.append(file.getvalue())
    for kind in ("PNG", "GIF", "TIFF"):
        rgb.save(file := io.BytesIO(), kind, save_all=True, append_images=[rgb.rotate(90)])
        files.append(file.getvalue())
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        rgb.save(file := io.BytesIO(), "TIFF", compression=compression)
        files.append(file.getvalue())
    return files


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    """One to eight changes: bytes, runs, numbers at their limits, pieces of another file, a cut."""
    content = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(content) + 1)
        length = min(rng.choice((1, 1, 2, 4, 8, 30)), len(content) - at)
        kind = rng.randrange(7)
        if kind == 0:
            content[at : at + length] = rng.randbytes(length)
        elif kind == 1:
            del content[at : at + length]
        elif kind == 2:
            content[at:at] = rng.randbytes(rng.choice((1, 2, 9)))
        elif kind == 3:
            content[at : at + length] = rng.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * length
        elif kind == 4:
            other = rng.choice(corpus)
            start = rng.randrange(len(other))
            content[at : at + length] = other[start : start + rng.choice((1, 5, 40, len(other)))]
        elif kind == 5:
            content[at:at] = content[at : at + 60]
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)


def limit(megabytes: int) -> None:
    """Let this process have so much more memory than it has, and `SECONDS` a file, where the system can."""
    if sys.platform != "linux":
        return
    import resource

    status = Path("/proc/self/status").read_text(encoding="utf-8")
    used = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(MEGABYTES))
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.what == "pickles":
        corpus: list[bytes] = pickles()
        readers: tuple[Callable, ...] = (lambda p: read_fitted(p, P, D), lambda p: map_fitted(p, P, D))
    else:
        corpus, readers = pictures(), (read_picture, read_mask, read_header)

    suspicious, watching = [], False

    def audit(event: str, arguments: tuple) -> None:
        allowed = event == "pickle.find_class" and arguments in CONSTRUCTORS  # numpy 的构造函数，别无其他
        if watching and event.startswith(("pickle.", "subprocess.", "os.", "socket.", "exec", "ctypes.dlopen")):
            suspicious.extend([] if allowed else [f"{event} {arguments}"[:200]])

    counts: Counter = Counter()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.png"
        for content in corpus:  # 预热：该装入的都装入，原样的文件也要能读或被拒
            path.write_bytes(content)
            for read in readers:
                try:
                    read(path)
                except UserError:
                    counts["refused as they are"] += 1
        sys.addaudithook(audit)
        limit(MEGABYTES[args.what])
        for _ in range(args.files):
            content = mutate(rng, corpus)
            path.write_bytes(content)
            for read in readers:
                if hasattr(signal, "alarm"):
                    signal.alarm(SECONDS)  # 超时即以信号结束整个进程
                watching = True
                try:
                    read(path)
                    outcome = "read"
                except UserError as problem:
                    outcome = "refused" if "\n" not in str(problem) else "failed otherwise"
                except BaseException:
                    traceback.print_exc()
                    outcome = "failed otherwise"
                watching = False
                counts[outcome] += 1
            if path.read_bytes() != content:
                counts["failed otherwise"] += 1
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    executed = len(suspicious) + hasattr(sys, "executed")
    print(f"{args.files} mutated {args.what}, {len(readers)} readers each", end=": ")
    print(", ".join(f"{outcome}: {counts[outcome]}" for outcome in ("read", "refused", "failed otherwise")), end=", ")
    print(f"executed: {executed}")
    for event, count in Counter(suspicious).items():
        print(f"{event}: {count}")
    return int(bool(executed or counts["failed otherwise"]))


if __name__ == "__main__":
    sys.exit(main())

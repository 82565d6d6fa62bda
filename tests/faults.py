"""Real runs of main.py, ended at random moments; what survives is held against an undisturbed run.

``python tests/faults.py --runs 20 --seed 1 2 3`` prints most of the table in experiment/README.md. Each run gets
SIGKILL, SIGTERM or Ctrl-C (SIGINT to the whole process group, as a terminal sends it) at a random moment; the next one
is started with the same command in the same folder. After every fault: each stored file that the results call
finished is there and unchanged, each file under its own name can be read, and no process is left. After at most
five faults a run is let to its end and compared: maps, pictures, arrays and figures of merit must be identical.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from datasets.sample import write_sample
from experiment.files.folder import Store
from experiment.files.gaussians import read_fitted

ROOT = Path(__file__).resolve().parent.parent
ARCH, DIMENSIONS, POSITIONS = "resnet18", 20, 3136
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130} if os.name == "posix" else {}


def write_data(root: Path) -> Path:
    """Two classes of 4 training and 3 test pictures of 64×64."""
    write_sample(root, 4, 3, 64)
    return root


def command(data: Path, out: Path, *options: str) -> list[str]:
    """A run that spends its time on starting: what it computes is tiny."""
    fixed = ["--arch", ARCH, "--weights", "random", "--rd", str(DIMENSIONS), "--figures", "1", "--num_workers", "1"]
    return [sys.executable, str(ROOT / "main.py"), *fixed, "--data_path", str(data), "--save_path", str(out), *options]


def environment() -> dict[str, str]:
    """One thread, so that a run costs others little, and its bits do not depend on the machine's load."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def finish(data: Path, out: Path, *options: str) -> subprocess.CompletedProcess:
    """A run that nothing disturbs."""
    return subprocess.run(
        command(data, out, *options), env=environment(), capture_output=True, text=True, encoding="utf-8", timeout=300
    )


def outcome(out: Path) -> dict[str, Any]:
    """What a complete run must always come to: numbers and files, but no times, dates and paths."""
    results = json.loads((out / f"results_{ARCH}.json").read_text(encoding="utf-8"))
    assert results["complete"]
    rows = {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in results["classes"].items()}
    files = {}
    for path in sorted(out.rglob("*")):
        if path.name.startswith(".lock_"):  # 算完之后、删锁之前被杀；锁的两个文件自身无碍，下一次运行删去
            continue
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                content = b"".join(k.encode() + arrays[k].tobytes() for k in sorted(arrays))
        else:
            content = path.read_bytes() if path.suffix in (".npy", ".pkl", ".png") else b""
        files[path.relative_to(out).as_posix()] = hashlib.sha256(content).hexdigest()
    return {"rows": rows, "averages": results["averages"], "files": files}


def finished_files(out: Path) -> dict[Path, str]:
    """The files of the classes that the results call finished; none where the run is complete."""
    store = Store(out, ARCH)
    results = store.read_results()
    if results is None or results["complete"]:
        return {}
    files = {}
    for name in results["run"]["finished"]:
        paths = [store.fitted(name), store.fitted(name).with_suffix(".json"), store.maps(name)]
        paths += [store.images(name), store.arrays(name), store.picture(name, 0)]
        files |= {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return files


def check_readable(out: Path) -> int:
    """Read every file that has its own name; how many there are."""
    store, count = Store(out, ARCH), 0
    store.read_results()
    for path in out.rglob("*"):
        if path.name.endswith(".tmp") or path.is_dir() or path.name.startswith(".lock_"):
            continue
        count += 1
        if path.suffix == ".pkl":
            read_fitted(path, POSITIONS, DIMENSIONS)
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".npz":
            assert store.read_arrays(path.stem)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".png":
            from PIL import Image

            Image.open(path).load()
    return count


@dataclass
class Tally:
    """What faults came to."""

    faults: Counter = field(default_factory=Counter)
    too_late: int = 0
    files_checked: int = 0
    files_lost: int = 0
    compared: int = 0
    different: int = 0
    leftovers: int = 0
    seconds: list[float] = field(default_factory=list)

    def table(self) -> str:
        """The table of experiment/README.md."""
        kinds = ", ".join(f"{count} {signal.Signals(kind).name}" for kind, count in sorted(self.faults.items()))
        rows = [
            ("runs ended from outside", f"{sum(self.faults.values())} ({kinds})"),
            ("runs that were done before the signal came", self.too_late),
            ("files read back after a fault", self.files_checked),
            ("files lost or changed", self.files_lost),
            ("temporary files left after the next complete run", self.leftovers),
            ("completed runs compared with an undisturbed one", self.compared),
            ("of these, different in any bit", self.different),
        ]
        if self.seconds:
            times = f"{statistics.median(self.seconds):.1f} s, at most {max(self.seconds):.1f} s"
            rows.append(("from SIGINT or SIGTERM to the end of the process, median", times))
        return "\n".join(["| | |", "| --- | --- |", *(f"| {what} | {value} |" for what, value in rows)])


def disturb(data: Path, out: Path, kind: signal.Signals, moment: float, reference: "Reference", tally: Tally) -> None:
    """Start a run, end it at ``moment`` (below 0: while it starts; else a part of its work), check what is left."""
    before = finished_files(out)
    process = subprocess.Popen(
        command(data, out), env=environment(), start_new_session=True, text=True, encoding="utf-8",
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    errors = ""
    if moment < 0:
        time.sleep(-moment * reference.starting)
    else:
        while "checking" not in errors and (character := process.stderr.read(1)):
            errors += character
        time.sleep(moment * reference.working)
    sent = time.perf_counter()
    if kind == signal.SIGINT:
        os.killpg(process.pid, kind)
    else:
        process.send_signal(kind)
    errors += process.communicate(timeout=60)[1]
    while _lives(process.pid) and time.perf_counter() - sent < 60:
        time.sleep(0.02)
    seconds = time.perf_counter() - sent
    assert not _lives(process.pid), "a process outlived the run"
    if _is_complete(out):
        tally.too_late += 1
    else:
        tally.faults[kind] += 1
        assert process.returncode == STATUS[kind], (process.returncode, moment, errors)
        if kind != signal.SIGKILL:
            assert "Traceback" not in errors and errors.count("interrupted; the same command") == 1, errors
            tally.seconds.append(seconds)
    for path, digest in before.items():
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            tally.files_lost += 1
    if out.exists():
        tally.files_checked += check_readable(out)


def _is_complete(out: Path) -> bool:
    results = Store(out, ARCH).read_results()
    return results is not None and results["complete"]


def _lives(group: int) -> bool:
    """Whether a process of the group is running; those that have ended and wait for init do not count."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(int(line.split()[0]) == group and "Z" not in line for line in listed.splitlines())


def compare(data: Path, out: Path, wanted: dict[str, Any], tally: Tally) -> None:
    """Let a run go to its end, if none has, and hold it against an undisturbed one."""
    if not _is_complete(out):
        run = finish(data, out)
        assert run.returncode == 0, run.stderr
        tally.leftovers += sum(path.name.endswith(".tmp") or path.name.startswith(".lock") for path in out.rglob("*"))
    tally.compared += 1
    tally.different += outcome(out) != wanted


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: what it comes to, and the seconds before and after it says "checking"."""

    wanted: dict[str, Any]
    starting: float
    working: float


def undisturbed(data: Path, out: Path) -> Reference:
    """Run once, undisturbed, and time it."""
    start, errors = time.perf_counter(), ""
    with subprocess.Popen(
        command(data, out), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        encoding="utf-8",
    ) as process:  # fmt: skip
        while "checking" not in errors and (character := process.stderr.read(1)):
            errors += character
        starting = time.perf_counter() - start
        errors += process.stderr.read()
        working = time.perf_counter() - start - starting
    assert process.returncode == 0, errors
    return Reference(outcome(out), starting, working)


def faults(data: Path, folder: Path, runs: int, seed: int, reference: Reference, tally: Tally, chain: int = 5) -> None:
    """End ``runs`` runs before they are done, at most ``chain`` in a folder before one is let to its end."""
    rng, wanted, folders = random.Random(seed), sum(tally.faults.values()) + runs, 0
    while (missing := wanted - sum(tally.faults.values())) > 0:
        out, folders = folder / f"out{folders}", folders + 1
        for _ in range(min(chain, missing)):
            moment = -rng.uniform(0.4, 1) if rng.random() < 0.2 else rng.uniform(0, 0.6)
            disturb(data, out, rng.choice(list(STATUS)), moment, reference, tally)
            if _is_complete(out):  # 信号来得太晚：这一次不算
                break
        compare(data, out, reference.wanted, tally)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="as many runs for each of several")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, tally = write_data(Path(folder) / "data"), Tally()
        reference = undisturbed(data, Path(folder) / "undisturbed")
        for seed in args.seed:
            faults(data, Path(folder) / str(seed), args.runs, seed, reference, tally)
        print(tally.table())
    return int(bool(tally.files_lost or tally.different or tally.leftovers))


if __name__ == "__main__":
    sys.exit(main())

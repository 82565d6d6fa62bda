"""Real runs of main.py, ended at random moments; what survives is held against an undisturbed run.

``python tests/faults.py --runs 20 --seed 1 2 3`` prints most of the table in experiment/README.md. Each run gets
SIGKILL, SIGTERM or Ctrl-C (SIGINT to the whole process group, as a terminal sends it) at a random moment; the next one
is started with the same command in the same folder. After every fault: each stored file that the results call
finished is there and unchanged, each file under its own name can be read, and no process is left. After at most
five faults a run is let to its end and compared: maps, pictures, arrays and figures of merit must be identical.

With ``--again`` a finished result is taken instead, and the command is given again, as it was, with ``--refit``, with
``--refit --seed 7``, … (`AGAIN`), and ended. Then every class must be as it was, or as the undisturbed second command
leaves it, in all its parts: what predict.py decides by, curves, row. SIGKILL alone may come between two renames, after
which predict.py must say so. The same command, let to its end, must come to what it comes to undisturbed.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from datasets.sample import write_sample
from experiment.files.folder import Store
from experiment.files.gaussians import read_fitted
from experiment.files.records import read_fitted_record
from experiment.report.threshold import find_thresholds
from experiment.scoring.answers import read_predictions
from system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
ARCH, DIMENSIONS, POSITIONS = "resnet18", 20, 3136
STARTS, WORKS, SCORES = "checking", "feature extraction", "scoring"  # what runs say, by which they are timed
AGAIN = {
    "the same": [],
    "refit": ["--refit"],
    "another seed": ["--refit", "--seed", "7"],
    "left-out scores": ["--leave_out", "one"],
    "no features": ["--no_features"],
}
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
        paths += [store.pictures(name), store.arrays(name), store.figure(name, 0)]
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
            name = path.stem.removeprefix("train_").removesuffix("_left_out")
            assert store.read_left_out(name) if path == store.left_out(name) else store.read_arrays(path.stem)
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


def ended(words: list[str], kind: signal.Signals, after: str, delay: float) -> tuple[int, str, float]:
    """Start a run, and end it so many seconds after it has said something.

    Returns its status, what it said on standard error, and the seconds from the signal to its end.
    """
    process = subprocess.Popen(
        words, env=environment(), start_new_session=True, text=True, encoding="utf-8",
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    errors = ""
    while after not in errors and (character := process.stderr.read(1)):
        errors += character
    time.sleep(delay)
    sent = time.perf_counter()
    if kind == signal.SIGINT:
        os.killpg(process.pid, kind)
    else:
        process.send_signal(kind)
    errors += process.communicate(timeout=60)[1]
    while _lives(process.pid) and time.perf_counter() - sent < 60:
        time.sleep(0.02)
    assert not _lives(process.pid), "a process outlived the run"
    return process.returncode, errors, time.perf_counter() - sent


def disturb(data: Path, out: Path, kind: signal.Signals, moment: tuple[str, float], tally: Tally) -> None:
    """Start a run, end it at a moment, check what is left."""
    before = finished_files(out)
    status, errors, seconds = ended(command(data, out), kind, *moment)
    if _is_complete(out):
        tally.too_late += 1
    else:
        tally.faults[kind] += 1
        check_end(kind, status, errors, tally, seconds)
    for path, digest in before.items():
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            tally.files_lost += 1
    if out.exists():
        tally.files_checked += check_readable(out)


def check_end(kind: signal.Signals, status: int, errors: str, tally: Tally, seconds: float) -> None:
    """A run that was ended says so once, whatever it was at."""
    assert status == STATUS[kind], (status, errors)
    if kind != signal.SIGKILL:
        assert "Traceback" not in errors and errors.count("interrupted; the same command") == 1, errors
        tally.seconds.append(seconds)


def parts(out: Path, name: str) -> dict[str, Any]:
    """What readers take of a class: its decisions, its curves, its row, and its unusual training pictures."""
    store = Store(out, ARCH)
    path, row = store.fitted(name), dict(store.read_results()["classes"][name])
    del row["seconds"]
    found: dict[str, Any] = {"row": row}
    record = read_fitted_record(path)
    read_fitted(path, POSITIONS, DIMENSIONS)
    found["decisions"] = find_thresholds(path, record, None, None), hashlib.sha256(path.read_bytes()).hexdigest()
    for kind, arrays in {"curves": store.read_arrays(name), "left out": store.read_left_out(name)}.items():
        found[kind] = arrays and {key: np.asarray(value).tobytes() for key, value in arrays.items()}
    found["maps"] = [hashlib.sha256(each(name).read_bytes()).hexdigest() for each in (store.maps, store.pictures)]
    return found


def check_class(out: Path, name: str, before: dict[str, Any], after: dict[str, Any], kind: signal.Signals) -> bool:
    """Whether a class is whole: as it was, or as the command makes it; of SIGKILL, also known to be in between."""
    try:
        found = parts(out, name)
    except UserError as problem:  # 两次改名之间：没有 pickle，predict.py 以一行错误结束
        return kind == signal.SIGKILL and "give its command again" in str(problem)
    if found["curves"] is None:  # 同上：小数组先删去、最后才换上
        return kind == signal.SIGKILL
    return found in (before, after)


@dataclass(frozen=True)
class Finished:
    """A finished result, and what a second command makes of it undisturbed."""

    data: Path
    out: Path
    options: list[str]
    after: Path
    reference: "Reference"

    @classmethod
    def of(cls, data: Path, out: Path, options: list[str], after: Path) -> "Finished":
        shutil.copytree(out, after)
        return cls(data, out, options, after, undisturbed(data, after, *options))


def again(finished: Finished, folder: Path, runs: int, seed: int, tally: Tally) -> None:
    """Give the second command on a copy of the finished result, end it, look at all that is left; ``runs`` times."""
    rng, names = random.Random(seed), ("flange", "linen")
    before, after = ({name: parts(out, name) for name in names} for out in (finished.out, finished.after))
    drawn = len([*finished.out.rglob("*.png")])
    for number in range(runs):
        out = shutil.copytree(finished.out, folder / f"out{number}")
        words, kind = command(finished.data, out, *finished.options), rng.choice(list(STATUS))
        results = Store(out, ARCH).results.read_bytes()
        status, errors, seconds = ended(words, kind, *finished.reference.moment(rng, 1))
        if _is_complete(out) and Store(out, ARCH).results.read_bytes() != results:
            tally.too_late += 1
        else:
            tally.faults[kind] += 1
            check_end(kind, status, errors, tally, seconds)
        tally.files_checked += check_readable(out)
        content = Store(out, ARCH).read_results()
        tally.files_lost += sum(not check_class(out, name, before[name], after[name], kind) for name in names)
        if content["classes"] == json.loads(results)["classes"]:  # 秒数也相同：没有一行是新的，结论就还在
            assert Store(out, ARCH).results.read_bytes() == results, "no new row, and yet another file"
        if kind != signal.SIGKILL and status:
            assert len([*out.rglob("*.png")]) >= drawn - 2, "figures went before theirs were drawn"
        run = finish(finished.data, out, *finished.options)
        assert run.returncode == 0, run.stderr
        tally.leftovers += sum(path.name.endswith(".tmp") or path.name.startswith(".lock") for path in out.rglob("*"))
        tally.compared += 1
        tally.different += outcome(out) != finished.reference.wanted
        shutil.rmtree(out)


def prediction(model: Path, pictures: Path, out: Path) -> list[str]:
    """predict.py into a folder, a picture at a time."""
    fixed = ["--model", str(model), "--out", str(out), "--batch_size", "1", "--num_workers", "1"]
    return [sys.executable, str(ROOT / "predict.py"), *fixed, *[str(pictures)] * 30]


def predicted(out: Path) -> dict[str, Any]:
    """Rows, the record of all but for its date, and the figures of a prediction."""
    record = read_predictions(out)
    return {
        "rows": (out / "predictions.csv").read_text(encoding="utf-8").splitlines(keepends=True),
        "record": None if record is None else {k: v for k, v in record.items() if k != "date"},
        "figures": {p.relative_to(out).as_posix() for p in (out / "pictures").rglob("*.png")},
    }


def predict_again(data: Path, finished: Path, folder: Path, runs: int, seed: int, tally: Tally) -> None:
    """Predict into a folder where another prediction is, and end it: ``runs`` times."""
    rng, model = random.Random(seed), Store(finished, ARCH).fitted("linen")
    outs = [folder / "before", folder / "after"]
    for out, pictures in zip(outs, ("test", "train"), strict=True):
        (working,) = timed(prediction(model, data / "linen" / pictures, out), SCORES)
    before, after = map(predicted, outs)
    for number in range(runs):
        out, kind = shutil.copytree(outs[0], folder / f"out{number}"), rng.choice(list(STATUS))
        words = prediction(model, data / "linen" / "train", out)
        status, errors, seconds = ended(words, kind, SCORES, rng.uniform(0, 1) * working)
        found = predicted(out)
        if found == after:
            tally.too_late += 1
        else:
            tally.faults[kind] += 1
            assert status == STATUS[kind] and "Traceback" not in errors, (status, errors)
            if kind != signal.SIGKILL:
                tally.seconds.append(seconds)
        rows = found["rows"]
        is_new = rows == after["rows"][: len(rows)] and found["figures"] <= after["figures"] | before["figures"]
        tally.files_lost += not (found == before or (is_new and found["record"] in (None, after["record"])))
        tally.files_checked += len(found["figures"]) + 1
        shutil.rmtree(out)


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
    """An undisturbed run: what it comes to, the seconds before and after its first features."""

    wanted: dict[str, Any]
    starting: float
    working: float

    def moment(self, rng: random.Random, most: float) -> tuple[str, float]:
        """What a run has said, and seconds after it: one in five while it starts, else up to this part of its work."""
        if rng.random() < 0.2:
            return STARTS, rng.uniform(0, 1) * self.starting
        return WORKS, rng.uniform(0, most) * self.working


def undisturbed(data: Path, out: Path, *options: str) -> Reference:
    """Run once, undisturbed, and time it."""
    starting, working = timed(command(data, out, *options), STARTS, WORKS)
    return Reference(outcome(out), starting, working)


def timed(words: list[str], *said: str) -> list[float]:
    """Run a command to its end; the seconds from each thing that it says to the next, and from the last to the end."""
    errors, times = "", []
    with subprocess.Popen(
        words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    ) as process:  # fmt: skip
        for each in said:
            while each not in errors and (character := process.stderr.read(1)):
                errors += character
            times.append(time.perf_counter())
        errors += process.stderr.read()
    assert process.returncode == 0, errors
    return [after - before for before, after in pairwise([*times, time.perf_counter()])]


def faults(data: Path, folder: Path, runs: int, seed: int, reference: Reference, tally: Tally, chain: int = 5) -> None:
    """End ``runs`` runs before they are done, at most ``chain`` in a folder before one is let to its end."""
    rng, wanted, folders = random.Random(seed), sum(tally.faults.values()) + runs, 0
    while (missing := wanted - sum(tally.faults.values())) > 0:
        out, folders = folder / f"out{folders}", folders + 1
        for _ in range(min(chain, missing)):
            disturb(data, out, rng.choice(list(STATUS)), reference.moment(rng, 0.6), tally)
            if _is_complete(out):  # 信号来得太晚：这一次不算
                break
        compare(data, out, reference.wanted, tally)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="as many runs for each of several")
    parser.add_argument("--again", action="store_true", help="on a finished result: so many runs of each kind")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, tally = write_data(Path(folder) / "data"), Tally()
        reference = undisturbed(data, Path(folder) / "undisturbed")
        for seed in args.seed:
            for kind, options in AGAIN.items() if args.again else ():
                own = Path(folder) / str(seed) / kind
                finished = Finished.of(data, Path(folder) / "undisturbed", options, own / "after")
                again(finished, own, args.runs, seed, tally)
            if args.again:
                own = Path(folder) / str(seed) / "predictions"
                predict_again(data, Path(folder) / "undisturbed", own, args.runs, seed, tally)
                continue
            faults(data, Path(folder) / str(seed), args.runs, seed, reference, tally)
        print(tally.table())
    return int(bool(tally.files_lost or tally.different or tally.leftovers))


if __name__ == "__main__":
    sys.exit(main())

"""Speed and memory of main.py against a textbook implementation, in one run.

main.py 的速度与内存，与教科书实现在同一次运行中对照。

python benchmarks/run.py                    resnet18 and wide_resnet50_2, a class of 209 + 83 pictures of 900×900
python benchmarks/run.py --latency          one image at a time, also as exported
python benchmarks/run.py --half             what export.py --half does to size, maps and ROC AUC
python benchmarks/run.py --precision        what tf32 and bf16 do to speed, maps and ROC AUC
python benchmarks/run.py --scaling          fit time and peak memory for 100, 400 and 1600 images
python benchmarks/run.py --scaling --test 100 500 2000    the same of evaluating test sets
python benchmarks/run.py --ranks 1,2        speed-up of several processes, and their time in communication
python benchmarks/run.py --method spade     a predecessor: fit and score against the network alone and a textbook
"""

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from benchmarks.report import show
from benchmarks.tree import measure
from datasets.sample import write_sample
from experiment.methods import METHODS
from system import command
from system.resources import cores

NAME = "flange"
TEXTBOOK, WITHOUT = ("resnet18", "wide_resnet50_2"), "efficientnet_lite0"  # 后者不在公开脚本里，没有教科书可比
PREDECESSORS = {name: method.arch for name, method in METHODS.items() if name != "padim"}
WALKED = 3  # 教科书 SPADE 所算的测试图片数：一张要近一分钟


def core(what: str, *options: object, script: str = "core.py") -> dict:
    """One measurement of benchmarks/core.py, or another script there, in a process of its own."""
    measured = measure([sys.executable, str(ROOT / "benchmarks" / script), what, *map(str, options)], ROOT)
    return json.loads(measured.stdout) | {"tree_peak_memory_bytes": measured.peak_memory_bytes}


def compare(arch: str, data: Path, work: Path, device: str, rounds: int) -> dict:
    """The textbook, main.py and the floor, each in a process of its own, all on one device and in float32."""
    out, on = work / f"textbook_{arch}", ["--arch", arch, "--device", device]
    words = [sys.executable, str(ROOT / "benchmarks" / "textbook.py"), *on, "--data", str(data)]
    textbook = measure([*words, "--name", NAME, "--out", str(out)], ROOT)
    said = json.loads(textbook.stdout.splitlines()[-1])

    save = work / f"padim_{arch}"
    words = [sys.executable, str(ROOT / "main.py"), *on, "--weights", "random", "--refit"]
    padim = measure([*words, "--data_path", str(data), "--classes", NAME, "--save_path", str(save)], ROOT)
    results = json.loads((save / f"results_{arch}.json").read_text(encoding="utf-8"))
    row = results["classes"][NAME]

    theirs, ours = np.load(out / "maps.npy"), np.load(save / f"scores_{arch}" / f"{NAME}_maps.npy")
    floor = core("floor", *on, "--data", data, "--name", NAME, "--rounds", rounds)
    ratios = {
        "end to end": textbook.seconds / padim.seconds,
        "fit and score / forward": floor["ratio"],
    }
    if textbook.peak_memory_bytes and padim.peak_memory_bytes:
        ratios["peak memory"] = textbook.peak_memory_bytes / padim.peak_memory_bytes
    return {
        "textbook": {
            "stages": said["stages"],
            "end_to_end": textbook.seconds,
            "peak_memory_bytes": textbook.peak_memory_bytes,
        },
        "padim": {
            "stages": row["seconds"],
            "end_to_end": padim.seconds,
            "peak_memory_bytes": padim.peak_memory_bytes,
        },
        "floor": floor,
        "ratios": ratios,
        "agreement": {
            "raw maps, largest relative deviation": float((np.abs(ours - theirs) / theirs).max()),
            "image ROC AUC": row["image_rocauc"] - said["image_rocauc"],
            "pixel ROC AUC": row["pixel_rocauc"] - said["pixel_rocauc"],
            "threshold": row["threshold"] - said["threshold"],
        },
    }


def predecessor(method: str, arch: str, data: Path, work: Path, device: str, rounds: int) -> dict:
    """SPADE or MahalanobisAD; beside SPADE its textbook, on a few test pictures of the same class."""

    def run(script: str, *options: object) -> dict:
        words = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, options), "--arch", arch]
        measured = measure([*words, "--device", device, "--data", str(data), "--name", NAME], ROOT)
        return json.loads(measured.stdout.splitlines()[-1]) | {"tree_peak_memory_bytes": measured.peak_memory_bytes}

    own, walked = work / f"{method}.npz", work / "spade_textbook.npz"
    entry = {method: run("predecessor.py", method, "--out", own, "--rounds", rounds)}
    if method == "spade":
        entry["textbook"] = run("spade_textbook.py", "--images", WALKED, "--out", walked)
        entry["ratios"] = {"an image": entry["textbook"]["an image"] / entry["spade"]["an image"]}
        with np.load(walked) as theirs, np.load(own) as ours:
            deviations = {key: np.abs(ours[key][:WALKED] / theirs[key] - 1).max() for key in theirs}
        entry["agreement"] = {f"{key}, largest relative deviation": float(x) for key, x in deviations.items()}
    return entry


def divided(arch: str, data: Path, work: Path, device: str, ranks: int) -> dict:
    """main.py on so many processes, each with its part of the cores; one class, so that its images are divided."""
    save, threads = work / f"ranks_{ranks}_{arch}", max(1, cores() // ranks)
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks), "--"] if ranks > 1 else []
    )
    words = [sys.executable, *launcher, str(ROOT / "main.py"), "--arch", arch, "--weights", "random", "--refit"]
    words += ["--device", device, "--data_path", str(data), "--classes", NAME, "--save_path", str(save)]
    measured = measure(words, ROOT, {"OMP_NUM_THREADS": str(threads)})
    seconds = json.loads((save / f"results_{arch}.json").read_text(encoding="utf-8"))["classes"][NAME]["seconds"]
    spent = seconds.get("communication", 0.0)
    return {
        "threads a process": threads,
        "cores a process": cores() / ranks,
        "end_to_end": measured.seconds,
        "stages": seconds,
        "communication, share of the class": spent / seconds["total"],
        "peak_memory_bytes": measured.peak_memory_bytes,
    }


def numbers(text: str) -> list[int]:
    """``1,2`` as [1, 2], each at least 1."""
    if min(found := [int(each) for each in text.split(",")]) < 1:
        raise ValueError
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    title, _, examples = __doc__.split("\n\n")
    description = f"{title}\n\n{examples}"
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", choices=[*TEXTBOOK, WITHOUT])
    parser.add_argument("--latency", action="store_true", help="one image at a time, also as exported")
    parser.add_argument("--half", action="store_true", help="what export.py --half does to size, maps and ROC AUC")
    parser.add_argument("--precision", action="store_true", help="what tf32 and bf16 do to speed, maps and ROC AUC")
    parser.add_argument("--scaling", action="store_true", help="fit time and peak memory for more and more images")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 400, 1600], help="numbers for --scaling")
    parser.add_argument("--side", type=int, default=224, help="side of the images of --scaling (default 224)")
    parser.add_argument("--ranks", type=numbers, help="numbers of processes, 1,2 for instance")
    parser.add_argument("--method", choices=sorted(PREDECESSORS), help="a predecessor instead of PaDiM")
    parser.add_argument("--train", type=int, default=209, help="training pictures (default 209)")
    parser.add_argument("--test", type=int, nargs="+", help="test pictures (default 83); for --scaling several numbers")
    parser.add_argument("--size", type=int, default=900, help="side in pixels (default 900)")
    parser.add_argument("--device", default="auto", help="of all that is compared (default auto)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of floor and fit (default 3)")
    parser.add_argument("--work", type=Path, default=Path("data/benchmark"), help="pictures and results go here")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    args = parser.parse_args(argv)
    measures_alone = args.latency or args.half or args.precision or args.scaling or args.ranks or args.method
    if not measures_alone and WITHOUT in (args.arch or ()):
        parser.error(f"--arch {WITHOUT} has no textbook; add --latency, --half, --precision, --scaling or --ranks")
    return command.run(lambda: measure_all(args))


def measure_all(args: argparse.Namespace) -> None:
    """Measure what is wanted, network by network, and keep each one's figures as soon as they are there."""
    from padim.device import pick_device

    pick_device(args.device)  # 用不了的设备，现在就说
    args.work = args.work.resolve()
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {cores()} cores, {platform.system()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "architectures": {},
    }
    n_test = (args.test or [83])[0]
    data = args.work / f"pictures_{args.train}_{n_test}_{args.size}"
    if not (args.latency or args.scaling or data.exists()):
        write_sample(data, args.train, n_test, args.size)
    if args.scaling and args.test:
        report["evaluation"] = {f"N = {n}": core("evaluation", "--images", n) for n in args.test}
        show("evaluation", report["evaluation"])
        _keep(report, args.json)
        return
    every = [*TEXTBOOK, WITHOUT] if args.latency or args.half else TEXTBOOK
    for arch in args.arch or ([PREDECESSORS[args.method]] if args.method else every):
        on = "--arch", arch, "--device", args.device
        if args.method:
            entry = predecessor(args.method, arch, data, args.work, args.device, args.rounds)
        elif args.latency:
            entry = core("latency", *on, "--rounds", 50)
            entry["exported"] = core("latency", *on[:2], "--work", args.work, script="exported.py")
        elif args.half:
            where = "--data", data, "--name", NAME, "--work", args.work
            entry = core("half", *on[:2], *where, script="exported.py")
        elif args.precision:
            entry = core("precisions", *on, "--data", data, "--name", NAME, "--rounds", args.rounds)
        elif args.scaling:
            side = "--side", args.side
            entry = {f"N = {n}": core("scaling", *on, "--images", n, *side) for n in args.images}
        elif args.ranks:
            entry = {f"{k} processes": divided(arch, data, args.work, args.device, k) for k in args.ranks}
            first = next(iter(entry.values()))
            for each in entry.values():
                each["speed-up of the class"] = first["stages"]["total"] / each["stages"]["total"]
        else:
            entry = compare(arch, data, args.work, args.device, args.rounds)
        report["architectures"][arch] = entry
        show(arch, entry)
        _keep(report, args.json)


def _keep(report: dict[str, Any], file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {file}")


if __name__ == "__main__":
    sys.exit(main())

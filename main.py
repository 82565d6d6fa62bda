"""PaDiM on MVTec AD, or on any folder in its layout: fit, score, evaluate, draw, class by class."""

# torch 等在函数里装入：--help 与参数错误立刻回答，绘图子进程重新导入本文件时也不必装入它

import _thread
import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.mvtec import MVTecDataset
    from padim.figures import FigurePool
    from padim.model import PaDiM
    from padim.results import Stopwatch
    from padim.store import Store


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with every default resolved."""

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:
            self.exit(2, f"error: {message}; see --help\n")

    def at_least(low: int):
        def number(text: str) -> int:
            if int(text) < low:
                raise ValueError
            return int(text)

        number.__name__ = f"integer (at least {low})"  # argparse 报错时以此称呼
        return number

    def figures(text: str) -> str | int:
        return text if text in ("all", "none") else at_least(0)(text)

    figures.__name__ = "choice ('all', 'none' or a number)"
    workers = max(1, min(8, (os.cpu_count() or 1) - 1))
    parser = Parser(prog="main.py", description=__doc__)
    add = parser.add_argument
    add("--arch", choices=["resnet18", "wide_resnet50_2"], help="backbone (default wide_resnet50_2)")
    add("--data_path", type=Path, help="one folder a class (default $MVTEC_PATH, else data/mvtec_anomaly_detection)")
    add("--save_path", type=Path, help="where results go (default mvtec_result)")
    add("--classes", nargs="+", metavar="NAME", help="default: the MVTec AD classes that are there, else all found")
    add("--weights", help="imagenet (default), random, or the path of a state dict")
    add("--seed", type=int, default=1024, help="of the random choice of channels (default 1024)")
    add("--rd", type=at_least(1), help="channels kept (default 100 for resnet18, 550 for wide_resnet50_2)")
    add("--batch_size", type=at_least(1), default=32, help="images a forward pass (default 32)")
    add("--num_workers", type=at_least(0), default=workers, help="decoding threads (default %(default)s)")
    add("--device", default="auto", help="auto (default: CUDA if there is one), cpu, cuda or cuda:N")
    precisions = ["float32", "tf32", "bf16"]
    add("--precision", choices=precisions, default="float32", help="float32 (default), tf32 (GPU), bf16")
    add("--figures", type=figures, default="all", metavar="N", help="a class: all (default), none, a number")
    add("--no_features", action="store_true", help="neither read nor write the pickled training features")
    add("--refit", action="store_true", help="replace what is stored, whatever made it")
    add("--demo", action="store_true", help="run on procedural sample data with random weights; needs no network")
    args = parser.parse_args(argv)
    if args.demo and args.data_path:
        parser.error("--demo brings its own data; leave out --data_path")
    demo = args.demo
    args.arch = args.arch or ("resnet18" if demo else "wide_resnet50_2")
    args.weights = args.weights or ("random" if demo else "imagenet")
    args.save_path = args.save_path or Path("mvtec_result/demo" if demo else "mvtec_result")
    default_data = "data/sample" if demo else os.environ.get("MVTEC_PATH") or "data/mvtec_anomaly_detection"
    args.data_path = args.data_path or Path(default_data)
    return args


def experiment(args: argparse.Namespace, pool: "FigurePool") -> None:
    """The whole experiment, class by class; the user's mistakes are raised as the modules' own errors.

    Localization figures are drawn by ``pool`` while the next class is computed.
    """
    from tqdm import tqdm

    from datasets.mvtec import PREPROCESSING, MVTecDataset, check_class, find_classes
    from datasets.sample import write_sample
    from padim import memory
    from padim import results as report
    from padim.device import pick_device
    from padim.figures import chosen_figures, roc_figure
    from padim.model import PaDiM
    from padim.store import CONFIGURATION, Store, stored_features

    start = time.perf_counter()
    if args.demo and not args.data_path.exists():
        write_sample(args.data_path)

    # 先查后做：能预先发现的错误都在第一次拟合之前报出，此前不写任何结果
    device = pick_device(args.device)
    classes = find_classes(args.data_path, args.classes)
    sizes = {name: check_class(args.data_path, name) for name in tqdm(classes, desc="checking", unit="class")}
    store = Store(args.save_path, args.arch)
    store.check_writable()
    model = PaDiM(args.arch, args.weights, args.rd, args.seed, device, precision=args.precision)
    for name in classes:
        memory.check(model, name, args.batch_size, *sizes[name])
    made_from = model.provenance() | {"preprocessing": PREPROCESSING}
    for name in [] if args.refit or args.no_features else classes:
        stored_features(store.features(name), made_from)
    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    configuration = {key: made_from[key] for key in CONFIGURATION}
    results = report.begin(store, options, configuration, args.refit)
    results["run"] |= describe_run(model)
    reference = published_reference(model.is_imagenet)
    finished = results["run"]["finished"]
    if finished:
        print(f"going on with the interrupted run; finished already: {', '.join(finished)}")
    store.write_results(results)

    drawing = None  # 上一类的图，与本类的计算同时画
    try:
        for name in [name for name in classes if name not in finished]:
            watch = report.Stopwatch()
            train, test = (MVTecDataset(args.data_path, name, split) for split in (True, False))
            with watch.stage("total"):
                fit_or_load(model, train, name, store, args, watch)
                row = score_and_evaluate(model, test, name, store, args, watch)
            row |= {"n_train": len(train), "n_test": len(test), "seconds": watch.seconds}
            results["classes"][name] = report.compare(row, reference.of(name, args.arch))
            results["averages"] = report.averages(results["classes"], reference, args.arch)
            store.write_results(results)
            print(report.line(name, row), flush=True)
            last, drawing = drawing, (name, pool.draw(store, name, chosen_figures(len(test), args.figures)))
            finish_figures(last, results, store)
    except Exception:  # 已算完的类、已拟合的特征，不因后来的错误而作废
        try:
            model.finish_saving()
        finally:
            finish_figures(drawing, results, store)
        raise
    finish_figures(drawing, results, store)

    roc_figure(report.curves(results, store), store.roc_curve)
    results["run"] |= {"seconds": round(time.perf_counter() - start, 1), "peak_memory_bytes": report.peak_memory()}
    results["complete"] = True
    store.write_results(results)
    print(f"\n{report.table(results, args.arch)}\n")
    for what, path in store.written():
        print(f"wrote {what}: {path}")
    if args.weights == "random":
        print("\nThese weights are random: the figures above check the program, not the method.")
        print("The real result: python main.py --arch wide_resnet50_2 --data_path FOLDER_OF_MVTEC_AD")


def fit_or_load(
    model: "PaDiM", train: "MVTecDataset", name: str, store: "Store", args: argparse.Namespace, watch: "Stopwatch"
) -> None:
    """Leave the class's Gaussians in the model: the stored ones if they are this run's, else fitted."""
    from datasets.mvtec import PREPROCESSING
    from padim.store import DamagedError, stored_features

    path, source, state = store.features(name), {"preprocessing": PREPROCESSING}, "none"
    if not args.no_features:
        with watch.stage("fingerprint"):
            source["training_files"] = train.fingerprint()
        if not args.refit:
            state = stored_features(path, model.provenance() | source)
    if state == "same":
        try:
            with watch.stage("load"):
                model.load(path)
            print(f"{name}: using the stored features {path}")
            return
        except DamagedError:
            state = "damaged"
    if state == "damaged":
        print(f"warning: {path} is damaged; fitting {name} again", file=sys.stderr)
    elif state == "other data":
        print(f"{name}: the training pictures have changed since {path} was made; fitting again")
    with watch.stage("fit"):
        model.fit(images for images, _, _ in loading(train, "train", name, args))
    if not args.no_features:
        model.save_in_background(path, **source)


def score_and_evaluate(
    model: "PaDiM", test: "MVTecDataset", name: str, store: "Store", args: argparse.Namespace, watch: "Stopwatch"
) -> dict[str, Any]:
    """Score a class's test set, write its maps, pictures and arrays, and return its results."""
    import numpy as np

    from datasets.mvtec import to_pictures
    from padim.metrics import evaluate_maps

    if not len(test):
        with watch.stage("save"):
            model.finish_saving()
        store.clear_scores(name)
        print(f"{name}: no test pictures; its features are stored, and nothing is scored")
        return {"image_rocauc": None, "pixel_rocauc": None, "threshold": None}
    masks, centres, scored = [], [], 0
    with store.score_files(name, (len(test), *model.size)) as (maps, pictures):

        def images() -> Iterator[Any]:
            loaded = 0
            for batch, _, mask in loading(test, "test", name, args):
                pictures[loaded : loaded + len(batch)] = to_pictures(batch)
                masks.append(mask[:, 0].numpy())  # (B, 224, 224)
                loaded += len(batch)
                yield batch

        with watch.stage("score"):
            for scores in model.score(images()):
                maps[scored : scored + len(scores.maps)] = scores.maps
                centres.append(scores.centre)
                scored += len(scores.maps)
            model.release()  # 评估不需要高斯，先让出内存
        with watch.stage("evaluate"):
            truth = np.concatenate(masks) if test.has_masks else None
            arrays, row = evaluate_maps(maps, test.labels, truth)
    store.clear_pictures(name)
    store.write_arrays(name, arrays | {"files": np.array(test.names()), "patches": np.concatenate(centres)})
    return row


def loading(dataset: "MVTecDataset", split: str, name: str, args: argparse.Namespace) -> Iterator[tuple]:
    """The data set's batches, with a progress bar."""
    from tqdm import tqdm

    from datasets.loader import batches

    with tqdm(total=len(dataset), desc=f"feature extraction | {split} | {name}", unit="image") as bar:
        for batch in batches(dataset, args.batch_size, args.num_workers):
            yield batch
            bar.update(len(batch[0]))


def finish_figures(drawing: tuple | None, results: dict[str, Any], store: "Store") -> None:
    """Wait for a class's figures, with a progress bar; only then the class is finished."""
    from tqdm import tqdm

    if drawing is None:
        return
    name, futures = drawing
    for future in tqdm(futures, desc=f"localization figures | test | {name}", unit="batch", disable=not futures):
        future.result()
    results["run"]["finished"].append(name)
    store.write_results(results)


def published_reference(is_imagenet: bool) -> Any:
    """The published table, to compare with; empty for other weights than ImageNet's."""
    from datasets.mvtec import CLASSES, OBJECTS, TEXTURES, published
    from padim.results import Reference

    groups = {"textures": TEXTURES, "objects": OBJECTS, "all": CLASSES}
    return Reference(groups, published() if is_imagenet else {})


def describe_run(model: "PaDiM") -> dict[str, Any]:
    """What it takes to repeat a run, and where it ran."""
    from padim.device import describe_device

    return {
        "command": shlex.join(["python", *sys.argv]),
        "versions": model.provenance()["versions"],
        "device": describe_device(model.device),
        "host": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):  # 控制台的编码写不出的字，不值得中断实验
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    args = parse(argv)
    # 等在栅栏前的 OpenMP 线程让出核，给解码线程用；须在装入 torch 之前
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from padim.figures import FigurePool

    def again(unraisable: Any) -> None:
        # 落在析构函数里的 Ctrl-C 会被解释器吞掉：再发一次
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _thread.interrupt_main()
        else:
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, again
    try:
        with FigurePool() as pool:
            if args.figures not in ("none", 0):
                pool.warm_up()  # 绘图进程与主进程同时装入各自的库
            status = attempt(args, pool)
    except KeyboardInterrupt:
        sys.unraisablehook = lambda _: None  # 构造到一半的进度条，其析构的抱怨不值得一提
        print("interrupted; the same command goes on from the last finished class", file=sys.stderr)
        return 130
    sys.unraisablehook = before
    return status


def attempt(args: argparse.Namespace, pool: "FigurePool") -> int:
    """The experiment, with the user's mistakes as one line on stderr; returns the exit status."""
    from torch import OutOfMemoryError

    from datasets.images import DataError
    from padim.backbone import WeightsError
    from padim.device import DeviceError
    from padim.embedding import DimensionError
    from padim.gaussian import NotPositiveDefiniteError
    from padim.memory import TooLargeError
    from padim.metrics import NotFiniteError
    from padim.store import StoreError

    try:
        experiment(args, pool)
        return 0
    except (DataError, WeightsError, StoreError, DeviceError, TooLargeError) as problem:
        message = str(problem)
    except DimensionError as problem:
        message = f"{problem}; give a smaller --rd"
    except (NotPositiveDefiniteError, NotFiniteError) as problem:
        message = f"{problem}: the features are not finite or far out of scale; try other --weights"
    except (MemoryError, OutOfMemoryError):
        message = "out of memory; a smaller --batch_size or --rd needs less"
    except OSError as problem:
        where = f"{problem.filename!r}: " if problem.filename else ""
        message = f"{where}{problem.strerror or problem}; see --save_path and --data_path"
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

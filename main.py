"""PaDiM on MVTec AD, or on any folder in its layout: fit, score, evaluate, draw, class by class."""

# torch 等在函数里装入：--help 与参数错误立刻回答，绘图子进程重新导入本文件时也不必装入它

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim.command import Parser, at_least, complete, experiment_options, leave, load, run

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from datasets.mvtec import MVTecDataset
    from padim.figures import FigurePool
    from padim.model import PaDiM
    from padim.results import Stopwatch
    from padim.store import Store


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with every default resolved."""

    def figures(text: str) -> str | int:
        return text if text in ("all", "none") else at_least(0)(text)

    figures.__name__ = "choice ('all', 'none' or a number)"
    parser = Parser(prog="main.py", description=__doc__)
    experiment_options(parser)
    add = parser.add_argument
    add("--rd", type=at_least(1), help="channels kept (default 100 for resnet18, 550 for wide_resnet50_2, else all)")
    reduction = "how fewer channels come about: random (default), or pca, the principal components"
    add("--reduction", choices=["random", "pca"], default="random", help=reduction)
    add("--figures", type=figures, default="all", metavar="N", help="a class: all (default), none, a number")
    add("--no_features", action="store_true", help="neither read nor write the pickled training features")
    add("--refit", action="store_true", help="replace what is stored, whatever made it")
    add("--demo", action="store_true", help="run on procedural sample data with random weights; needs no network")
    args = parser.parse_args(argv)
    if args.demo and args.data_path:
        parser.error("--demo brings its own data; leave out --data_path")
    if args.demo:
        sample = {"data_path": Path("data/sample"), "save_path": Path("mvtec_result/demo")}
        complete(args, arch="resnet18", weights="random", **sample)
    else:
        complete(args, arch="wide_resnet50_2")
    return args


def experiment(args: argparse.Namespace, pool: "FigurePool", held: ExitStack) -> None:
    """The whole experiment, class by class; the user's mistakes are raised as the modules' own errors.

    Localization figures are drawn by ``pool`` while the next class is computed. ``held`` gets the lock.
    """
    from tqdm import tqdm

    from datasets.mvtec import MVTecDataset, check_class, common_size, find_classes, locate
    from datasets.preprocessing import Preprocessing
    from datasets.sample import write_sample
    from padim import memory
    from padim import results as report
    from padim.device import pick_device
    from padim.figures import chosen_figures, roc_figure
    from padim.model import PaDiM
    from padim.store import CONFIGURATION, Store, stored_features
    from padim.threshold import hold_out
    from padim.verdict import departures, sentence, verdict

    start = time.perf_counter()
    if args.demo and not args.data_path.exists():
        write_sample(args.data_path)

    # 先查后做：能预先发现的错误都在第一次拟合之前报出，此前不写任何结果
    device = pick_device(args.device)
    preprocessing = Preprocessing(args.resize, args.crop, args.protocol, args.seed)
    root, wanted = locate(args.data_path, args.classes)
    classes = find_classes(root, wanted)
    checked = {name: check_class(root, name, preprocessing) for name in tqdm(classes, desc="checking", unit="class")}
    store = Store(args.save_path, args.arch)
    store.check_writable()
    size = common_size(checked)
    chosen = {"precision": args.precision, "layers": args.layers, "reduction": args.reduction}
    model = PaDiM(args.arch, args.weights, args.rd, args.seed, device, size, **chosen)
    for name in classes:
        memory.check(model, name, args.batch_size, checked[name].n_train, checked[name].n_test)
    held.enter_context(store.locked())
    made_from = model.provenance() | {"preprocessing": preprocessing.record()}
    for name in [] if args.refit or args.no_features else classes:
        stored_features(store.features(name), made_from)
    options = json.loads(json.dumps(vars(args), default=str))  # 与读回的同形，才比得出是否同一条命令
    configuration = {key: made_from[key] for key in CONFIGURATION}
    results = report.begin(store, options, configuration, args.refit)
    results["run"] |= describe_run(model)
    is_published = preprocessing.is_published and args.layers is None and args.reduction == "random"
    reference = published_reference(model.is_imagenet and is_published)
    finished = results["run"]["finished"]
    if finished:
        print(f"going on with the interrupted run; finished already: {', '.join(finished)}")
    store.write_results(results)

    drawing = None  # 上一类的图，与本类的计算同时画
    try:
        for name in [name for name in classes if name not in finished]:
            store.check_there()
            watch = report.Stopwatch()
            train, test = (MVTecDataset(root, name, split, preprocessing) for split in (True, False))
            with watch.stage("total"):
                with watch.stage("fingerprint"):
                    data = {"training_files": train.fingerprint(), "test_files": test.fingerprint()}
                held_out = None if test.is_labelled or args.no_features else hold_out(len(train), args.seed)
                fit_or_load(model, train, name, store, args, watch, held_out, data["training_files"])
                row = score_and_evaluate(model, test, name, store, args, watch)
            row |= {"n_train": len(train), "n_test": len(test), "seconds": watch.seconds} | data
            results["classes"][name] = report.compare(row, reference.of(name, args.arch))
            results["averages"] = report.averages(results["classes"], reference, args.arch)
            store.write_results(results)
            print(report.line(name, row), flush=True)
            last, drawing = drawing, (name, pool.draw(store, name, chosen_figures(len(test), args.figures)))
            finish_figures(last, results, store)
    except KeyboardInterrupt:
        model.abort_saving()
        raise
    except Exception:  # 已算完的类、已拟合的特征，不因后来的错误而作废
        try:
            model.finish_saving()
        finally:
            finish_figures(drawing, results, store)
        raise

    store.check_there()
    roc_figure(report.curves(results, store), store.roc_curve)  # 此时最后一类的图还在画
    finish_figures(drawing, results, store)
    results["run"] |= {"seconds": round(time.perf_counter() - start, 1), "peak_memory_bytes": report.peak_memory()}
    results["verdict"] = verdict(results["classes"], reference, args.arch, departures(vars(args), vars(parse([]))))
    results["complete"] = True
    store.write_results(results)
    print(f"\n{report.table(results, args.arch)}\n")
    for what, path in store.written():
        print(f"wrote {what}: {path}")
    print(f"\n{sentence(results['verdict'])}")
    if args.weights == "random":
        print("These weights are random: the figures above check the program, not the method.")
        print("The real result: python main.py --arch wide_resnet50_2 --data_path FOLDER_OF_MVTEC_AD")


def fit_or_load(
    model: "PaDiM",
    train: "MVTecDataset",
    name: str,
    store: "Store",
    args: argparse.Namespace,
    watch: "Stopwatch",
    held_out: tuple[list[int], list[int]] | None,
    fingerprint: str,
) -> None:
    """Leave the class's Gaussians in the model: the stored ones if they are this run's, else fitted.

    ``held_out`` divides the training pictures, where a threshold is to come from some of them.
    """
    from torch.utils.data import Subset

    from padim.store import DamagedError, read_json, stored_features

    path, state = store.features(name), "none"
    source = {"preprocessing": train.preprocessing.record(), "training_files": fingerprint}
    if not args.no_features and not args.refit:
        state = stored_features(path, model.provenance() | source)
        if state == "same" and held_out and not read_json(path.with_suffix(".json")).get("held_out_scores"):
            state = "no threshold"
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
    elif state == "no threshold":
        print(f"{name}: no labelled test set any more; fitting again, to hold training pictures out for a threshold")
    if not args.no_features:
        store.check_room(name, model.positions, len(model.dimensions))

    def images(part: "Dataset", split: str) -> Iterator[Any]:
        return (images for images, _, _ in loading(part, split, name, args))

    with watch.stage("fit"):
        if args.reduction == "pca":  # 先看一遍求主成分，再拟合
            model.fit_projection(images(train, "train, principal components"))
        if held_out is None:
            model.fit(images(train, "train"))
        else:
            fitted, held = (Subset(train, indices) for indices in held_out)
            model.fit(images(fitted, "train"), lambda: images(held, "held out"))
    if not args.no_features:
        model.save_in_background(path, **source)


def score_and_evaluate(
    model: "PaDiM", test: "MVTecDataset", name: str, store: "Store", args: argparse.Namespace, watch: "Stopwatch"
) -> dict[str, Any]:
    """Score a class's test set, write its maps, pictures and arrays, and return its results."""
    import numpy as np

    from datasets.preprocessing import to_pictures
    from padim.metrics import evaluate_maps

    if not len(test):
        with watch.stage("save"):
            model.finish_saving()
        store.clear_scores(name)
        command = f"python -m padim.predict --model {shlex.quote(str(store.features(name)))} PICTURES"
        how = "nothing is stored (--no_features)" if args.no_features else f"score others with: {command}"
        print(f"{name}: no test pictures, nothing is scored; {how}")
        return {"image_rocauc": None, "pixel_rocauc": None, "pixel_aupro": None, "threshold": None}
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


def loading(dataset: "Dataset", split: str, name: str, args: argparse.Namespace) -> Iterator[tuple]:
    """The data set's batches, with a progress bar."""
    from tqdm import tqdm

    from datasets.loader import batches

    with tqdm(total=len(dataset), desc=f"feature extraction | {split} | {name}", unit="image") as bar:
        for batch in batches(dataset, args.batch_size, args.num_workers):
            yield batch
            bar.update(len(batch[0]))


def finish_figures(pending: tuple | None, results: dict[str, Any], store: "Store") -> None:
    """Wait for a class's figures, with a progress bar; only then the class is finished."""
    from tqdm import tqdm

    if pending is None:
        return
    name, drawings = pending
    # 绘图进程从前往后画，主进程从后往前帮忙
    bar = tqdm(drawings[::-1], desc=f"localization figures | test | {name}", unit="batch", disable=not drawings)
    for drawing in bar:
        drawing.finish()
    results["run"]["finished"].append(name)
    store.write_results(results)


def published_reference(is_imagenet: bool) -> Any:
    """The published table, to compare with; empty for other weights than ImageNet's, or other preprocessing."""
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
    args = parse(argv)

    def work() -> None:
        from padim.figures import FigurePool

        with ExitStack() as held, FigurePool() as pool:
            if args.figures not in ("none", 0):
                pool.warm_up()  # 绘图进程与主进程同时装入各自的库
            load("torchvision")
            experiment(args, pool, held)

    return run(work, "interrupted; the same command goes on from the last finished class")


if __name__ == "__main__":
    leave(main())

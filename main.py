"""PaDiM on MVTec AD, or on any folder in its layout: fit, score, evaluate, draw, class by class."""

# torch 等在函数里装入：--help 与参数错误立刻回答，绘图子进程重新导入本文件时也不必装入它

import argparse
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from padim.command import Parser, at_least, complete, experiment_options, is_divided, leave, load, run

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from datasets.mvtec import CheckedClass, MVTecDataset
    from datasets.preprocessing import Preprocessing
    from padim.distributed import Ranks
    from padim.figures import FigurePool
    from padim.model import PaDiM
    from padim.results import Stopwatch
    from padim.same_data import DataFolder
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


@dataclass(frozen=True)
class Run:
    """What the parts of the experiment share.

    Attributes
    ----------
    ranks : Ranks
        All processes of this run.
    team : Ranks
        Those that work on one class together: all, or this one alone.
    """

    args: argparse.Namespace
    data: "DataFolder"
    preprocessing: "Preprocessing"
    store: "Store"
    model: "PaDiM"
    ranks: "Ranks"
    team: "Ranks"


def experiment(args: argparse.Namespace, ranks: "Ranks", pool: "FigurePool", held: ExitStack) -> None:
    """The whole experiment, class by class; the user's mistakes are raised as the modules' own errors.

    Localization figures are drawn by ``pool`` while the next class is computed. ``held`` gets the lock.
    Of several ranks each runs this; the leader alone checks, writes and speaks.
    """
    from datasets.mvtec import MVTecDataset, common_size
    from datasets.preprocessing import Preprocessing
    from padim import results as report
    from padim.backbone import ARCHITECTURES, find_architecture
    from padim.device import pick_device
    from padim.distributed import SOLO, RankError, whole_classes
    from padim.figures import chosen_figures, roc_figure
    from padim.model import PaDiM
    from padim.same_data import DataFolder
    from padim.store import Store
    from padim.verdict import departures, sentence, verdict

    start = time.perf_counter()
    # 先查后做：能预先发现的错误都在第一次拟合之前报出，此前不写任何结果
    device = pick_device(args.device, ranks.local_rank, ranks.local_size)
    preprocessing = Preprocessing(args.resize, args.crop, args.protocol, args.seed)
    store = Store(args.save_path, args.arch)
    root, checked = ranks.agree(lambda: check_data(args, preprocessing, store))
    chosen = {"precision": args.precision, "layers": args.layers, "reduction": args.reduction}
    with ranks.leader_first():
        model = PaDiM(args.arch, args.weights, args.rd, args.seed, device, common_size(checked), **chosen)
    if ranks.size > 1:
        seen = [MVTecDataset(root, name, split, preprocessing).summary() for name in checked for split in (True, False)]
        ranks.check_same(seen, model.weights_sha256, model.dimensions, device.type)
    data = DataFolder(root, preprocessing)
    results = ranks.agree(lambda: begin(args, checked, data, store, model, ranks, held))
    own_layers = find_architecture(args.arch, args.layers) is ARCHITECTURES.get(args.arch)
    is_published = preprocessing.is_published and own_layers and args.reduction == "random"
    reference = published_reference(model.is_imagenet and is_published)

    left = [name for name in checked if name not in results["run"]["finished"]]
    counts = {name: checked[name].n_train + checked[name].n_test for name in left}
    by_class = whole_classes(list(counts.values()), ranks.size)
    if ranks.size > 1 and ranks.leads and left:
        how = "each class on one of them, the longest first" if by_class else "the images of each class are divided"
        print(f"{len(left)} classes on {ranks.size} processes: {how}", flush=True)
    current = Run(args, data, preprocessing, store, model, ranks, SOLO if by_class else ranks)

    rows = dict.fromkeys([*results["classes"], *checked])  # 各行的次序：不随哪个进程先做完

    def record(head: dict[str, Any]) -> None:
        name = head["class"]
        if "row" in head:
            results["classes"][name] = report.compare(head["row"], reference.of(name, args.arch))
            print(report.line(name, head["row"]), flush=True)
        else:
            results["run"]["finished"].append(name)
        write()

    def write() -> None:
        results["classes"] = {name: results["classes"][name] for name in rows if name in results["classes"]}
        results["averages"] = report.averages(results["classes"], reference, args.arch)
        store.write_results(results)

    drawing = None  # 上一类的图，与本类的计算同时画
    with ranks.delivering(record) if by_class else nullcontext(record) as tell:
        try:
            order = ranks.turns(sorted(left, key=counts.get, reverse=True)) if by_class else left
            for name in order:
                row, arrays = run_class(current, name)
                if current.team.leads:
                    tell({"class": name, "row": row})
                    figures = chosen_figures(row["n_test"], args.figures)
                    drawings = pool.draw(store, name, figures, arrays) if figures else []
                    last, drawing = drawing, (name, drawings)
                    finish_figures(last, tell, ranks)
        except KeyboardInterrupt:
            model.abort_saving()
            raise
        except Exception as problem:  # 已算完的类、已拟合的特征，不因后来的错误而作废
            try:
                if not isinstance(problem, RankError):  # torchrun 正在收场，等不了
                    model.finish_saving()
                    finish_figures(drawing, tell, ranks)
            except KeyboardInterrupt:
                model.abort_saving()
                raise
            raise
        store.check_there()
        if ranks.leads and not by_class:
            roc_figure(report.curves(results, store), store.roc_curve)  # 此时最后一类的图还在画
        finish_figures(drawing, tell, ranks)

    peak = sum(ranks.gather(report.peak_memory() or 0)) or None
    if not ranks.leads:
        return
    if by_class:
        roc_figure(report.curves(results, store), store.roc_curve)
    results["run"] |= {"seconds": round(time.perf_counter() - start, 1), "peak_memory_bytes": peak}
    results["verdict"] = verdict(results["classes"], reference, args.arch, departures(vars(args), vars(parse([]))))
    results["complete"] = True
    write()
    print(f"\n{report.table(results, args.arch)}\n")
    for what, path in store.written():
        print(f"wrote {what}: {path}")
    print(f"\n{sentence(results['verdict'])}")
    if args.weights == "random":
        print("These weights are random: the figures above check the program, not the method.")
        print("The real result: python main.py --arch wide_resnet50_2 --data_path FOLDER_OF_MVTEC_AD")


def check_data(
    args: argparse.Namespace, preprocessing: "Preprocessing", store: "Store"
) -> tuple[Path, dict[str, "CheckedClass"]]:
    """The data folder and its classes, checked; with --demo the sample data is drawn first."""
    from tqdm import tqdm

    from datasets.mvtec import check_class, find_classes, locate
    from datasets.sample import write_sample

    if args.demo and not args.data_path.exists():
        write_sample(args.data_path)
    root, wanted = locate(args.data_path, args.classes)
    classes = find_classes(root, wanted)
    checked = {name: check_class(root, name, preprocessing) for name in tqdm(classes, desc="checking", unit="class")}
    store.check_writable()
    return root, checked


def begin(
    args: argparse.Namespace,
    checked: dict[str, "CheckedClass"],
    data: "DataFolder",
    store: "Store",
    model: "PaDiM",
    ranks: "Ranks",
    held: ExitStack,
) -> dict[str, Any]:
    """Check memory and what is stored, lock the folder, and return the results to go on with."""
    from padim import memory
    from padim import results as report
    from padim.same_data import check_same_data
    from padim.store import CONFIGURATION, stored_features

    for name, found in checked.items():
        memory.check(model, name, args.batch_size, found.n_train, found.n_test, processes=ranks.local_size)
    held.enter_context(store.locked())
    made_from = model.provenance() | {"preprocessing": data.preprocessing.record()}
    for name in [] if args.refit or args.no_features else checked:
        stored_features(store.features(name), made_from)
    options = json.loads(json.dumps(vars(args), default=str))  # 与读回的同形，才比得出是否同一条命令
    configuration = {key: made_from[key] for key in CONFIGURATION}
    results = report.begin(
        store, options, configuration, args.refit, lambda rows: check_same_data(rows, data, checked, store.results)
    )
    results["run"] |= describe_run(model, ranks)
    for name in [n for n in results["run"]["finished"] if n in checked]:
        if not data.is_unchanged(name, results["classes"][name]):
            print(f"{name}: its pictures have changed since it was finished; computing it again")
            results["run"]["finished"].remove(name)
    if finished := results["run"]["finished"]:
        print(f"going on with the interrupted run; finished already: {', '.join(finished)}")
    store.write_results(results)
    return results


def run_class(run: Run, name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Fit, score and evaluate a class: its results, and on the team's leader the arrays of `evaluate_maps`."""
    from datasets.mvtec import MVTecDataset
    from padim.results import Stopwatch
    from padim.threshold import hold_out

    run.store.check_there()
    watch, before = Stopwatch(), run.team.seconds
    train, test = (MVTecDataset(run.data.root, name, split, run.preprocessing) for split in (True, False))
    with watch.stage("total"):
        with watch.stage("fingerprint"):
            data = run.team.agree(lambda: run.data.record(name))
        held_out = None if test.is_labelled or run.args.no_features else hold_out(len(train), run.args.seed)
        fit_or_load(run, train, name, watch, held_out, data["training_files"])
        row, arrays = score_and_evaluate(run, test, name, watch)
    if run.team.size > 1:
        watch.seconds["communication"] = round(run.team.seconds - before, 3)  # 含等待；分散在各阶段之内
    return row | {"n_train": len(train), "n_test": len(test), "seconds": watch.seconds} | data, arrays


def fit_or_load(
    run: Run,
    train: "MVTecDataset",
    name: str,
    watch: "Stopwatch",
    held_out: tuple[list[int], list[int]] | None,
    fingerprint: str,
) -> None:
    """Leave the class's Gaussians in the model: the stored ones if they are this run's, else fitted.

    ``held_out`` divides the training pictures, where a threshold is to come from some of them.
    """
    from torch.utils.data import Subset

    from padim.store import DamagedError, read_json, stored_features

    args, model, team, path = run.args, run.model, run.team, run.store.features(name)
    source = {"preprocessing": train.preprocessing.record(), "training_files": fingerprint}

    def stored() -> str:
        if args.no_features or args.refit:
            return "none"
        state = stored_features(path, model.provenance() | source)
        if state == "same" and held_out and not read_json(path.with_suffix(".json")).get("held_out_scores"):
            return "no threshold"
        return state

    state = team.agree(stored)
    if state == "same":
        try:
            with watch.stage("load"):
                model.load(path)
        except DamagedError:
            state = "damaged"
        if "damaged" not in team.gather(state):
            if team.leads:
                print(f"{name}: using the stored features {path}")
            return
        state = "damaged"
    if team.leads:
        if state == "damaged":
            print(f"warning: {path} is damaged; fitting {name} again", file=sys.stderr)
        elif state == "other data":
            print(f"{name}: the training pictures have changed since {path} was made; fitting again")
        elif state == "no threshold":
            print(
                f"{name}: no labelled test set any more; fitting again, to hold training pictures out for a threshold"
            )
        if not args.no_features:
            run.store.check_room(name, model.positions, len(model.dimensions))

    def images(indices: Sequence[int], split: str) -> Iterator[Any]:
        part = Subset(train, [indices[i] for i in team.share(len(indices))])
        return (images for images, _, _ in loading(run, part, split, name))

    fitted, held = held_out or (range(len(train)), ())
    with watch.stage("fit"):
        if args.reduction == "pca":  # 先看一遍求主成分，再拟合；留出的不看
            model.fit_projection(images(fitted, "train, principal components"), team)
        model.fit(images(fitted, "train"), (lambda: images(held, "held out")) if held else None, team)
    if team.leads and not args.no_features:
        model.save_in_background(path, **source)


def score_and_evaluate(
    run: Run, test: "MVTecDataset", name: str, watch: "Stopwatch"
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Score a class's test set, write its maps, pictures and arrays; its results and arrays, on the team's leader."""
    import numpy as np
    from torch.utils.data import Subset

    from datasets.preprocessing import to_pictures
    from padim.files import forget, scratch
    from padim.metrics import SORTED, evaluate_maps

    model, store, team, count = run.model, run.store, run.team, len(test)
    if not count:
        with watch.stage("save"):
            model.finish_saving()
        if team.leads:
            store.clear_scores(name)
            command = f"python -m padim.predict --model {shlex.quote(str(store.features(name)))} PICTURES"
            how = "nothing is stored (--no_features)" if run.args.no_features else f"score others with: {command}"
            print(f"{name}: no test pictures, nothing is scored; {how}")
        return {"image_rocauc": None, "pixel_rocauc": None, "pixel_aupro": None, "threshold": None}, None
    share, waiting = team.share(count), []  # 已解码、还没有得分的：图片与掩码

    def images() -> Iterator[Any]:
        for batch, _, mask in loading(run, Subset(test, share), "test", name):
            waiting.extend(zip(to_pictures(batch), mask[:, 0].numpy(), strict=True))
            yield batch

    with ExitStack() as stack:
        if team.leads:
            maps, pictures = stack.enter_context(store.score_files(name, (count, *model.size)))
            masks = stack.enter_context(scratch(store.root, (count, *model.size), SORTED))
            centres = np.empty((count, len(model.dimensions)), np.float32)

        def place(head: dict[str, int], *arrays: np.ndarray) -> None:
            for whole, part in zip((maps, centres, pictures, masks), arrays, strict=True):
                whole[head["start"] : head["start"] + len(part)] = part
            forget(maps, pictures, masks)  # 写过的页不必都留在内存里

        with watch.stage("score"):
            start = share.start
            with team.delivering(place) as deliver:
                for scores in model.score(images()):
                    block = waiting[: len(scores.maps)]
                    del waiting[: len(scores.maps)]
                    deliver({"start": start}, scores.maps, scores.centre, *map(np.stack, zip(*block, strict=True)))
                    start += len(scores.maps)
            model.release()  # 评估不需要高斯，先让出内存
        if not team.leads:
            return {}, None
        with watch.stage("evaluate"):
            arrays, row = evaluate_maps(maps, test.labels, masks if test.has_masks else None)
        store.clear_pictures(name)
    store.write_arrays(name, arrays | {"files": np.array(test.names()), "patches": centres})
    return row, arrays


def loading(run: Run, dataset: "Dataset", split: str, name: str) -> Iterator[tuple]:
    """The data set's batches, with a progress bar."""
    from tqdm import tqdm

    from datasets.loader import batches

    title = f"feature extraction | {split} | {name}"
    with tqdm(total=len(dataset), desc=title, unit="image", disable=not run.ranks.leads) as bar:
        for batch in batches(dataset, run.args.batch_size, run.args.num_workers):
            yield batch
            bar.update(len(batch[0]))


def finish_figures(pending: tuple | None, tell: Callable[[dict[str, Any]], None], ranks: "Ranks") -> None:
    """Wait for a class's figures, with a progress bar; only then the class is finished."""
    from tqdm import tqdm

    if pending is None:
        return
    name, drawings = pending
    # 绘图进程从前往后画，主进程从后往前帮忙
    title, quiet = f"localization figures | test | {name}", not drawings or not ranks.leads
    for drawing in tqdm(drawings[::-1], desc=title, unit="batch", disable=quiet):
        drawing.finish()
    tell({"class": name, "finished": True})


def published_reference(is_imagenet: bool) -> Any:
    """The published table, to compare with; empty for other weights than ImageNet's, or other preprocessing."""
    from datasets.mvtec import CLASSES, OBJECTS, TEXTURES, published
    from padim.results import Reference

    groups = {"textures": TEXTURES, "objects": OBJECTS, "all": CLASSES}
    return Reference(groups, published() if is_imagenet else {})


def describe_run(model: "PaDiM", ranks: "Ranks") -> dict[str, Any]:
    """What it takes to repeat a run, and where it ran."""
    from padim.device import describe_device

    return {
        "command": shlex.join(["python", *sys.argv]),
        "versions": model.provenance()["versions"],
        "processes": ranks.size,
        "device": describe_device(model.device),
        "host": platform.platform(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parse(argv)
    ranks: list[Ranks] = []

    def work() -> None:
        from padim.figures import FigurePool

        with ExitStack() as held, FigurePool() as pool:
            if args.figures not in ("none", 0) and not is_divided():
                pool.warm_up()  # 绘图进程与主进程同时装入各自的库
            load("torchvision")
            from padim.distributed import SOLO, join

            ranks.append(join() if is_divided() else SOLO)
            experiment(args, ranks[0], pool, held)
            ranks[0].leave()

    again = "the same command goes on from the last finished class"
    ended = f"error: ended from outside, or because another process of this run has; {again}" if is_divided() else None
    return run(work, f"interrupted; {again}", ended, lambda: all(each.may_speak() for each in ranks))


if __name__ == "__main__":
    leave(main())

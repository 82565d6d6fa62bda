"""The paper's studies from one pass of the backbone: layers, dimensions, and the spread over seeds.

The Gaussian of all t_d channels holds those of every variant (`padim.studies`): the network sees every
picture once.

References
----------
Defard et al., arXiv 2011.08785, section V.A (inter-layer correlation; dimensionality reduction).
"""

import argparse
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from padim.command import Parser, at_least, complete, experiment_options, run

if TYPE_CHECKING:
    from torch import Tensor

    from datasets.preprocessing import Preprocessing
    from padim.model import PaDiM
    from padim.same_data import DataFolder
    from padim.store import Store

STUDIES = ("layers", "dimensions", "seeds")
LEVELS = ("image", "pixel")
SEEDS = 10


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes
    ----------
    label : str
    layers : list of str
    reduction : str
        ``none``, ``random``, ``pca``, or ``sum``: the layers' own maps added up, the paper's ensemble.
    dimensions : int
        d.
    seed : int or None
        Of a random choice.
    grid : list of int or None
        Height and width of the positions, which are the cells of the shallowest of the layers.
    """

    label: str
    layers: list[str]
    reduction: str
    dimensions: int
    seed: int | None = None
    grid: list[int] | None = None


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, with every default resolved."""
    parser = Parser(prog="python -m padim.ablation", description=__doc__.splitlines()[0])
    experiment_options(parser)
    add = parser.add_argument
    add("--study", nargs="+", choices=STUDIES, default=list(STUDIES), help="default: all three")
    add("--rd", type=at_least(1), help="channels kept by the random choices (default 100; wide_resnet50_2 550)")
    dimensions = "of the study of dimensions (default 10 25 50 100 200 300, as far as there are)"
    add("--dimensions", nargs="+", type=at_least(1), metavar="D", help=dimensions)
    add("--refit", action="store_true", help="replace stored studies that another configuration made")
    args = parser.parse_args(argv)
    complete(args, arch="resnet18")
    return args


def variants(model: "PaDiM", study: str, kept: int, dimensions: list[int], seed: int) -> list[Variant]:
    """The rows of a study, for a model of all channels."""
    names, total, grid = [layer.name for layer in model.layers], model.channels, list(model.grid)
    every = Variant("all", names, "none", total, grid=grid)
    if study == "seeds":
        return [Variant(f"seed {s}", names, "random", kept, s, grid) for s in range(seed, seed + SEEDS)]
    if study == "dimensions":
        pairs = [(d, reduction) for d in dimensions for reduction in ("random", "pca")]
        rows = [Variant(f"{r} {d}", names, r, d, seed if r == "random" else None, grid) for d, r in pairs]
        return [*rows, every]
    rows = []
    for part in (part for size in range(1, len(names) + 1) for part in combinations(model.layers, size)):
        layers, own = [layer.name for layer in part], [part[0].height, part[0].width]
        rows.append(Variant(" + ".join(layers), layers, "none", sum(layer.channels for layer in part), grid=own))
    summed = Variant("sum of the maps", names, "sum", total)
    return [*rows, summed, Variant(f"random {kept}", names, "random", kept, seed, grid)]


def study_class(
    model: "PaDiM",
    name: str,
    root: Path,
    preprocessing: "Preprocessing",
    args: argparse.Namespace,
    wanted: dict[str, list[Variant]],
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Every variant's image and pixel ROC AUC for a class: ``{study: {label: {level: …}}}``."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from datasets.loader import batches
    from datasets.mvtec import MVTecDataset
    from padim.metrics import evaluate_maps
    from padim.studies import all_components, maps_of

    train, test = (MVTecDataset(root, name, split, preprocessing) for split in (True, False))
    masks: list[Any] = []

    def images(dataset: MVTecDataset, split: str) -> "Iterator[Tensor]":
        with tqdm(total=len(dataset), desc=f"feature extraction | {split} | {name}", unit="image") as bar:
            for batch, _, mask in batches(dataset, args.batch_size, args.num_workers):
                if split == "test":
                    masks.append(mask[:, 0].numpy())
                yield batch
                bar.update(len(batch))

    model.fit(images(train, "train"))
    parts = list(model.features(images(test, "test")))
    features = [torch.cat(layer).contiguous(memory_format=torch.channels_last) for layer in zip(*parts, strict=True)]
    truth = np.concatenate(masks) if test.has_masks else None
    figures: dict[str, dict] = {study: {} for study in wanted}
    done: dict[tuple, dict] = {}  # 几项研究共有的一行只算一次
    jobs = [(study, variant) for study, rows in wanted.items() for variant in rows]
    components = all_components(model) if any(variant.reduction == "pca" for _, variant in jobs) else None
    for study, variant in tqdm(jobs, desc=f"variants | {name}", unit="variant"):
        key = (*variant.layers, variant.reduction, variant.dimensions, variant.seed)
        if key not in done:
            row = evaluate_maps(maps_of(model, variant, features, components), test.labels, truth)[1]
            done[key] = {level: row[f"{level}_rocauc"] for level in LEVELS}
        figures[study][variant.label] = done[key]
    model.release()
    return figures


def summarise(study: dict[str, Any]) -> dict[str, Any]:
    """Averages over the classes for every variant, and over all variants their spread."""
    averages: dict[str, dict[str, float | None]] = {}
    for label in (variant["label"] for variant in study["variants"]):
        rows = [figures[label] for figures in study["classes"].values()]
        known = {level: [row[level] for row in rows if row[level] is not None] for level in LEVELS}
        averages[label] = {level: mean(values) if values else None for level, values in known.items()}
    spread: dict[str, dict[str, float] | None] = {}
    for level in LEVELS:
        values = [row[level] for row in averages.values() if row[level] is not None]
        spread[level] = None
        if len(values) > 1:
            spread[level] = {"mean": mean(values), "std": stdev(values), "min": min(values), "max": max(values)}
    return study | {"averages": averages, "spread": spread}


def begin(
    store: "Store", configuration: dict[str, Any], replace: bool, data: "DataFolder", chosen: list[str]
) -> dict[str, Any]:
    """The stored studies, to add to; whoever calls this holds the store's lock.

    Raises
    ------
    padim.store.StoreError
        If another configuration made them, or they are of another data set, or the file holds something else.
    """
    from padim.same_data import check_same_data
    from padim.store import StoreError, difference

    stored = None if replace else store.read_studies()
    if stored is None:
        return {"configuration": configuration, "data": {}, "studies": {}}
    if words := difference(stored["configuration"], configuration):
        remedy = "give another --save_path, or --refit to replace it"
        raise StoreError(f"{str(store.ablation)!r} was made with {words}; {remedy}")
    check_same_data(stored["data"], data, chosen, store.ablation)
    return stored


def table(name: str, study: dict[str, Any]) -> str:
    """A study's averages, and the spread where the variants are seeds."""
    width = max(len(label) for label in [*study["averages"], "mean ± std"])
    count = len(study["classes"])
    head = f"{name}, {count} {'class' if count == 1 else 'classes'}"
    lines = [f"{head:<{width}}  image ROC AUC  pixel ROC AUC"]

    def cells(values: dict[str, str]) -> str:
        return "  ".join(values[level].rjust(13) for level in LEVELS)

    for label, row in study["averages"].items():
        texts = {level: "–" if row[level] is None else f"{row[level]:.4f}" for level in LEVELS}
        lines.append(f"{label:<{max(width, len(head))}}  {cells(texts)}")
    if name == "seeds" and all(study["spread"].values()):
        spread = study["spread"]
        both = {level: f"{spread[level]['mean']:.4f}±{spread[level]['std']:.4f}" for level in LEVELS}
        lines.append(f"{'mean ± std':<{max(width, len(head))}}  {cells(both)}")
        for key in ("min", "max"):
            lines.append(f"{key:<{max(width, len(head))}}  {cells({lv: f'{spread[lv][key]:.4f}' for lv in LEVELS})}")
    return "\n".join(lines)


def experiment(args: argparse.Namespace) -> None:
    """The studies, class by class."""
    from datasets.images import DataError
    from datasets.mvtec import check_class, common_size, find_classes, locate
    from datasets.preprocessing import Preprocessing
    from padim import memory
    from padim.backbone import find_architecture
    from padim.device import pick_device
    from padim.embedding import DimensionError
    from padim.model import ALL, PaDiM
    from padim.same_data import DataFolder
    from padim.store import CONFIGURATION, Store, write_json
    from padim.studies import add_positions

    device = pick_device(args.device)
    preprocessing = Preprocessing(args.resize, args.crop, args.protocol, args.seed)
    root, wanted = locate(args.data_path, args.classes)
    classes = find_classes(root, wanted)
    checked = {name: check_class(root, name, preprocessing) for name in classes}
    for name, found in checked.items():
        if not found.n_test:
            raise DataError(f"class {name!r} has no test pictures, and a study compares scores; see --classes")
    store = Store(args.save_path, args.arch)
    store.check_writable()
    chosen = {"precision": args.precision, "layers": args.layers}
    model = PaDiM(args.arch, args.weights, ALL, args.seed, device, common_size(checked), **chosen)
    kept = args.rd or min(find_architecture(args.arch, model.backbone.layers).dimensions or 100, model.channels)
    dimensions = args.dimensions or [d for d in (10, 25, 50, 100, 200, 300) if d < model.channels]
    if (most := max([kept, *dimensions])) > model.channels:
        raise DimensionError(f"{most} dimensions were asked for, but there are {model.channels}")
    studies = {study: variants(model, study, kept, dimensions, args.seed) for study in args.study}
    add_positions(model, {tuple(variant.layers): None for rows in studies.values() for variant in rows})
    for name in classes:
        memory.check_ablation(model, name, args.batch_size, checked[name].n_train, checked[name].n_test)
    made_from = model.provenance() | {"preprocessing": preprocessing.record()}
    with store.locked():  # 读了再写：两项研究同时写，后写的会抹去先写的
        data = DataFolder(root, preprocessing)
        results = begin(store, {key: made_from[key] for key in CONFIGURATION}, args.refit, data, classes)
        for name in classes:
            figures = study_class(model, name, root, preprocessing, args, studies)
            store.check_there()
            results["data"][name] = data.record(name)
            for study, rows in ((study, [asdict(variant) for variant in studies[study]]) for study in studies):
                before = results["studies"].get(study, {})
                others = before["classes"] if before.get("variants") == rows else {}
                results["studies"][study] = summarise({"variants": rows, "classes": others | {name: figures[study]}})
            results |= {"command": shlex.join(["python", "-m", "padim.ablation", *sys.argv[1:]])}
            write_json(store.ablation, results | {"versions": made_from["versions"]})
    for study in args.study:
        print(f"\n{table(study, results['studies'][study])}")
    print(f"\nwrote the studies: {store.ablation}")


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parse(argv)
    return run(lambda: experiment(args), "interrupted; classes that are finished are in the file")


if __name__ == "__main__":
    sys.exit(main())

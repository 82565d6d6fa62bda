"""The paper's studies from one pass of the backbone: layers, dimensions, and the spread over seeds.

论文的几项研究（层、维数、随机种子），骨干网络只过一遍。

The Gaussian of all t_d channels holds those of every variant (`padim.variants`): the network sees every
picture once.

References
----------
Defard et al., arXiv 2011.08785, section V.A (inter-layer correlation; dimensionality reduction).
"""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from experiment import options
from experiment.report.published import LEVELS
from system import command
from system.errors import UserError

if TYPE_CHECKING:
    from argparse import Namespace

    from torch import Tensor

    from datasets.folder import FolderDataset
    from experiment.files.folder import Store
    from experiment.files.provenance import DataFolder
    from padim.model import PaDiM
    from padim.variants import Variant

STUDIES = ("layers", "dimensions", "seeds")


def study_class(
    args: "Namespace", model: "PaDiM", name: str, data: "DataFolder", wanted: "Mapping[str, list[Variant]]"
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Every variant's image and pixel ROC AUC for a class: ``{study: {label: {level: …}}}``."""
    import numpy as np
    import torch
    from tqdm import tqdm

    from datasets.loader import batches
    from padim.metrics import evaluate_maps
    from padim.variants import all_components, maps_of

    train, test = data.train_and_test(name)
    threads = options.decoding_threads(args.num_workers, model.device.type)
    masks: list[Any] = []

    def images(dataset: "FolderDataset", split: str) -> "Iterator[Tensor]":
        with tqdm(total=len(dataset), desc=f"feature extraction | {split} | {name}", unit="image") as bar:
            for batch, _, mask in batches(dataset, args.batch_size, threads):
                if split == "test":
                    masks.append(mask[:, 0].numpy())
                yield batch
                bar.update(len(batch))

    model.fit(images(train, "train"))
    parts = [[layer.float() for layer in part] for part in model.features(images(test, "test"))]
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
        values = [value for row in averages.values() if (value := row[level]) is not None]
        spread[level] = None
        if len(values) > 1:
            spread[level] = {"mean": mean(values), "std": stdev(values), "min": min(values), "max": max(values)}
    return study | {"averages": averages, "spread": spread}


def begin(
    store: "Store",
    configuration: dict[str, Any],
    wanted: Mapping[str, list[dict[str, Any]]],
    replace: bool,
    data: "DataFolder",
    chosen: Sequence[str],
) -> dict[str, Any]:
    """The stored studies, to add to; whoever calls this holds the store's lock.

    Parameters
    ----------
    store : Store
    configuration : dict
        What all figures in one file have in common.
    wanted : mapping
        ``{study: variants}`` of this command.
    replace : bool
        Drop what this command's figures cannot stand beside, instead of refusing.
    data : DataFolder
    chosen : sequence of str
        This command's classes.

    Raises
    ------
    UserError
        If another configuration made them, they are of another data set, or classes that are not chosen have other
        variants in a wanted study; if the file holds something else.
    """
    from experiment.files.provenance import check_same_data, may_stay

    empty: dict[str, Any] = {"configuration": configuration, "data": {}, "studies": {}}
    stored = store.read_studies()
    if stored is None:
        return empty
    made_with, made_of = stored["configuration"], stored["data"]

    def check() -> None:
        check_same_data(made_of, data, chosen, store.ablation)

    if not may_stay(store.ablation, made_with, configuration, check, replace):
        return empty
    studies = stored["studies"]
    for study in [study for study in wanted if study in studies and studies[study]["variants"] != wanted[study]]:
        left = [name for name in studies[study]["classes"] if name not in chosen]
        if left and not replace:
            raise UserError(
                f"{str(store.ablation)!r} holds the study of {study} with other rows, for {', '.join(left)}, too; "
                "run these, too (--classes), or give another --save_path, or --refit to replace the study"
            )
        del studies[study]
    stored["data"] = {name: made for name, made in made_of.items() if _studies_of(name, studies)}
    return stored


def take(
    results: dict[str, Any],
    name: str,
    figures: Mapping[str, dict[str, Any]],
    wanted: Mapping[str, list[dict[str, Any]]],
    data: "DataFolder",
) -> None:
    """Add a class's figures; in other studies those go that are of other pictures than the file now says."""
    studies, before = results["studies"], results["data"].get(name)
    if before and not data.is_unchanged(name, before):
        stale = [study for study in _studies_of(name, studies) if study not in figures]
        for study in stale:
            del studies[study]["classes"][name]
            if studies[study]["classes"]:
                studies[study] = summarise(studies[study])
            else:
                del studies[study]
        if stale:
            print(
                f"{name}: its pictures have changed, and its old figures in the studies of {', '.join(stale)} are "
                f"dropped; compute them again with --study {' '.join(stale)}"
            )
    results["data"][name] = data.record(name)
    for study, rows in wanted.items():
        others = studies[study]["classes"] if study in studies else {}
        studies[study] = summarise({"variants": rows, "classes": others | {name: figures[study]}})


def _studies_of(name: str, studies: Mapping[str, dict[str, Any]]) -> list[str]:
    return [study for study, content in studies.items() if name in content["classes"]]


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


def experiment(args: "Namespace") -> None:
    """The studies, class by class.

    Raises
    ------
    UserError
        For what the user must change.
    """
    from datasets.folder import common_size
    from datasets.preprocessing import Preprocessing
    from experiment import memory
    from experiment.checks import check_data
    from experiment.files.folder import Store
    from experiment.files.records import configuration
    from experiment.models import describe
    from padim.backbone import find_architecture
    from padim.device import pick_device
    from padim.model import ALL, PaDiM
    from padim.variants import layer_choices, variants
    from system.files import write_json

    device = pick_device(args.device)
    preprocessing = Preprocessing(args.resize, args.crop, args.protocol, args.seed)
    store = Store(args.save_path, args.arch)
    data, checked = check_data(args, preprocessing, store)
    classes = list(checked)
    for name, found in checked.items():
        if not found.n_test:
            raise UserError(f"class {name!r} has no test pictures, and a study compares scores; see --classes")
    entry = find_architecture(args.arch, args.layers)
    chosen = {"precision": args.precision, "layers": args.layers}
    if "layers" in args.study:  # 每种层的组合，在它自己的网格上评估
        chosen["also"] = layer_choices(list(entry.layers))
    model = PaDiM(args.arch, args.weights, ALL, args.seed, device, common_size(checked), **chosen)
    kept = args.rd or min(entry.dimensions or 100, model.channels)
    dimensions = args.dimensions or [d for d in (10, 25, 50, 100, 200, 300) if d < model.channels]
    if (most := max([kept, *dimensions])) > model.channels:
        raise UserError(
            f"{most} dimensions were asked for, but there are {model.channels} channels; see --rd and --dimensions"
        )
    studies = {study: variants(model.layers, study, kept, dimensions, args.seed) for study in args.study}
    features = sum(channels * height * width for channels, height, width in model.shapes)
    remedy = (
        f"a study keeps the covariances of all {model.channels} channels: a smaller --arch (resnet18 needs the least), "
        "fewer --layers, or a smaller --resize and --crop"
    )
    for name, found in checked.items():
        more = 4 * found.n_test * (2 * features + model.positions * model.channels)
        numbers = args.batch_size, found.n_train, found.n_test
        memory.check(model, name, *numbers, stored=False, more=more, remedy=remedy)
    made_from = describe(model) | {"preprocessing": preprocessing.record()}
    wanted = {study: [asdict(variant) for variant in rows] for study, rows in studies.items()}
    with store.locked():  # 读了再写：两项研究同时写，后写的会抹去先写的
        results = begin(store, configuration(made_from), wanted, args.refit, data, classes)
        for name in classes:
            figures = study_class(args, model, name, data, studies)
            store.check_there()
            take(results, name, figures, wanted, data)
            results |= {"command": shlex.join(["python", *sys.argv])}
            write_json(store.ablation, results | {"versions": made_from["versions"]})
    for study in args.study:
        print(f"\n{table(study, results['studies'][study])}")
    print(f"\nwrote the studies: {store.ablation}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = options.study(argv, STUDIES)
    return command.run(lambda: experiment(args), "interrupted; classes that are finished are in the file")


if __name__ == "__main__":
    sys.exit(main())

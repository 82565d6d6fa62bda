"""One run of ablation.py: the model of all channels, the pictures, the variants, the metrics of each.

ablation.py 的一次运行：全部通道的模型，图片，各种变体，各自的数字。
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets.check import common_size, cut_off
from datasets.folder import FolderDataset
from experiment import memory
from experiment.batches import Images
from experiment.checks import check_data
from experiment.files.folder import Store
from experiment.models import describe
from experiment.options import decoding_threads
from experiment.report.results import remark
from experiment.studies import Studies, table
from padim.backbone import find_architecture
from padim.device import pick_device
from padim.metrics import evaluate_maps
from padim.model import ALL, PaDiM
from padim.variants import Variant, all_components, layer_choices, variants
from system.errors import UserError


class StudyRun:
    """One run, as a context: once entered, all that can be checked beforehand is, and the folder is locked.

    Parameters
    ----------
    args : argparse.Namespace
        From `experiment.options.study`.

    Attributes
    ----------
    model : PaDiM
        Of all channels: its Gaussian holds those of every variant.

    Raises
    ------
    UserError
        On entering, for what the user must change; nothing is written then.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args

    def __enter__(self) -> "StudyRun":
        args = self.args
        device = pick_device(args.device)
        self._store = Store(args.save_path, args.arch)
        self._data, self._checked = check_data(args, self._store)
        for name, found in self._checked.items():
            if not found.n_test:
                raise UserError(f"class {name!r} has no test pictures, and a study compares scores; see --classes")
        own = find_architecture(args.arch, args.layers)
        size = common_size(self._checked)
        also = layer_choices(list(own.layers)) if "layers" in args.study else []  # 每种组合，在它自己的网格上评估
        self.model = PaDiM(
            args.arch, args.weights, ALL, args.seed, device, size, args.precision, args.layers, also=also
        )
        self._studies = self._chosen(own.dimensions)
        self._check_memory()
        made_from = describe(self.model) | {"preprocessing": self._data.preprocessing.record()}
        wanted = {study: [asdict(variant) for variant in rows] for study, rows in self._studies.items()}
        with ExitStack() as stack:
            # locked before the file is read: 两项研究同时写，后写的会抹去先写的
            stack.enter_context(self._store.locked())
            self._file = Studies(self._store, made_from, wanted, self._data, self._checked, args.refit)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *problem: Any) -> bool | None:
        return self._stack.__exit__(*problem)

    def classes(self) -> list[str]:
        """The classes of this run."""
        return list(self._checked)

    def images(self, name: str) -> tuple[Images, Images]:
        """A class's training and test images; it is the class at work from here on."""
        self._name = name
        self._metrics: dict[tuple, dict[str, float | None]] = {}
        train, self._test = self._data.train_and_test(name)
        return self._images(train, "train"), self._images(self._test, "test")

    def _images(self, pictures: FolderDataset, split: str) -> Images:
        title = f"feature extraction | {split} | {self._name}"
        threads = decoding_threads(self.args.num_workers, self.model.device.type)
        return Images(pictures, title, self.args.batch_size, threads, False)

    def features(self, test: Images) -> list[Tensor]:
        """The test images' features, (N, C_l, H_l, W_l) of every layer, float32; their masks are kept."""
        masks = []

        def images() -> Iterator[Tensor]:
            for batch, _, mask in test.with_masks():
                masks.append(mask[:, 0].numpy())
                yield batch

        parts = [[layer.float() for layer in part] for part in self.model.features(images())]
        self._truth = np.concatenate(masks) if self._test.has_masks else None
        return [torch.cat(layer).contiguous(memory_format=torch.channels_last) for layer in zip(*parts, strict=True)]

    def components(self) -> Tensor | None:
        """The fitted Gaussians' principal components, where a variant projects onto them."""
        rows = (variant for rows in self._studies.values() for variant in rows)
        return all_components(self.model) if any(variant.reduction == "pca" for variant in rows) else None

    def variants(self) -> Iterator[Variant]:
        """Every variant of every study; what several studies share comes once. A progress bar."""
        jobs = {_key(variant): variant for rows in self._studies.values() for variant in rows}
        yield from tqdm(jobs.values(), desc=f"variants | {self._name}", unit="variant")

    def take(self, variant: Variant, maps: np.ndarray) -> None:
        """Image and pixel ROC AUC of a variant's raw maps (N, H, W)."""
        self._metrics[_key(variant)] = evaluate_maps(maps, self._test.labels, self._truth).rocauc

    def finish(self) -> None:
        """Write the class's metrics in all studies."""
        self.model.release()
        metrics = {
            study: {variant.label: self._metrics[_key(variant)] for variant in rows}
            for study, rows in self._studies.items()
        }
        self._file.take(self._name, metrics)
        for words in self._data.repeated(self._name):
            remark(self._name, words)

    def report(self) -> None:
        """At the end: the tables, and where they are."""
        for study in self.args.study:
            print(f"\n{table(study, self._file.content['studies'][study])}")
        print(f"\nwrote the studies: {self._store.ablation}")

    def _chosen(self, own: int | None) -> dict[str, list[Variant]]:
        args, channels = self.args, self.model.channels
        kept = args.rd or min(own or 100, channels)
        dimensions = args.dimensions or [d for d in (10, 25, 50, 100, 200, 300) if d < channels]
        if (most := max([kept, *dimensions])) > channels:
            raise UserError(
                f"{most} dimensions were asked for, but there are {channels} channels; see --rd and --dimensions"
            )
        return {study: variants(self.model.layers, study, kept, dimensions, args.seed) for study in args.study}

    def _check_memory(self) -> None:
        model = self.model
        features = sum(channels * height * width for channels, height, width in model.shapes)
        remedy = (
            f"a study keeps the covariances of all {model.channels} channels: a smaller --arch (resnet18 needs the "
            "least), fewer --layers, or a smaller --resize and --crop"
        )
        for name, found in self._checked.items():
            more = 4 * found.n_test * (2 * features + model.positions * model.channels)
            room = memory.check(
                model, name, self.args.batch_size, found.n_train, found.n_test, stored=False, more=more, remedy=remedy
            )
            if words := cut_off(found.longest, self._data.preprocessing, room.times):
                remark(name, words)


def _key(variant: Variant) -> tuple:
    """What a variant computes, whatever it is called."""
    return *variant.layers, variant.reduction, variant.dimensions, variant.seed, variant.covariance

"""Which model a run has, PaDiM or a predecessor; its description, and the same model again from that.

一次运行所用的模型：PaDiM，或与之比较的前身；对它的描述，以及由描述再造同一个模型。

Nothing here imports torch before it is called: pictures are checked, and decoded, in the meantime.
"""

import argparse
import platform
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL

from experiment.files.folder import Store
from experiment.files.region import to_text
from experiment.options import defaults
from experiment.report.published import departures
from system.errors import UserError
from system.files import scratch

if TYPE_CHECKING:
    import torch

    from padim.model import PaDiM
    from padim.pretrained import Pretrained


def is_as_published(args: argparse.Namespace) -> bool:
    """Whether everything but ``--seed`` and the weights is as the published metrics were."""
    from padim.backbone import ARCHITECTURES, find_architecture

    usual = defaults()
    own = {"seed": usual["seed"]}
    if args.method == "padim" and find_architecture(args.arch, args.layers) is ARCHITECTURES.get(args.arch):
        own["layers"] = usual["layers"]  # 明说的也可以是它自己的几层
    return not departures(vars(args) | own, usual)


def build(args: argparse.Namespace, device: "torch.device", size: tuple[int, int], store: Store) -> "Pretrained":
    """The model that ``args.method`` names.

    Parameters
    ----------
    args : argparse.Namespace
        From `experiment.options.experiment`.
    device : torch.device
    size : (int, int)
        Height and width of the images.
    store : Store
        Below its root SPADE keeps the training features while a class is computed.

    Raises
    ------
    UserError
        As the model.
    """
    if args.method == "spade":
        from padim.baselines.spade import SPADE

        return SPADE(args.arch, args.weights, device, size, args.precision, args.top_k, partial(scratch, store.root))
    if args.method == "mahalanobis_ad":
        from padim.baselines.mahalanobis_ad import MahalanobisAD  # 连带 scikit-learn，别的方法用不到

        return MahalanobisAD(args.arch, args.weights, device, size, args.precision)
    from padim.model import PaDiM

    return PaDiM(args.arch, args.weights, args.rd, args.seed, device, size, args.precision, args.layers, args.reduction)


def describe(model: "Pretrained") -> dict[str, Any]:
    """What a model's features depend on, and what its positions and layers are: the JSON beside the pickle."""
    import scipy
    import torch
    import torchvision

    return {
        "arch": model.arch,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        **model.choices,
        "precision": model.precision,
        "size": list(model.size),
        "layers": [asdict(layer) for layer in model.layers],
        "n_train": model.count,
        "region": to_text(model.region),
        # 这几项算好后补入
        **dict.fromkeys(("left_out_scores", "left_out", "left_out_alone_scores", "validation_scores", "test_set")),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pillow": PIL.__version__,
        },
    }


def model_of(record: dict[str, Any], weights: str, device: "torch.device") -> "PaDiM":
    """The model that made stored features, without its Gaussians.

    Parameters
    ----------
    record : dict
        The JSON beside them.
    weights : str
    device : torch.device

    Raises
    ------
    UserError
        If these are not the weights, or not the channels, that the features were made with.
    """
    from padim.model import PaDiM

    layers = [layer["name"] for layer in record["layers"]]
    dimensions, size, precision, reduction = (record[key] for key in ("dimensions", "size", "precision", "reduction"))
    model = PaDiM(
        record["arch"], weights, len(dimensions), record["seed"], device, tuple(size), precision, layers, reduction
    )
    if model.weights_sha256 != record["weights_sha256"]:
        raise UserError(
            f"--weights {weights} are not what the features were made with ({record['weights']}, "
            f"SHA-256 {record['weights_sha256'][:12]}, these have {model.weights_sha256[:12]}); give that file"
        )
    if model.dimensions != dimensions:
        raise UserError("the features hold other channels than their seed draws; fit again with --refit")
    return model

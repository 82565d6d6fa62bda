"""Which model a run has: PaDiM, or one of the predecessors that it is compared with.

一次运行所用的模型：PaDiM，或与之比较的前身。
"""

import argparse
from typing import Any

import torch

from experiment.files.folder import Store
from experiment.ranks import Ranks
from padim.backbone import ARCHITECTURES, find_architecture
from padim.baselines.mahalanobis_ad import MahalanobisAD
from padim.baselines.spade import SPADE
from padim.model import PaDiM
from padim.pretrained import Pretrained
from system.files import scratch


def key_of(method: str, arch: str) -> str:
    """Under which a model's results are filed; `experiment.report.style.split_key` undoes it."""
    return arch if method == "padim" else f"{method}_{arch}"


def is_own_setting(args: argparse.Namespace) -> bool:
    """Whether the model's layers and channels are those that its figures were published with."""
    if args.method != "padim":
        return True
    return find_architecture(args.arch, args.layers) is ARCHITECTURES.get(args.arch) and args.reduction == "random"


def build(args: argparse.Namespace, device: torch.device, size: tuple[int, int], store: Store) -> Pretrained:
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
        kept = args.top_k, lambda shape: scratch(store.root, shape)
        return SPADE(args.arch, args.weights, device, size, args.precision, *kept)
    if args.method == "mahalanobis_ad":
        return MahalanobisAD(args.arch, args.weights, device, size, args.precision)
    chosen = {"precision": args.precision, "layers": args.layers, "reduction": args.reduction}
    return PaDiM(args.arch, args.weights, args.rd, args.seed, device, size, **chosen)


def together(model: Pretrained, ranks: Ranks) -> dict[str, Any]:
    """What ``model.fit`` is given so that several processes fit one model; nothing for one process."""
    if ranks.size == 1:
        return {}
    return {"add": ranks.sum, "leads": ranks.leads} if isinstance(model, PaDiM) else {"gather": ranks.gather}

"""The weights of a pretrained network: downloaded, installed, from a file, or random; what tells them from others.

预训练网络的权重：下载的、随包安装的、文件里的或随机的；凭什么认得。
"""

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights

from padim import efficientnet_lite as lite
from system.errors import UserError
from system.files import expanded

# torchvision 自己的文件里的旧名字，它在装入时改过来：DenseNet 的各层，ViT 的 MLP
_OLD_NAMES = (
    (r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)", r"\1"),
    (r"(encoder_layer_\d+\.mlp)\.linear_1\.", r"\1.0."),
    (r"(encoder_layer_\d+\.mlp)\.linear_2\.", r"\1.3."),
)


def imagenet_weights(arch: str) -> WeightsEnum:
    """Torchvision's IMAGENET1K_V1 entry, the weights of the published figures (never ``DEFAULT``).

    Raises
    ------
    UserError
        If torchvision has no such weights for this network.
    """
    weights = get_model_weights(arch)
    if "IMAGENET1K_V1" not in weights.__members__:
        raise UserError(f"torchvision has no IMAGENET1K_V1 weights for {arch}; give a file with --weights PATH")
    return weights.IMAGENET1K_V1  # WideResNet50 的 DEFAULT 是 V2，数值不同


def load_network(arch: str, weights: str) -> tuple[nn.Module, bool]:
    """The whole network in eval mode, and whether its weights are ImageNet's V1.

    Parameters
    ----------
    arch : str
        ``efficientnet_lite0``, or any of torchvision's classification networks.
    weights : str
        ``imagenet`` (downloaded once, or installed), ``random`` (seed 0), or the path of a state dict.

    Raises
    ------
    UserError
        If the download, the file or its content fails; the message names the remedy.
    """
    # 先播种，再构造，随机权重便总是同一组；不动调用者的随机数状态
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = (lite.EfficientNetLite0() if arch == lite.NAME else get_model(arch, weights=None)).eval()
    if weights == "random":
        return network, False
    if weights == "imagenet":
        state, is_imagenet = _download(arch), True
    else:
        state, is_imagenet = _read(expanded(weights), arch)
    if is_imagenet and arch == lite.NAME:  # 别家的名字，同样的次序
        state = dict(zip(network.state_dict(), state.values(), strict=True))
    for old, new in _OLD_NAMES:
        state = {re.sub(old, new, key): value for key, value in state.items()}
    _check_fit(state, network.state_dict(), arch, weights)
    network.load_state_dict(state)
    if is_imagenet and hasattr(network, "transform_input"):
        network.transform_input = True  # Inception 的官方权重要求另一种归一化，网络自己换算
    return network, is_imagenet


def _download(arch: str) -> dict[str, Tensor]:
    if arch == lite.NAME:  # 随安装而来，不必下载
        state, is_imagenet = _read(path := lite.installed_weights(), arch)
        if not is_imagenet:
            raise UserError(f"{str(path)!r} is not the file that its package delivers; install it again")
        return state
    entry = imagenet_weights(arch)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[1]
    try:
        state = entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as problem:  # 断网、断流、写不进缓存、缓存里的坏文件：抛什么都有可能
        reason = " ".join(str(problem).split())[:120]
        if not cached.exists():
            raise UserError(
                f"cannot download the ImageNet weights ({reason}); fetch {entry.url} elsewhere, then give the file "
                f"with --weights PATH or put it at {str(cached)!r}"
            ) from problem
        raise UserError(f"cannot use {str(cached)!r} ({reason}); delete it and run again") from problem
    if not _is_official(cached, arch):  # torch 只在下载时核对
        raise UserError(
            f"{str(cached)!r} has the name of torchvision's file, and other content; delete it and run again"
        )
    return dict(state)


def _read(path: Path, arch: str) -> tuple[dict[str, Tensor], bool]:
    if not path.is_file():
        raise UserError(f"no weights file {str(path)!r}; --weights takes 'imagenet', 'random' or a state dict's path")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        reason = " ".join(str(problem).split())[:120]
        raise UserError(f"cannot read {str(path)!r} as a state dict ({reason}); see --weights") from problem
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{str(path)!r} holds no state dict; save it with torch.save(model.state_dict(), ...)")
    return state, _is_official(path, arch)


def _is_official(path: Path, arch: str) -> bool:
    """Whether a file's content is that of the published ImageNet weights."""
    # torchvision 的文件名里带着内容哈希的前八位：借此认出官方权重
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if arch == lite.NAME:
        return digest == lite.SHA256
    official = get_model_weights(arch).__members__.get("IMAGENET1K_V1")
    return bool(official) and digest.startswith(official.url.rsplit("-", 1)[1].removesuffix(".pth"))


def _check_fit(state: dict[str, Tensor], wanted: dict[str, Tensor], arch: str, source: str) -> None:
    # 旧的权重文件没有 num_batches_tracked，推理也用不到它
    problems = [f"missing {k}" for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    problems += [f"unexpected {k}" for k in state if k not in wanted]
    for k in wanted:
        if k in state and state[k].shape != wanted[k].shape:
            problems.append(f"{k} is {tuple(state[k].shape)}, not {tuple(wanted[k].shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{source!r} does not fit {arch}: {'; '.join(problems[:3])}{more}; see --weights and --arch")


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 over the sorted state dict: each name in UTF-8, then its tensor's raw bytes.

    A network that changes its input's normalisation by itself, as Inception does with ImageNet's weights, is another:
    "transform_input" follows then.
    """
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    if getattr(network, "transform_input", False):
        total.update(b"transform_input")
    return total.hexdigest()

"""The pretrained network, cut off behind the last layer that PaDiM reads.

References
----------
Defard et al., arXiv 2011.08785, section III.A and IV.C (backbones).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import WeightsEnum, get_model, get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor


@dataclass(frozen=True)
class Architecture:
    """What a backbone needs: the layers that are read, and how many random dimensions are kept."""

    layers: tuple[str, ...]
    dimensions: int


ARCHITECTURES = {
    "resnet18": Architecture(("layer1", "layer2", "layer3"), 100),
    "wide_resnet50_2": Architecture(("layer1", "layer2", "layer3"), 550),
}


class WeightsError(ValueError):
    """Weights that are not there or do not fit; the message is one line with the remedy."""


@dataclass(frozen=True)
class Layer:
    """One layer's output for the input size at hand; strides and receptive field in pixels."""

    name: str
    channels: int
    height: int
    width: int
    stride: int
    receptive_field: int


def imagenet_weights(arch: str) -> WeightsEnum:
    """Torchvision's IMAGENET1K_V1 entry, the weights of the published figures (never ``DEFAULT``)."""
    return get_model_weights(arch).IMAGENET1K_V1


def load_network(arch: str, weights: str) -> tuple[nn.Module, bool]:
    """The whole torchvision network in eval mode, and whether its weights are ImageNet's V1.

    Parameters
    ----------
    arch : str
        A key of `ARCHITECTURES`.
    weights : str
        ``imagenet`` (downloaded once), ``random`` (seed 0), or the path of a state dict.

    Raises
    ------
    WeightsError
        If the download, the file or its content fails; the message names the remedy.
    """
    # 与黄金结果相同：先播种，再构造；不动调用者的随机数状态
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = get_model(arch, weights=None).eval()
    if weights == "random":
        return network, False
    if weights == "imagenet":
        state, is_imagenet = _download(arch), True
    else:
        state, is_imagenet = _read(Path(weights), arch)
    _check_fit(state, network.state_dict(), arch, weights)
    network.load_state_dict(state)
    return network, is_imagenet


def _download(arch: str) -> dict[str, Tensor]:
    entry = imagenet_weights(arch)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[1]
    try:
        return entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as problem:  # 断网、断流、写不进缓存、缓存里的坏文件：抛什么都有可能
        reason = " ".join(str(problem).split())[:120]
        if not cached.exists():
            raise WeightsError(
                f"cannot download the ImageNet weights ({reason}); fetch {entry.url} elsewhere, then give the file "
                f"with --weights PATH or put it at {str(cached)!r}"
            ) from problem
        raise WeightsError(f"cannot use {str(cached)!r} ({reason}); delete it and run again") from problem


def _read(path: Path, arch: str) -> tuple[dict[str, Tensor], bool]:
    if not path.is_file():
        raise WeightsError(
            f"no weights file {str(path)!r}; --weights takes 'imagenet', 'random' or a state dict's path"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        reason = " ".join(str(problem).split())[:120]
        raise WeightsError(f"cannot read {str(path)!r} as a state dict ({reason}); see --weights") from problem
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{str(path)!r} holds no state dict; save it with torch.save(model.state_dict(), ...)")
    # torchvision 的文件名里带着内容哈希的前八位：借此认出官方权重
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    return state, digest.startswith(imagenet_weights(arch).url.rsplit("-", 1)[1].removesuffix(".pth"))


def _check_fit(state: dict[str, Tensor], wanted: dict[str, Tensor], arch: str, source: str) -> None:
    problems = [f"missing {k}" for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    problems += [f"unexpected {k}" for k in state if k not in wanted]
    for k in wanted:
        if k in state and state[k].shape != wanted[k].shape:
            problems.append(f"{k} is {tuple(state[k].shape)}, not {tuple(wanted[k].shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"{source!r} does not fit {arch}: {'; '.join(problems[:3])}{more}; see --weights and --arch")


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 over the sorted state dict: each name in UTF-8, then its tensor's raw bytes."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


class Backbone(nn.Module):
    """The network up to the last of ``layers``, with batch norm folded into the convolutions.

    Parameters
    ----------
    network : nn.Module
        A torchvision classification network.
    layers : sequence of str
        The modules whose outputs are the features, shallowest first.

    Notes
    -----
    Folding changes a feature by float32 rounding only. The memory format is channels-last, in
    which the convolutions are faster and a position's channels lie side by side.
    """

    def __init__(self, network: nn.Module, layers: tuple[str, ...]):
        super().__init__()
        self.layers = tuple(layers)
        # 只留下到最后一层为止的计算图：之后的部分不存在，也就不会被计算
        self.graph = create_feature_extractor(network.eval(), {name: name for name in layers})
        _fold_batch_norm(self.graph)
        self.graph.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), normalised → one (B, C, H_l, W_l) a layer, channels-last."""
        features = self.graph(images.contiguous(memory_format=torch.channels_last))
        return [features[name] for name in self.layers]

    def describe(self, height: int, width: int) -> list[Layer]:
        """Every layer's output for images of this size."""
        device = next(self.parameters()).device
        with torch.inference_mode():
            features = self(torch.zeros(1, 3, height, width, device=device))
        fields = _receptive_fields(self.graph)
        return [
            Layer(name, *feature.shape[1:], height // feature.shape[2], fields[name])
            for name, feature in zip(self.layers, features, strict=True)
        ]


def _fold_batch_norm(graph: torch.fx.GraphModule) -> None:
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        source = node.args[0]
        if source.op == "call_module" and isinstance(modules[source.target], nn.Conv2d) and len(source.users) == 1:
            folded = fuse_conv_bn_eval(modules[source.target], modules[node.target])
            graph.set_submodule(source.target, folded)
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()


def _receptive_fields(graph: torch.fx.GraphModule) -> dict[str, int]:
    """Side in pixels of what each returned feature sees, by the usual recursion over the graph."""
    modules, seen = dict(graph.named_modules()), {}  # node → (感受野, 步长的累积)
    for node in graph.graph.nodes:
        inputs = [seen[n] for n in node.all_input_nodes if n in seen] or [(1, 1)]
        field, jump = max(f for f, _ in inputs), max(j for _, j in inputs)
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            kernel, stride, dilation = (
                v if isinstance(v, int) else v[0]
                for v in (module.kernel_size, module.stride, getattr(module, "dilation", 1))
            )
            field, jump = field + (kernel - 1) * dilation * jump, jump * stride
        seen[node] = field, jump
        if node.op == "output":
            return {name: seen[source][0] for name, source in node.args[0].items()}
    raise AssertionError("a graph has an output")

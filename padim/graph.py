"""Work on a traced network: what is read off its graph, and what makes it faster.

对追踪所得计算图的加工：读出感受野与内存，折叠批归一化。
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from padim.efficientnet_lite import HalvingConv2d

_WHOLE = {"leaf_modules": [HalvingConv2d]}  # 不拆开：它也是卷积，可折叠，有感受野


def layer_names(network: nn.Module) -> list[str]:
    """Modules in the order of the calculation, the outer ones first."""
    nodes = get_graph_node_names(network, tracer_kwargs=dict(_WHOLE), suppress_diff_warning=True)[1]
    parts = [name.split(".") for name in nodes]
    modules = {name for name, _ in network.named_modules()}
    names = dict.fromkeys(".".join(part[:depth]) for depth in (1, 2, 3, 4) for part in parts if len(part) >= depth)
    return [name for name in names if name in modules]


def trace(network: nn.Module, layers: Sequence[str]) -> torch.fx.GraphModule:
    """A network's graph up to the last of some layers, whose outputs it returns by their names.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    names = {name: name for name in layers}
    return create_feature_extractor(network, names, tracer_kwargs=dict(_WHOLE), suppress_diff_warning=True)


class Watched(torch.fx.Interpreter):
    """Runs a graph node by node and keeps the size of what was alive."""

    most = 0

    def run_node(self, node: torch.fx.Node) -> object:
        result = super().run_node(node)
        # 就地运算的结果与输入是同一块内存：按存储计，不按张量计
        alive = {v.untyped_storage()._cdata: v for v in [*self.env.values(), result] if isinstance(v, Tensor)}
        self.most = max(self.most, sum(v.untyped_storage().nbytes() for v in alive.values()))
        return result


class _Watching(nn.Module):
    def __init__(self, graph: torch.fx.GraphModule):
        super().__init__()
        self.graph = graph

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], int]:
        watched = Watched(self.graph)
        return watched.run(images), watched.most


@torch.inference_mode()
def dry_run(graph: torch.fx.GraphModule, height: int, width: int) -> tuple[dict[str, Tensor], int]:
    """What a graph returns for one image, as tensors without content, and the most bytes alive at one time.

    Only shapes are computed (on torch's ``meta`` device, in float32), so that no size is too large to ask about.
    """
    watching = _Watching(graph)
    # meta 设备上的张量只有形状，没有内容：再大的尺寸也能推出来
    shapes = {
        n: value.to("meta", torch.float32 if value.is_floating_point() else None)
        for n, value in [*watching.named_parameters(), *watching.named_buffers()]
    }
    return functional_call(watching, shapes, (torch.zeros(1, 3, height, width, device="meta"),))


def open_sequences(graph: torch.fx.GraphModule) -> None:
    """Replace the call of a sequence (torchvision's Conv2dNormActivation is one) by calls of its modules."""
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.Sequential):
            value = node.args[0]
            with graph.graph.inserting_before(node):
                for name, _ in modules[node.target].named_children():  # 逐个接上
                    value = graph.graph.call_module(f"{node.target}.{name}", (value,))
            node.replace_all_uses_with(value)
            graph.graph.erase_node(node)
    graph.recompile()


def fold_batch_norm(graph: torch.fx.GraphModule) -> None:
    """Fold every batch norm that follows a convolution into it."""
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        source = node.args[0]
        # 卷积的输出若另有他用，就不能折叠
        if source.op == "call_module" and isinstance(modules[source.target], nn.Conv2d) and len(source.users) == 1:
            folded = fuse_conv_bn_eval(modules[source.target], modules[node.target])
            graph.set_submodule(source.target, folded)
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()


def keep_returned(graph: torch.fx.GraphModule) -> None:
    """Copy every returned value as soon as it is there: what comes later may overwrite it (``ReLU(inplace=True)``)."""
    output = list(graph.graph.nodes)[-1]
    kept = dict(output.args[0])
    for name, node in kept.items():
        with graph.graph.inserting_after(node):
            kept[name] = graph.graph.call_method("clone", (node,))  # 在被改写之前
    output.args = (kept,)
    graph.recompile()


def receptive_fields(graph: torch.fx.GraphModule) -> dict[str, tuple[float, int]]:
    """Side in pixels of what each returned feature sees, and its stride, by the usual recursion over the graph.

    Convolutions and poolings count, a pooling of the whole map as infinite. Squeeze-and-excitation
    does not: its gate weighs a channel by the whole picture, the same everywhere.
    """
    modules = dict(graph.named_modules())
    seen: dict[torch.fx.Node, tuple[float, int]] = {}  # node → (感受野, 步长的累积)
    for node in graph.graph.nodes:
        inputs = [seen[n] for n in node.all_input_nodes if n in seen] or [(1, 1)]
        field, jump = max(f for f, _ in inputs), max(j for _, j in inputs)  # 汇合处（残差）取最大
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            kernel, stride, dilation = (
                v if isinstance(v, int) else v[0]
                for v in (module.kernel_size, module.stride, getattr(module, "dilation", 1))
            )
            # r ← r + (k − 1)·膨胀·j，j ← j·s；r 为感受野，j 为相邻特征在图像上的间距
            field, jump = field + (kernel - 1) * dilation * jump, jump * stride
        elif isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
            field = math.inf  # 全局池化
        seen[node] = field, jump
        if node.op == "output":
            return {name: seen[source] for name, source in node.args[0].items()}
    raise AssertionError("a graph has an output")

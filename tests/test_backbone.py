import os
import re
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import ROOT

from padim.backbone import (
    ARCHITECTURES,
    Backbone,
)
from padim.graph import Watched, dry_run
from padim.weights import imagenet_weights, load_network, weights_sha256
from system.errors import UserError


@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - {"efficientnet_lite0"}))  # 其权重不在 torchvision
def test_the_published_weights_are_version_1(arch):
    entry = imagenet_weights(arch)
    assert entry.name == "IMAGENET1K_V1"
    assert (
        entry.url.rsplit("/", 1)[1]
        == {
            "resnet18": "resnet18-f37072fd.pth",
            "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
            "efficientnet_b5": "efficientnet_b5_lukemelas-1a07897c.pth",
        }[arch]
    )


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_features_are_the_whole_networks(arch):
    """Against hooks on torchvision's own network, with trained-looking batch norm statistics."""
    network, _ = load_network(arch, "random")
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    backbone = Backbone(network, ARCHITECTURES[arch].layers)
    wanted = {}
    for name in ARCHITECTURES[arch].layers:
        network.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: wanted.__setitem__(name, o))
    images = torch.randn(2, 3, 96, 96, generator=generator)
    with torch.no_grad():
        network(images)
        features = backbone(images)
    for name, feature in zip(ARCHITECTURES[arch].layers, features, strict=True):
        assert feature.shape == wanted[name].shape
        assert (feature - wanted[name]).abs().max() < 1e-5 * wanted[name].abs().max()


@pytest.mark.parametrize(
    ("arch", "layers"),
    [
        ("resnet18", ["bn1", "layer1"]),  # 其后是就地的 ReLU
        ("resnet18", ["layer1.0.bn2", "layer1.1.bn1", "layer2"]),  # 其后是 +=，再是就地的 ReLU
        ("vgg11", ["features.0", "features.3"]),
        ("squeezenet1_1", ["features.0", "features.3.squeeze", "features.4"]),
        ("densenet121", ["features.norm0", "features.denseblock1", "features.norm5", "classifier"]),
        ("mobilenet_v2", ["features.2.conv.2", "features.3"]),
        ("alexnet", ["avgpool", "classifier.0", "classifier.1", "classifier.2"]),  # 推理时的 Dropout 原样交出输入
        ("efficientnet_b0", ["features.2.1.block", "features.2.1.stochastic_depth", "features.3"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight initialization")
def test_what_is_returned_is_not_overwritten(arch, layers):
    """Against hooks that copy at once, where later modules work in place."""
    whole, cut = (load_network(arch, "random")[0] for _ in range(2))
    wanted = {}
    for name in layers:
        whole.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: wanted.__setitem__(name, o.clone()))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    backbone = Backbone(cut, layers)
    with torch.no_grad():
        whole(images)
        features = backbone(images)
    for name, feature in zip(backbone.layers, features, strict=True):
        assert (feature - wanted[name]).abs().max() <= 1e-5 * wanted[name].abs().max(), name


def test_sizes_that_are_too_small_or_too_large(capfd):
    """The remedy is the right one; a size that no memory holds is refused before anything is computed."""
    backbone = Backbone(load_network("resnet18", "random")[0], ("layer1", "layer2", "layer3"))
    for side in (10**6, 10**9, 10**10):
        with pytest.raises(UserError, match=f"images of {side}x{side} are too large.*smaller --resize"):
            backbone.describe(side, side)
    alexnet = Backbone(load_network("alexnet", "random")[0], ["features.3", "features.6"])
    with pytest.raises(UserError, match=r"takes no images of 10x10.*larger --resize"):
        alexnet.describe(10, 10)
    assert capfd.readouterr() == ("", "")  # torch.fx 会把生成的代码里的错误印出来


def test_a_refused_allocation_is_recognised(monkeypatch):
    backbone = Backbone(load_network("resnet18", "random")[0], ("layer1",))
    problems = [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory"),
    ]
    for problem in problems:

        def refuse(*_, problem=problem, **__):
            raise problem

        monkeypatch.setattr(torch, "empty", refuse)
        with pytest.raises(UserError, match=r"images of 64x64 are too large.*smaller --resize"):
            backbone.describe(64, 64)


def test_a_dry_run_says_what_a_real_one_gives():
    for arch in ARCHITECTURES:
        backbone = Backbone(load_network(arch, "random")[0], ARCHITECTURES[arch].layers)
        watched = Watched(backbone.graph)
        with torch.inference_mode():
            wanted = watched.run(torch.zeros(1, 3, 75, 96))
        returned, most = dry_run(backbone.graph, 75, 96)
        assert most == watched.most
        assert {k: v.shape for k, v in returned.items()} == {k: v.shape for k, v in wanted.items()}


def test_nothing_after_the_last_layer_is_left():
    network, _ = load_network("resnet18", "random")
    backbone = Backbone(network, ("layer1", "layer2", "layer3"))
    names = {name.split(".")[1] for name, _ in backbone.named_modules() if name.count(".") == 1}
    assert {"layer4", "fc", "avgpool"}.isdisjoint(names) and "layer3" in names
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.modules())


def test_layers_are_described():
    network, _ = load_network("resnet18", "random")
    layers = Backbone(network, ("layer1", "layer2", "layer3")).describe(224, 224)
    assert [(x.channels, x.height, x.width, x.stride) for x in layers] == [
        (64, 56, 56, 4), (128, 28, 28, 8), (256, 14, 14, 16),
    ]  # fmt: skip
    assert [x.receptive_field for x in layers] == [43, 99, 211]


def test_random_weights_are_torchvisions_constructor_seeded():
    state = torch.get_rng_state()
    network, is_imagenet = load_network("resnet18", "random")
    assert torch.equal(torch.get_rng_state(), state) and not is_imagenet
    torch.manual_seed(0)
    assert weights_sha256(network) == weights_sha256(torchvision.models.resnet18(weights=None))


def test_weights_from_a_state_dict(tmp_path):
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    loaded, is_imagenet = load_network("resnet18", str(tmp_path / "own.pth"))
    assert weights_sha256(loaded) == weights_sha256(network) and not is_imagenet


class Payload:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_weights_that_do_not_fit(tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(UserError, match="no weights file"):
        load_network("resnet18", str(path))
    path.write_bytes(b"not a state dict")
    with pytest.raises(UserError, match=r"cannot read .*w\.pth"):
        load_network("resnet18", str(path))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="no state dict"):
        load_network("resnet18", str(path))
    torch.save({"fc.weight": Payload()}, path)
    with pytest.raises(UserError, match="cannot read"):
        load_network("resnet18", str(path))
    state = torchvision.models.resnet18(weights=None, num_classes=10).state_dict()
    del state["conv1.weight"]
    torch.save(state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"missing conv1\.weight; unexpected extra; fc\.weight is .* and 1 more"):
        load_network("resnet18", str(path))


def test_no_network_says_what_to_fetch(tmp_path):
    """A real process whose only way out is a port where nothing listens."""
    dead = "http://127.0.0.1:9"
    environment = os.environ | {"TORCH_HOME": str(tmp_path), "https_proxy": dead, "http_proxy": dead}
    code = "from padim.weights import load_network; load_network('resnet18', 'imagenet')"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    last = run.stderr.strip().splitlines()[-1]
    assert "UserError" in last and "resnet18-f37072fd.pth" in last and "--weights PATH" in last
    assert str(tmp_path) in last


def test_a_broken_cached_download_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth.*delete it"):
        load_network("resnet18", "imagenet")


def test_a_cached_file_is_believed_by_its_content_alone(tmp_path, monkeypatch):
    """Random weights under the official name: torch compares the hash while it downloads, and never again."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), cached)
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth' has the name of .*other content; delete it"):
        load_network("resnet18", "imagenet")
    _, is_imagenet = load_network("resnet18", str(cached))
    assert not is_imagenet


@pytest.mark.parametrize(
    ("arch", "new", "old"),
    [
        ("densenet121", r"(denselayer\d+\.(?:norm|conv))(?=[12]\.)", r"\1."),
        ("vit_b_32", r"mlp\.(0|3)\.", lambda found: f"mlp.linear_{1 + int(found[1]) // 3}."),
    ],
)
def test_the_old_names_of_torchvisions_own_files(tmp_path, arch, new, old):
    """As the files have them that torchvision offers, and renames when it loads them."""
    network = torchvision.models.get_model(arch, weights=None)
    state = {re.sub(new, old, key): value for key, value in network.state_dict().items()}
    assert state.keys() != network.state_dict().keys()
    torch.save(state, tmp_path / "old.pth")
    loaded, _ = load_network(arch, str(tmp_path / "old.pth"))
    assert weights_sha256(loaded) == weights_sha256(network)


def test_what_a_network_does_with_its_input_belongs_to_it():
    """Inception with ImageNet's weights changes the normalisation; a copy with the same numbers need not."""
    network, _ = load_network("inception_v3", "random")
    plain = weights_sha256(network)
    network.transform_input = True
    assert weights_sha256(network) != plain

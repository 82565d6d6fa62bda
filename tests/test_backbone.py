import os
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import ROOT

from padim.backbone import ARCHITECTURES, Backbone, WeightsError, imagenet_weights, load_network, weights_sha256


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
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
    with pytest.raises(WeightsError, match="no weights file"):
        load_network("resnet18", str(path))
    path.write_bytes(b"not a state dict")
    with pytest.raises(WeightsError, match=r"cannot read .*w\.pth"):
        load_network("resnet18", str(path))
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="no state dict"):
        load_network("resnet18", str(path))
    torch.save({"fc.weight": Payload()}, path)
    with pytest.raises(WeightsError, match="cannot read"):
        load_network("resnet18", str(path))
    state = torchvision.models.resnet18(weights=None, num_classes=10).state_dict()
    del state["conv1.weight"]
    torch.save(state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"missing conv1\.weight; unexpected extra; fc\.weight is .* and 1 more"):
        load_network("resnet18", str(path))


def test_no_network_says_what_to_fetch(tmp_path):
    """A real process whose only way out is a port where nothing listens."""
    dead = "http://127.0.0.1:9"
    environment = os.environ | {"TORCH_HOME": str(tmp_path), "https_proxy": dead, "http_proxy": dead}
    code = "from padim.backbone import load_network; load_network('resnet18', 'imagenet')"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    last = run.stderr.strip().splitlines()[-1]
    assert "WeightsError" in last and "resnet18-f37072fd.pth" in last and "--weights PATH" in last
    assert str(tmp_path) in last


def test_a_broken_cached_download_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut off")
    with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth.*delete it"):
        load_network("resnet18", "imagenet")

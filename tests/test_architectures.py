"""Other backbones than the ResNets, and other layers."""

import pytest
import torch
from torch.nn.functional import interpolate

from padim.backbone import Backbone, find_architecture
from padim.model import PaDiM
from padim.weights import load_network
from system.errors import UserError


def test_efficientnet_b5():
    efficientnet = PaDiM("efficientnet_b5", "random")
    assert [(x.name, x.channels, x.height, x.width, x.stride) for x in efficientnet.layers] == [
        ("features.2", 40, 56, 56, 4), ("features.4", 128, 14, 14, 16), ("features.5", 176, 14, 14, 16),
    ]  # fmt: skip
    assert efficientnet.dimensions == list(range(344))
    # 逐层手算：核、步长依次为 3/2、3/1 ×3、3/2、3/1 ×4，……
    assert efficientnet.layers[0].receptive_field == 3 + 2 * 2 * 3 + 2 * 2 + 4 * 2 * 4
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in efficientnet.backbone.modules())


def test_a_model_of_it_is_what_the_definition_says():
    """Concatenated, up-sampled features of torchvision's own network, against the model's Gaussians."""
    efficientnet = PaDiM("efficientnet_b5", "random", size=(64, 96))
    images = torch.rand(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    efficientnet.fit(images.split(3))
    network, _ = load_network("efficientnet_b5", "random")
    layers, x = [], images
    with torch.no_grad():
        for stage in network.features[:6]:
            x = stage(x)
            layers.append(x)
    embeddings = torch.cat([layers[2], *(interpolate(layers[k], (16, 24)) for k in (4, 5))], 1)
    embeddings = embeddings.permute(2, 3, 0, 1).flatten(0, 1).double()  # (P, N, 344)
    wanted = embeddings.mean(1)
    mean, covariance = efficientnet.state()
    assert (mean - wanted).abs().max() < 1e-4 * wanted.abs().max()
    wanted = torch.cov(embeddings[123].T) + 0.01 * torch.eye(344)
    assert (covariance[123] - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_sizes_that_are_no_multiples_of_each_other():
    model = PaDiM("efficientnet_b5", "random", size=(225, 100))
    assert [(x.height, x.width) for x in model.layers] == [(57, 25), (15, 7), (15, 7)]
    assert model.cells[:, 1].unique().numel() == 15 * 7  # 每格都用到


def test_any_network_with_named_layers():
    model = PaDiM("mobilenet_v3_small", "random", 20, layers=["features.4", "features.1", "features.2"])
    assert [(x.name, x.channels, x.stride) for x in model.layers] == [
        ("features.1", 16, 4), ("features.2", 24, 8), ("features.4", 40, 16),
    ]  # fmt: skip
    images = torch.rand(3, 3, 224, 224)
    model.fit([images])
    assert model.state()[0].shape == (3136, 20) and next(model.score([images])).maps.shape == (3, 224, 224)


def test_layers_and_dimensions_of_a_known_network():
    assert PaDiM("resnet18", "random").dimensions[:3] == [408, 9, 247]
    assert PaDiM("resnet18", "random", layers=("layer3", "layer1", "layer2")).dimensions[:3] == [408, 9, 247]
    two = PaDiM("resnet18", "random", layers=("layer2", "layer1"))
    assert [x.name for x in two.layers] == ["layer1", "layer2"] and two.dimensions == list(range(192))
    assert PaDiM("resnet18", "random", 448).dimensions == list(range(448))


def test_layers_may_be_inside_others():
    network, _ = load_network("resnet18", "random")
    layer = Backbone(network, ["layer1.0.conv1"]).describe(224, 224)[0]
    assert (layer.channels, layer.stride, layer.receptive_field) == (64, 4, 19)
    layer = Backbone(network, ["avgpool"]).describe(224, 224)[0]
    assert (layer.height, layer.width, layer.receptive_field) == (1, 1, 224)


@pytest.mark.parametrize(
    ("arch", "layers", "words"),
    [
        ("resnet19", None, "no network 'resnet19'.*resnet18"),
        ("ResNet18", None, "no network 'ResNet18'.*resnet18"),
        ("../x", None, "no network.*efficientnet_b5"),
        ("squeezenet1_1", None, r"--layers.*features\.0"),
        ("resnet18", ["layer5"], "no layer 'layer5'.*layer4"),
        ("resnet18", ["layer1", "fc"], "'fc' gives 1000 values"),
        ("vit_b_32", ["encoder.layers.encoder_layer_0"], "gives 50 × 768 values"),
        ("swin_t", ["features.1"], "gives 56 × 56 × 96 values"),
    ],
)
def test_what_is_not_there_is_refused(arch, layers, words):
    with pytest.raises(UserError, match=words):
        entry = find_architecture(arch, layers)
        Backbone(load_network(arch, "random")[0], entry.layers).describe(224, 224)

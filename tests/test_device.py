import pytest
import torch

from padim.device import DeviceError, check_precision, describe_device, pick_device, tf32
from padim.model import PaDiM

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def maps(model: PaDiM) -> torch.Tensor:
    model.fit(images(12).split(5))
    return torch.cat([torch.from_numpy(s.maps) for s in model.score([images(3)])])


def test_devices():
    assert pick_device("cpu").type == "cpu" and "threads" in describe_device(pick_device("cpu"))
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "nonsense", "meta"):
        with pytest.raises(DeviceError, match=f"--device {name}"):
            pick_device(name)
    with pytest.raises(DeviceError, match="--precision tf32"):
        check_precision("tf32", torch.device("cpu"))


def test_tf32_is_off_inside_and_as_it_was_outside():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with tf32(False):
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_no_mode_leaks_out_of_scoring():
    model = PaDiM("resnet18", "random", dimensions=5).fit([images(4)])
    for _ in model.score([images(2)]):
        assert not torch.is_inference_mode_enabled()


def test_bf16_changes_the_forward_pass_only():
    exact = PaDiM("resnet18", "random", dimensions=20)
    rough = PaDiM("resnet18", "random", dimensions=20, precision="bf16")
    wanted, got = maps(exact), maps(rough)
    assert rough.mean.dtype == rough.factor.dtype == got.dtype == torch.float32
    deviation = ((got - wanted).abs() / wanted).max()
    assert 1e-6 < deviation < 0.1


@cuda
def test_gpu_parity():
    wanted = maps(PaDiM("resnet18", "random"))
    got = maps(PaDiM("resnet18", "random", device="cuda"))
    assert ((got - wanted).abs() / wanted).max() < 1e-4


@cuda
def test_short_gpu_memory_halves_the_batch():
    model = PaDiM("wide_resnet50_2", "random", dimensions=20, device="cuda")
    wanted = maps(model)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 60e6) / total)
    try:
        with pytest.warns(UserWarning, match="batches of"):
            got = maps(model)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert ((got - wanted).abs() / wanted).max() < 1e-4

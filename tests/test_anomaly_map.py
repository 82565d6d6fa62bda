import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import interpolate

from padim.anomaly_map import AnomalyMap


@pytest.mark.parametrize(("grid", "size"), [((56, 56), (224, 224)), ((8, 12), (64, 80))])
def test_is_bilinear_upsampling_then_scipys_filter(grid, size):
    distances = torch.rand(3, *grid, generator=torch.Generator().manual_seed(0)) * 10 + 5
    up = interpolate(distances[:, None].double(), size, mode="bilinear", align_corners=False)[:, 0].numpy()
    wanted = np.stack([gaussian_filter(m, sigma=4) for m in up])
    maps = AnomalyMap(grid, size)(distances)
    assert maps.dtype == torch.float32
    np.testing.assert_allclose(maps, wanted, rtol=2e-6)

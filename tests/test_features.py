import numpy as np
import pytest

from padim.features import empty


@pytest.mark.parametrize("shape", [(1,), (3, 5, 5), (70, 20, 20)])
def test_memory_is_aligned_for_equal_bits(shape):
    held = [empty(shape) for _ in range(20)]
    for array in held:
        assert array.shape == shape and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
        assert array.ctypes.data % 64 == 0

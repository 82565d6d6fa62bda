"""A class's masks in memory, one bit a pixel.

一类的掩码，在内存里每个像素一位。
"""

import numpy as np


class PackedMasks:
    """Masks (N, H, W) of zeros and ones, written and read a few at a time.

    Parameters
    ----------
    shape : (int, int, int)
    """

    def __init__(self, shape: tuple[int, int, int]):
        self.shape = shape
        self._bits = np.zeros((shape[0], -(-shape[1] * shape[2] // 8)), np.uint8)

    def __setitem__(self, part: slice, masks: np.ndarray) -> None:
        """Take masks (n, H, W), non-zero is defect."""
        self._bits[part] = np.packbits((masks != 0).reshape(len(masks), -1), axis=1)

    def __getitem__(self, part: slice | int) -> np.ndarray:
        """Masks (n, H, W), or one (H, W), uint8."""
        pixels = np.unpackbits(self._bits[part], axis=-1, count=self.shape[1] * self.shape[2])
        return pixels.reshape(*pixels.shape[:-1], *self.shape[1:])

    def __array__(self, dtype: type | None = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

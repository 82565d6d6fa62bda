"""A class's test set while it is scored: maps, pictures, masks, filled block by block, from all ranks.

打分过程中一个类别的测试集：异常图、图片与掩码，逐块写入；多个进程时汇到第一个。
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from datasets.preprocessing import to_pictures
from experiment.files.folder import Store
from experiment.ranks import Ranks
from system.files import Staged, forget

if TYPE_CHECKING:
    from torch import Tensor

    from padim.pretrained import ImageScores, Pretrained, Scores

    Block = tuple[int, Scores | ImageScores, np.ndarray, np.ndarray]  # 起点，得分，图片，掩码


class ScoreFiles:
    """Takes a test set's scores in order.

    Parameters
    ----------
    store : Store
    ranks : Ranks
        Each rank scores its share of the pictures; the leader writes all of them.
    name : str
        The class.
    count : int
        N, test pictures of all ranks.
    model : Pretrained
        Whose scores they are.
    staged : Staged
        Gets the files; they have their names when all of the class's have.

    Attributes
    ----------
    has_maps : bool
    region : ndarray, (H, W) bool, or None
        The model's.
    maps_path : Path
        Where the maps lie meanwhile; this and the next two are on the leader alone.
    masks : PackedMasks, (N, H, W)
    centres : ndarray, (N, d) float32
        The embeddings at the centre position; of a predecessor d = 0.
    own_scores : ndarray, (N,) float32, or None
        The pictures' scores where they are not the maps' maxima; filled on the leader.
    """

    def __init__(self, store: Store, ranks: Ranks, name: str, count: int, model: "Pretrained", staged: Staged):
        self._store, self._ranks, self._name, self._staged = store, ranks, name, staged
        self.has_maps = model.has_maps
        self.region = model.region
        self._shape, self._dimensions = (count, *model.size), len(model.dimensions)
        self.own_scores = np.empty(count, np.float32) if model.has_own_scores else None
        self._next = ranks.share(count).start
        shares = (ranks.share(count, rank) for rank in range(ranks.size))
        self._rounds = max(-(-len(share) // model.block) for share in shares)  # 各进程交出的块数相同，缺的是空的
        self._waiting: deque[tuple[np.ndarray, np.ndarray]] = deque()  # 已解码、还没有得分的：图片与掩码

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Within it the files are filled; they are staged if it ends without an error."""
        with ExitStack() as held:
            if self._ranks.leads and self._shape[0]:
                self.masks = PackedMasks(self._shape)  # 评估与作图还要用：比本段上下文活得长
                self.centres = np.empty((self._shape[0], self._dimensions), np.float32)
                if self.has_maps:
                    opened = self._store.score_files(self._name, self._shape, self._staged)
                    self.maps, self.pictures, self.maps_path = held.enter_context(opened)
            yield
            while self._rounds:
                self._exchange(None)

    def keep(self, batches: Iterable[tuple["Tensor", "Tensor", "Tensor"]]) -> Iterator["Tensor"]:
        """The images of ``(image, label, mask)`` batches; pictures and masks are kept until their scores come."""
        for images, _, masks in batches:
            self._waiting.extend(zip(to_pictures(images.numpy()), masks[:, 0].numpy(), strict=True))
            yield images

    def append(self, scores: "Scores | ImageScores") -> None:
        """Take the next block of this rank's scores."""
        block = [self._waiting.popleft() for _ in scores.image_scores]
        pictures, masks = map(np.stack, zip(*block, strict=True))
        self._exchange((self._next, scores, pictures, masks))
        self._next += len(block)

    def _exchange(self, own: "Block | None") -> None:
        self._rounds -= 1
        for block in self._ranks.to_leader(own):
            if block is not None:
                start, scores, pictures, masks = block
                here = slice(start, start + len(masks))
                self.centres[here], self.masks[here] = scores.centre, masks
                if self.own_scores is not None:
                    self.own_scores[here] = scores.image_scores
                if scores.maps is not None:
                    self.maps[here], self.pictures[here] = scores.maps, pictures
                    forget(self.maps, self.pictures)  # 写过的页不必都留在内存里


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

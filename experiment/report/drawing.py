"""When localization figures are drawn: in threads, while the experiment goes on.

何时画定位图：在线程里，与实验同时进行。
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from tqdm import tqdm

from experiment.files.folder import Store
from experiment.report.colours import Colours
from padim.counts import Masks
from system.resources import cores


def chosen_figures(count: int, wanted: str | int) -> list[int]:
    """The test pictures to draw: all, none, or a number spread evenly over the test set."""
    if wanted == "all":
        return list(range(count))
    number = 0 if wanted == "none" else min(int(wanted), count)
    return [i * count // number for i in range(number)]


@dataclass(frozen=True)
class Drawings:
    """A class's localization figures that were handed in; `finish` waits for them."""

    name: str
    jobs: list[tuple[Callable[[], None], Future[None]]]

    def finish(self) -> None:
        """Draw with the pool until all are there: it from the front, the caller from the back, with a progress bar."""
        title = f"localization figures | test | {self.name}"
        for job, future in tqdm(self.jobs[::-1], desc=title, unit="image", disable=not self.jobs):
            job() if future.cancel() else future.result()


class Drawer:
    """Threads that draw localization figures while the experiment goes on (NumPy and zlib leave the interpreter)."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max(1, cores() - 1), "draw")  # 给计算留一个核

    def draw(self, store: Store, name: str, indices: Sequence[int], masks: Masks | None, colours: Colours) -> Drawings:
        """Hand in these test pictures of a class, from its stored maps and pictures.

        Parameters
        ----------
        store : Store
        name : str
        indices : sequence of int
        masks : (N, H, W), or None
            Non-zero is defect.
        colours : Colours
        """
        if not indices:
            return Drawings(name, [])
        maps, pictures = (np.load(path, mmap_mode="r") for path in (store.maps(name), store.pictures(name)))
        from experiment.report.figures import canvas_for, save_figure  # 连带 matplotlib：画图之前不必等它

        canvas = canvas_for(*maps.shape[1:], colours.bar)

        def one(i: int) -> None:
            truth = None if masks is None else masks[i]
            save_figure(canvas.draw(pictures[i], truth, np.asarray(maps[i]), colours), store.figure(name, i))

        jobs = [partial(one, i) for i in indices]
        return Drawings(name, [(job, self._pool.submit(job)) for job in jobs])

    def stop(self) -> None:
        """Draw nothing more; what is being drawn is finished."""
        self._pool.shutdown(cancel_futures=True)

"""What follows a class's scores, in a thread: metrics, small arrays, its row, its localization figures.

一类打完分之后的事，在一个线程里：评估、存小数组、记一行结果、画定位图；下一类的计算不等它。
"""

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from datasets.folder import FolderDataset
from experiment.current import Current
from experiment.files.arrays import arrays_of, row_of
from experiment.files.folder import Store
from experiment.report.colours import OF_CLASS, are_faint, colours_of, scale_of
from experiment.report.drawing import Drawer, Drawings, chosen_figures
from experiment.report.results import ResultsFile, remark
from experiment.report.threshold import test_set, thresholds_of
from experiment.score_files import ScoreFiles
from padim.apart import evaluate_apart
from padim.counts import Masks
from padim.metrics import ClassEvaluation, evaluate_maps
from system.command import wait_for
from system.errors import UserError
from system.files import close, write_json

FAINT = (
    "nine of ten defective pictures stay below a third of the heat maps' scale, the least to the largest score of the "
    "class; --colours threshold shows them, without scoring again: plot/localization.py --colours threshold"
)


class Evaluator:
    """Evaluates one class while the next one is computed; rows are recorded in the classes' order.

    Parameters
    ----------
    store : Store
    results : ResultsFile
    figures : str or int
        Localization figures a class: ``all``, ``none`` or a number.

    Attributes
    ----------
    waited : float
        Seconds that the run has waited for metrics.
    """

    def __init__(self, store: Store, results: ResultsFile, figures: str | int):
        self._store, self._results, self._figures, self.waited = store, results, figures, 0.0
        self._thread, self._drawer = ThreadPoolExecutor(1, "evaluate"), Drawer()
        self._evaluation: Future[Drawings] | None = None
        self._drawings: Drawings | None = None

    def hand_over(self, now: Current, test: FolderDataset, files: ScoreFiles, record: dict[str, Any] | None) -> None:
        """Take the next class, once the one before it is finished.

        Parameters
        ----------
        now : Current
        test : FolderDataset
        files : ScoreFiles
            All of its test pictures' scores.
        record : dict or None
            The JSON beside its pickle, which gets the thresholds; None where nothing is stored.
        """
        try:
            self.finish()
        finally:  # 上一类出了错，这一类也不白算
            self._evaluation = self._thread.submit(self._evaluate, now, test, files, record)

    def _evaluate(
        self, now: Current, test: FolderDataset, files: ScoreFiles, record: dict[str, Any] | None
    ) -> Drawings:
        name, watch, store = now.name, now.watch, self._store
        chosen = chosen_figures(len(test), self._figures)
        found: ClassEvaluation | None = None
        apart: dict[str, ClassEvaluation] = {}
        arrays: dict[str, Any] = {}
        masks: Masks | None = None
        with now.staged as staged:  # all is written and synced before its end, which takes the old files away
            if len(test):
                with watch.stage("evaluate"):
                    maps = np.load(files.maps_path, mmap_mode="r") if files.has_maps else None
                    masks = files.masks if files.has_maps and test.has_masks else None
                    try:
                        found = evaluate_maps(maps, test.labels, masks, files.own_scores, files.region)
                    except UserError as problem:  # 说出来时，可能已在算下一类
                        raise UserError(f"class {name!r}: {problem}") from problem
                    apart = evaluate_apart(
                        maps, test.labels, masks, test.kinds, test.APART, files.own_scores, files.region
                    )
                    if maps is not None:
                        close(maps)  # Windows 不许改名仍映射着的文件
                    arrays = arrays_of(found, test.names(), test.kinds, test.labels, masks, files.centres)
                    store.write_arrays(name, arrays, staged)
            else:
                staged.remove(store.arrays(name), store.maps(name), store.pictures(name))
            thresholds = thresholds_of(store.fitted(name), record, arrays)
            row = row_of(found, apart, thresholds.decision, thresholds.origin)
            for words in row["remarks"]:
                remark(name, words)
            row |= now.data | {"n_test": len(test), "remarks": [*now.data["remarks"], *row["remarks"]]}
            if record is not None:
                write_json(store.fitted(name).with_suffix(".json"), record | {"test_set": test_set(arrays)}, staged)
            is_new = self._results.record(name, row | {"seconds": watch.seconds | {"total": watch.total}}, staged)
            kept = [] if is_new else [store.figure(name, i) for i in chosen]  # 得分没变：旧图一张张换
            staged.remove(*(path for path in store.figures(name) if path not in kept))
        self._results.say(name)
        colours = colours_of(thresholds, scale_of(self._results.content, name))
        if chosen and colours.bar == OF_CLASS:
            maps = np.load(store.maps(name), mmap_mode="r")
            if are_faint(colours, [float(np.nanmax(maps[i])) for i in np.flatnonzero(test.labels)]):
                remark(name, FAINT, sys.stdout)
        return self._drawer.draw(store, name, chosen, masks, colours)

    def finish_row(self) -> None:
        """Wait for the row of the class that was taken last."""
        evaluation, self._evaluation, start = self._evaluation, None, time.perf_counter()
        if evaluation is not None:
            wait_for(evaluation)
            self._drawings = evaluation.result()
            self.waited += time.perf_counter() - start

    def finish(self) -> None:
        """Wait for the row of the class that was taken last, and for its figures; only then it is finished."""
        self.finish_row()
        drawings, self._drawings = self._drawings, None
        if drawings is not None:
            drawings.finish()
            self._results.finish(drawings.name)

    def stop(self) -> None:
        """Begin nothing more, and wait for what is being computed or drawn."""
        self._thread.shutdown(cancel_futures=True)  # the evaluation first, which still hands figures in; 先停它
        self._drawer.stop()

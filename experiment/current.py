"""The class that a run is at work on: what is known of it, and its files that are not in place yet.

运行中手头的一类：已知的事，与尚未换上的文件。
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from experiment.good_scores import left_out_by
from system.files import Staged


class Stopwatch:
    """The seconds of each stage; one that is entered again goes on. ``total`` is the time since it was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @property
    def total(self) -> float:
        return round(time.perf_counter() - self._start, 3)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - start, 3)


@dataclass(frozen=True)
class Current:
    """The class at work.

    Attributes
    ----------
    name : str
    data : dict
        From `DataFolder.record`, ``n_train``, the class's ``remarks``, and the fingerprint of its ``region``.
    made_from : dict
        What the JSON beside the pickle says of its training pictures.
    watch : Stopwatch
    waited : float
        Seconds of communication before the class.
    stored : dict or None
        The JSON beside the pickle, as it was before the class; None where there is none that belongs to it.
    scores : dict
        Of good pictures, for the JSON beside the pickle; at first None for what is stored there and no longer holds.
    leave_out : str or int, optional
        How training pictures are left out, where that is asked for, or where they were before in another region.
    staged : Staged
        What gets its name when all of the class is there.
    """

    name: str
    data: dict[str, Any]
    made_from: dict[str, Any]
    watch: Stopwatch
    waited: float
    stored: dict[str, Any] | None
    scores: dict[str, Any]
    leave_out: str | int | None
    staged: Staged = field(default_factory=Staged)

    def has_left_out(self, by: str | int | None) -> bool:
        """Whether left-out scores are stored, of this region, and were left out as ``by`` asks (`Lots.by`), if it does.

        To be asked before there are new ones.
        """
        if self.stored is None or self.stored["left_out_scores"] is None or self.scores:
            return False
        return by in (None, left_out_by(self.stored))

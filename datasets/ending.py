"""An end in one line on Ctrl-C and SIGTERM, for a command that does without torch."""

import signal
import sys
from collections.abc import Callable


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends the work as Ctrl-C does."""


def run(work: Callable[[], int], interrupted: str) -> int:
    """What ``work`` returns, an exit status; 130 after Ctrl-C and 143 after SIGTERM, having said ``interrupted``."""

    def terminate(*_: object) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        return work()
    except KeyboardInterrupt as kind:
        for again in (signal.SIGINT, signal.SIGTERM):  # 已在收尾：再按一次也不必有回溯
            signal.signal(again, signal.SIG_IGN)
        status = 143 if isinstance(kind, _Terminated) else 130
    print(interrupted, file=sys.stderr)  # 出了 except，进度条已收起：这一行在最后
    return status

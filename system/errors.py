"""The mistakes of a user: one class, whose message is one line and holds the remedy.

使用者的错误：一个类，消息一行，含补救的办法。
"""

import errno

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # 磁盘满，或配额用尽


class UserError(ValueError):
    """Something that the user must change: an option, a file, a folder, the machine."""


def explain(problem: BaseException) -> str | None:
    """What the user must change, in one line; None for a bug, which deserves its traceback."""
    if isinstance(problem, UserError):
        return str(problem)
    # torch 的显存不足是 RuntimeError 的子类；这里不装入 torch，只认名字
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        return "out of memory; a smaller --batch_size or --rd needs less"
    if isinstance(problem, OSError):
        where = f"{problem.filename!r}: " if problem.filename else ""
        if problem.errno in FULL:
            hint = (
                "make room, or choose another folder (--save_path, --out); --no_features leaves out the largest files"
            )
            return f"{where}{problem.strerror}; {hint}"
        return (
            f"{where}{problem.strerror or problem}; see the options that name folders (--data_path, --save_path, --out)"
        )
    return None

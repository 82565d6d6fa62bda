"""The mistakes of a user: one class, whose message is one line and holds the remedy.

使用者的错误：一个类，消息一行，含补救的办法。
"""

import errno

FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # 磁盘满，或配额用尽


# 内存不够，各家各有说法：CPU 上的分配器，CUDA，cuBLAS，cuSOLVER，cuDNN
_REFUSED = (
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    # cuDNN 逐个试各种算法，每次的显存不足都被 torch 咽下，末了只说一个也不行；能算卷积，选设备时已试过
    "Unable to find a valid cuDNN algorithm to run convolution",
    "unable to find an engine to execute this computation",
)


class UserError(ValueError):
    """Something that the user must change: an option, a file, a folder, the machine."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory was refused, the machine's or a GPU's, which torch and the libraries below it say in many ways."""
    # torch.OutOfMemoryError 是 RuntimeError 的子类；这里不装入 torch，只认名字
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in _REFUSED)


def explain(problem: BaseException) -> str | None:
    """What the user must change, in one line; None for a bug, which deserves its traceback."""
    if isinstance(problem, UserError):
        return str(problem)
    if is_out_of_memory(problem):
        words = "a smaller --batch_size, where there is one, or a fit with a smaller --rd or --arch needs less"
        return f"out of memory; {words}"
    if isinstance(problem, OSError):
        if isinstance(problem, BrokenPipeError) and not problem.filename:
            return "nobody reads standard output any more; give the command again, and let it write to the end"
        where = f"{problem.filename!r}: " if problem.filename else ""
        if problem.errno in FULL:
            hint = "make room, or choose another folder (--save_path, --out); --no_features leaves out PaDiM's pickles"
            return f"{where}{problem.strerror}; {hint}"
        return (
            f"{where}{problem.strerror or problem}; see the options that name folders (--data_path, --save_path, --out)"
        )
    return None

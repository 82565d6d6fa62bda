"""A pickle of two numpy arrays, read as data: nothing in it is looked up, called or executed.

Imports no torch. Python's own unpickler, even restricted, can be made to reserve gigabytes by a few bytes (a memo
index, a length). This reader knows the instructions that numpy arrays need, and makes a handful of records.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_MOST_INSTRUCTIONS = 400  # 两个数组至多用到约一百条
_LONGEST_NAME = 100  # 更长的文本只可能是协议 2 里的数组内容


class UnpickleError(ValueError):
    """A pickle that is damaged or holds anything else than arrays of floats."""


class ForeignError(UnpickleError):
    """A pickle that asks for something to be called: no damage makes that of an array."""


@dataclass(frozen=True)
class StoredArray:
    """Where an array's numbers lie in a pickle.

    Attributes
    ----------
    dtype : numpy.dtype
        float32 or float64, of either byte order.
    shape : tuple of int
    order : str
        ``C`` or ``F``.
    start, size : int
        The bytes in the file.
    as_text : bool
        Protocol 2 has no bytes: each is a character, U+0000 to U+00FF, in UTF-8.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    order: str
    start: int
    size: int
    as_text: bool


def locate(path: Path) -> list[StoredArray]:
    """Find the two arrays of a pickled ``[mean, cov]``; their numbers are not read.

    Protocols 2 to 5, written under numpy 1 or 2.

    Raises
    ------
    UnpickleError
        If the file is truncated, or holds or asks for anything else.
    """
    with open(path, "rb") as file:
        return _Machine(file, os.fstat(file.fileno()).st_size).run()


@dataclass(frozen=True)
class _Name:
    """Something the pickle names. It is never looked up: it only selects one of the constructors below."""

    module: str
    name: str


@dataclass(frozen=True)
class _Content:
    """Bytes, or text, of the pickle; of short text the value too."""

    start: int
    size: int
    as_text: bool = False
    value: str | None = None


@dataclass
class _Type:
    """A dtype; complete when its byte order is known."""

    code: str
    order: str | None = None


@dataclass
class _Array:
    """An array; complete when it has content."""

    content: StoredArray | None = None


class _Mark:
    """Where items begin on the stack."""


def _only(wanted: bool, reason: str = "it holds something else than arrays of floats") -> None:
    if not wanted:
        raise UnpickleError(reason)


def _matches(value: Any, *types: type) -> bool:
    """Whether ``value`` is a tuple of exactly these types: nothing deeper is ever compared or hashed."""
    return type(value) is tuple and tuple(map(type, value)) == types


def _make_type(arguments: tuple) -> _Type:
    # np.dtype("f4", False, True)；旧版写作 0 与 1
    _only(_matches(arguments, _Content, bool, bool) or _matches(arguments, _Content, int, int))
    _only(arguments[0].value in ("f4", "f8"), "it holds other numbers than float32 or float64")
    return _Type(arguments[0].value)


def _make_empty_array(arguments: tuple) -> _Array:
    _only(_matches(arguments, _Name, tuple, _Content) and arguments[0] == _Name("numpy", "ndarray"))
    _only(_matches(arguments[1], int) and arguments[1] == (0,) and arguments[2].size == 1)
    return _Array()


def _make_array(arguments: tuple) -> _Array:
    _only(_matches(arguments, _Content, _Type, tuple, _Content))
    content, dtype, shape, order = arguments
    return _Array(_describe(shape, dtype, order.value, content))


def _make_bytes(arguments: tuple) -> _Content:
    # 协议 2：_codecs.encode(文本, "latin1")
    _only(_matches(arguments, _Content, _Content) and arguments[0].as_text and arguments[1].value == "latin1")
    return arguments[0]


def _complete_type(dtype: _Type, state: Any) -> None:
    _only(_matches(state, int, _Content, *[type(None)] * 3, *[int] * 3) and dtype.order is None)
    _only(state[1].value in ("<", ">") and (state[0], *state[5:]) == (3, -1, -1, 0))
    dtype.order = state[1].value


def _complete_array(array: _Array, state: Any) -> None:
    _only(_matches(state, int, tuple, _Type, bool, _Content) and state[0] == 1 and array.content is None)
    _, shape, dtype, fortran, content = state
    array.content = _describe(shape, dtype, "F" if fortran else "C", content)


def _describe(shape: tuple, dtype: _Type, order: str | None, content: _Content) -> StoredArray:
    _only(dtype.order is not None and order in ("C", "F"))
    _only(0 < len(shape) <= 3 and all(type(n) is int and 0 < n < 1 << 40 for n in shape))
    wanted = prod(shape) * int(dtype.code[1])
    # 文本里一个字节占一到两个字节，此外须分毫不差：要占的内存以文件大小为限
    fits = wanted <= content.size <= 2 * wanted if content.as_text else wanted == content.size
    _only(fits, "an array has another size than its shape says")
    return StoredArray(np.dtype(dtype.order + dtype.code), shape, order, content.start, content.size, content.as_text)


_CONSTRUCTORS: dict[_Name, Callable[[tuple], Any] | None] = {
    _Name("numpy", "ndarray"): None,  # 只作参数出现
    _Name("numpy", "dtype"): _make_type,
    _Name("_codecs", "encode"): _make_bytes,
    # numpy 1 与 numpy 2 的模块名
    _Name("numpy.core.multiarray", "_reconstruct"): _make_empty_array,
    _Name("numpy._core.multiarray", "_reconstruct"): _make_empty_array,
    _Name("numpy.core.numeric", "_frombuffer"): _make_array,
    _Name("numpy._core.numeric", "_frombuffer"): _make_array,
}


class _Machine:
    """Runs a pickle's instructions on records that describe arrays."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> list[StoredArray]:
        _only(self.read(1) == b"\x80" and 2 <= self.number(1) <= 5, "it is no pickle of protocol 2 to 5")
        for _ in range(_MOST_INSTRUCTIONS):
            code = self.read(1)
            if code == b".":
                return self.result()
            _only(code in _INSTRUCTIONS, f"it has the instruction {code!r}, which no array needs")
            _INSTRUCTIONS[code](self)
        raise UnpickleError("it has more instructions than two arrays need")

    def result(self) -> list[StoredArray]:
        _only(len(self.stack) == 1 and type(self.stack[0]) in (list, tuple), "it does not hold two arrays")
        arrays = [a.content for a in self.stack[0] if type(a) is _Array and a.content]
        _only(len(arrays) == len(self.stack[0]) == 2, "it does not hold two arrays")
        _only(self.file.tell() == self.size, "it goes on after its end")
        return arrays

    def read(self, count: int) -> bytes:
        data = self.file.read(count)
        _only(len(data) == count, "it is truncated")
        return data

    def number(self, count: int, signed: bool = False) -> int:
        return int.from_bytes(self.read(count), "little", signed=signed)

    def pop(self) -> Any:
        _only(bool(self.stack) and type(self.stack[-1]) is not _Mark)
        return self.stack.pop()

    def pop_to_mark(self) -> tuple:
        values = []
        while self.stack and type(self.stack[-1]) is not _Mark:
            values.append(self.stack.pop())
        _only(bool(self.stack))
        self.stack.pop()
        return tuple(reversed(values))

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_content(self, width: int, as_text: bool) -> None:
        """Bytes or text with their length before them: passed over, but for short text."""
        size = self.number(width)
        start, value = self.file.tell(), None
        _only(size <= self.size - start, "it is truncated")
        if as_text and size <= _LONGEST_NAME:
            value = self.read(size).decode(errors="replace")
        else:
            self.file.seek(size, os.SEEK_CUR)
        self.push(_Content(start, size, as_text, value))

    def push_tuple(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def push_name(self, module: str | None, name: str | None) -> None:
        if _Name(module, name) not in _CONSTRUCTORS:
            raise ForeignError(f"it asks for {f'{module}.{name}'!r}")
        self.push(_Name(module, name))

    def name_in_lines(self) -> None:
        module, name = (self.file.readline(_LONGEST_NAME).decode(errors="replace") for _ in range(2))
        self.push_name(module.rstrip("\n"), name.rstrip("\n"))

    def name_on_stack(self) -> None:
        name, module = self.pop(), self.pop()
        _only(type(name) is type(module) is _Content)
        self.push_name(module.value, name.value)

    def append(self, values: tuple) -> None:
        _only(bool(self.stack) and type(self.stack[-1]) is list)
        self.stack[-1].extend(values)

    def remember(self, key: int) -> None:
        _only(bool(self.stack))
        self.memo[key] = self.stack[-1]

    def recall(self, key: int) -> None:
        _only(key in self.memo)
        self.push(self.memo[key])

    def reduce(self) -> None:
        arguments, name = self.pop(), self.pop()
        make = _CONSTRUCTORS[name] if type(name) is _Name else None
        _only(make is not None and type(arguments) is tuple)
        self.push(make(arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        _only(type(target) in (_Type, _Array))
        (_complete_type if type(target) is _Type else _complete_array)(target, state)


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x95": lambda m: _only(m.number(8) <= m.size - m.file.tell(), "it is truncated"),  # FRAME：只是分段
    b"(": lambda m: m.push(_Mark()),
    b"]": lambda m: m.push([]),
    b"a": lambda m: m.append((m.pop(),)),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b")": lambda m: m.push(()),
    b"\x85": lambda m: m.push_tuple(1),
    b"\x86": lambda m: m.push_tuple(2),
    b"\x87": lambda m: m.push_tuple(3),
    b"t": lambda m: m.push(m.pop_to_mark()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.push(m.number(4, signed=True)),
    b"X": lambda m: m.push_content(4, as_text=True),
    b"\x8c": lambda m: m.push_content(1, as_text=True),
    b"C": lambda m: m.push_content(1, as_text=False),
    b"B": lambda m: m.push_content(4, as_text=False),
    b"\x8e": lambda m: m.push_content(8, as_text=False),
    b"\x96": lambda m: m.push_content(8, as_text=False),
    b"c": lambda m: m.name_in_lines(),
    b"\x93": lambda m: m.name_on_stack(),
    b"q": lambda m: m.remember(m.number(1)),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.number(1)),
    b"j": lambda m: m.recall(m.number(4)),
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
}

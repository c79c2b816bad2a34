"""An interpreter of pickles that can only build containers, strings, numbers and NumPy arrays.

A pickle is a program for a stack machine that may call anything it names. This machine knows the instructions that
NumPy and plain containers need (protocols 2 to 5), looks names up in a table of its own and imports nothing. Dtypes and
arrays are made from what was checked here, never by NumPy's own unpickling, which trusts the sizes it is told.
Byte strings are slices of the view that is given, so large arrays are not copied.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from eegdecode.data.sources import SourceError

MAPPED_FROM_BYTES = 1 << 16
"""Byte strings from this size on stay in the file."""

_DTYPE = re.compile(r"[?biufcSUO]\d{0,9}")
_BROKEN = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, struct.error, RecursionError)
"""What a pickle that was cut or altered makes us stumble over."""


def refuse(path: Path, asked: str) -> NoReturn:
    """Raise SourceError that names what a pickle asked for."""
    raise SourceError(
        f"{path.name}: refused, its pickle asks for '{asked}'. Only NumPy arrays, tensors and plain containers are "
        "read; nothing was run."
    )


@dataclass(frozen=True)
class Named:
    """Something a pickle may name, and what it makes of its arguments."""

    call: Callable[..., Any] | None = None


@dataclass
class _Unbuilt:
    """A dtype or an array before its state has come; `key` is its place in the memo."""

    dtype: np.dtype[Any] | None = None
    key: int | None = None


def _make_dtype(code: object, *_: object) -> _Unbuilt:
    # A dtype is made from its letters alone. The full state could describe memory that is not there.
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise ValueError(f"dtype '{code}' is no plain number or string")
    return _Unbuilt(np.dtype(code))


def _build_dtype(dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
    version, order, subarray, names, fields = state[:5]
    if version not in (3, 4) or order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
        raise ValueError("a dtype with fields")
    return dtype.newbyteorder(order)


def array_over(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """Return an array over bytes (or a list of objects) whose number is exactly that of its shape.

    Raises
    ------
    ValueError
        Any other number, or no valid shape.
    """
    if not isinstance(dtype, np.dtype) or not all(isinstance(n, int) and n >= 0 for n in shape) or order not in "CF":
        raise ValueError("an array without a valid shape")
    n = math.prod(shape)
    if dtype.hasobject:
        if not isinstance(raw, list) or len(raw) != n:
            raise ValueError(f"an array of {n} objects that brings others")
        objects = np.empty(n, dtype=object)
        for k, item in enumerate(raw):
            objects[k] = item
        return objects.reshape(shape, order="F" if order == "F" else "C")
    if not isinstance(raw, bytes | memoryview) or len(raw) != n * dtype.itemsize:
        raise ValueError(f"an array of shape {tuple(shape)} {dtype} that brings another number of bytes")
    if n == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C")


def _build_array(state: Any) -> np.ndarray:
    version, shape, dtype, fortran, raw = state
    if version != 1:
        raise ValueError(f"an array of version {version}")
    return array_over(raw, dtype, shape, "F" if fortran else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: str, axes: Any = None) -> np.ndarray:
    # From protocol 5 on; order K is that of the axes in memory, `axes` brings them back.
    if order == "K":
        return array_over(raw, dtype, shape, "C").transpose(axes)
    return array_over(raw, dtype, shape, order)


def _scalar(dtype: Any, raw: Any) -> Any:
    if dtype.hasobject:
        raise ValueError("a scalar object")
    return array_over(raw, dtype, (), "C")[()]


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in encoding '{encoding}'")
    return text.encode("latin1")


_NAMED: dict[str, Named] = {
    "numpy.ndarray": Named(),
    "numpy.dtype": Named(_make_dtype),
    # NumPy 2 moved its core; files keep the spelling of whoever wrote them.
    **{
        f"numpy.{core}.{name}": Named(call)
        for core in ("core", "_core")
        for name, call in (
            ("multiarray._reconstruct", lambda *_: _Unbuilt()),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
    "collections.OrderedDict": Named(lambda pairs=(): {_key(key): value for key, value in pairs}),
    # Protocol 2 has no instruction for a set, nor for bytes; empty bytes come as a call without arguments.
    "__builtin__.bytes": Named(lambda: b""),
    **{f"{module}.set": Named(lambda items: {_key(item) for item in items}) for module in ("builtins", "__builtin__")},
    "_codecs.encode": Named(_encode),
}


def _key(value: Any) -> Any:
    # The hash of nested tuples may take for ever.
    if not isinstance(value, str | bytes | int | float | None | np.generic):
        raise ValueError(f"a key of type {type(value).__name__}")
    return value


class Interpreter:
    """A pickle's instructions over a stack, protocols 2 to 5, restricted to what `_NAMED` and `named` know.

    Parameters
    ----------
    view
        Bytes that begin with the pickle.
    named
        Further names, for archives of torch.
    storage
        Resolves a persistent id; refused if None.
    """

    def __init__(
        self,
        path: Path,
        view: memoryview,
        named: dict[str, Any] | None = None,
        storage: Callable[[Any], Any] | None = None,
    ) -> None:
        self._path, self._view, self._at = path, view, 0
        self._named = {**_NAMED, **(named or {})}
        self._storage = storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._unbuilt = 0

    def run(self) -> Any:
        """Return the object that the pickle describes.

        Raises
        ------
        SourceError
            A pickle that was cut or altered, or asks for something that is not known here; nothing was run.
        """
        try:
            while (code := self._take(1)[0]) != pickle.STOP[0]:
                step = _STEPS.get(code)
                if step is None:
                    refuse(self._path, f"instruction {bytes([code])!r}")
                step(self)
            value = self._stack.pop()
            if self._stack or self._unbuilt:
                raise ValueError("parts without their content")
        except SourceError:
            raise
        except _BROKEN as error:
            raise SourceError(
                f"{self._path.name}: truncated or altered, its pickle is invalid at byte {self._at} ({error})."
            ) from error
        return value

    def _take(self, n: int) -> memoryview:
        taken = self._view[self._at : self._at + n]
        if len(taken) != n:
            raise ValueError(f"it ends where {n} bytes must follow")
        self._at += n
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        # Names are short: the end of the line is looked for in the next kilobyte only.
        line, newline, _ = bytes(self._view[self._at : self._at + 1024]).partition(b"\n")
        if not newline:
            raise ValueError("a name without end")
        self._at += len(line) + 1
        return line.decode()

    def _text(self, form: str) -> None:
        self._stack.append(str(self._take(self._number(form)), "utf-8", "surrogatepass"))

    def _bytes(self, form: str) -> None:
        content = self._take(self._number(form))
        self._stack.append(content if len(content) >= MAPPED_FROM_BYTES else bytes(content))

    def _long(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._number("B")), "little", signed=True))

    def _popped(self) -> list[Any]:
        """Return, and remove, what lies above the last mark."""
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _tuple(self, n: int) -> None:
        items = tuple(self._stack[len(self._stack) - n :])
        if len(items) != n:
            raise ValueError("a tuple without its items")
        self._stack[len(self._stack) - n :] = [items]

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise TypeError("items for something that is no list")
        target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise TypeError("items for something that is no dict")
        target.update((_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def _add(self) -> None:
        items = self._popped()
        target = self._stack[-1]
        if not isinstance(target, set):
            raise TypeError("items for something that is no set")
        target.update(_key(item) for item in items)

    def _remember(self, key: int) -> None:
        value = self._stack[-1]
        if isinstance(value, _Unbuilt):
            value.key = key
        self._memo[key] = value

    def _name(self, module: object, name: object) -> None:
        found = self._named.get(f"{module}.{name}")
        if found is None:
            refuse(self._path, f"{module}.{name}")
        self._stack.append(found)

    def _stack_name(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._name(module, name)

    def _call(self) -> None:
        arguments, named = self._stack.pop(), self._stack.pop()
        if not isinstance(named, Named) or named.call is None or not isinstance(arguments, tuple):
            raise TypeError("a call of something that can not be called")
        value = named.call(*arguments)
        self._unbuilt += isinstance(value, _Unbuilt)
        self._stack.append(value)

    def _build(self) -> None:
        state, unbuilt = self._stack.pop(), self._stack.pop()
        if not isinstance(unbuilt, _Unbuilt):
            raise TypeError("state for something that takes none")
        value = _build_array(state) if unbuilt.dtype is None else _build_dtype(unbuilt.dtype, state)
        self._unbuilt -= 1
        if unbuilt.key is not None:
            self._memo[unbuilt.key] = value
        self._stack.append(value)

    def _persistent(self) -> None:
        key = self._stack.pop()
        if self._storage is None:
            refuse(self._path, "an object outside the pickle")
        self._stack.append(self._storage(key))


_STEPS: dict[int, Callable[[Interpreter], object]] = {
    code[0]: step
    for code, step in {
        pickle.PROTO: lambda p: p._take(1),
        pickle.FRAME: lambda p: p._take(8),
        pickle.MARK: lambda p: p._marks.append(len(p._stack)),
        pickle.NONE: lambda p: p._stack.append(None),
        pickle.NEWTRUE: lambda p: p._stack.append(True),
        pickle.NEWFALSE: lambda p: p._stack.append(False),
        pickle.BININT: lambda p: p._stack.append(p._number("<i")),
        pickle.BININT1: lambda p: p._stack.append(p._number("B")),
        pickle.BININT2: lambda p: p._stack.append(p._number("<H")),
        pickle.LONG1: lambda p: p._long(),
        pickle.BINFLOAT: lambda p: p._stack.append(p._number(">d")),
        pickle.SHORT_BINUNICODE: lambda p: p._text("B"),
        pickle.BINUNICODE: lambda p: p._text("<I"),
        pickle.BINUNICODE8: lambda p: p._text("<Q"),
        pickle.SHORT_BINBYTES: lambda p: p._bytes("B"),
        pickle.BINBYTES: lambda p: p._bytes("<I"),
        pickle.BINBYTES8: lambda p: p._bytes("<Q"),
        pickle.BYTEARRAY8: lambda p: p._bytes("<Q"),
        pickle.EMPTY_TUPLE: lambda p: p._stack.append(()),
        pickle.TUPLE: lambda p: p._stack.append(tuple(p._popped())),
        pickle.TUPLE1: lambda p: p._tuple(1),
        pickle.TUPLE2: lambda p: p._tuple(2),
        pickle.TUPLE3: lambda p: p._tuple(3),
        pickle.EMPTY_LIST: lambda p: p._stack.append([]),
        pickle.APPEND: lambda p: p._append([p._stack.pop()]),
        pickle.APPENDS: lambda p: p._append(p._popped()),
        pickle.EMPTY_DICT: lambda p: p._stack.append({}),
        pickle.SETITEM: lambda p: p._set([p._stack.pop(-2), p._stack.pop()]),
        pickle.SETITEMS: lambda p: p._set(p._popped()),
        pickle.EMPTY_SET: lambda p: p._stack.append(set()),
        pickle.ADDITEMS: lambda p: p._add(),
        pickle.BINGET: lambda p: p._stack.append(p._memo[p._number("B")]),
        pickle.LONG_BINGET: lambda p: p._stack.append(p._memo[p._number("<I")]),
        pickle.BINPUT: lambda p: p._remember(p._number("B")),
        pickle.LONG_BINPUT: lambda p: p._remember(p._number("<I")),
        pickle.MEMOIZE: lambda p: p._remember(len(p._memo)),
        pickle.GLOBAL: lambda p: p._name(p._line(), p._line()),
        pickle.STACK_GLOBAL: lambda p: p._stack_name(),
        pickle.REDUCE: lambda p: p._call(),
        pickle.BUILD: lambda p: p._build(),
        pickle.BINPERSID: lambda p: p._persistent(),
    }.items()
}

"""Read the pickles that the paper's authors released, once, and without trusting them.

A pickle is a program. This is the one module that opens any, with an interpreter that knows none of
the functions a pickle may name: where it names one that arrays and tensors need, a function of this
module runs instead, which checks everything it is given; any other name is refused. Arrays are put
together only by what stands here, never by NumPy's or PyTorch's own unpickling. The tensors' own
bytes go through PyTorch's loader of plain tensors (`weights_only=True`).

A hostile file can still waste memory and time.
"""

import io
import math
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from reco.errors import RecoError

DEPTH = 8  # of containers in containers


class RefusedError(Exception):
    """The pickle holds what is not plain data."""


class _Global:
    """What a pickle gets for a name: calls a function of ours, and cannot be changed."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it changes a function")


class _Array:
    """An array, or one that the pickle has yet to fill."""

    __slots__ = ("value",)

    def __init__(self, value: np.ndarray | None = None) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if self.value is not None:
            raise RefusedError("it changes an array")
        version, shape, dtype, fortran, raw = state
        if version != 1 or not isinstance(fortran, bool | int):
            raise RefusedError("an array of an unknown version")
        self.value = _from_bytes(raw, dtype, shape, "F" if fortran else "C")


class _DType:
    """The type of an array's numbers: booleans, integers or floats of a fixed width."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise RefusedError(f"an array of {str(code)[:40]!r}")
        self.code = code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        version, order, *fields = state
        if version not in (3, 4) or order not in ("<", ">", "|", "=") or any(fields[:3]):
            raise RefusedError("an array of structures")
        self.order = order

    def make(self) -> np.dtype:
        """The type for NumPy."""
        return np.dtype(self.order + self.code)


class _Storage:
    """The numbers of a tensor, or of several that are parts of it."""

    __slots__ = ("values",)

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        raise RefusedError("it changes a storage")


def _sizes(shape: Any) -> tuple[int, ...]:
    """A tuple of lengths."""
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise RefusedError("an array of an impossible shape")
    return shape


def _from_bytes(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _DType):
        raise RefusedError("an array that is not made of bytes")
    shape, kind = _sizes(shape), dtype.make()
    if order not in ("C", "F") or math.prod(shape) * kind.itemsize != len(raw):
        raise RefusedError("an array whose bytes do not fit its shape")
    values = np.frombuffer(raw, kind).reshape(shape, order=order)
    return np.array(values, dtype=kind.newbyteorder("="), order="C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY or shape != (0,):
        raise RefusedError("an array of another class")
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    if axes is not None:
        raise RefusedError("an array of an unknown order")
    return _Array(_from_bytes(raw, dtype, shape, order))


def _scalar(dtype: Any, raw: Any) -> Any:
    return _from_bytes(raw, dtype, ()).item()


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedError("text in an unknown encoding")
    return text.encode("latin1")


def _empty_dict(*arguments: Any) -> dict:
    if arguments:
        raise RefusedError("a dictionary made in an unknown way")
    return OrderedDict()


def _empty_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise RefusedError("bytes made in an unknown way")
    return b""


def _refuse_call(*_: Any) -> None:
    raise RefusedError("it calls a class")


def _load_from_bytes(raw: Any) -> _Storage:
    """Numbers of a tensor, which PyTorch wrote as a pickle within the pickle."""
    import torch

    if not isinstance(raw, bytes | bytearray):
        raise RefusedError("a tensor that is not made of bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or refused pickle brings up nearly anything
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        said = f"names {named[1]}" if named else "is damaged"
        raise RefusedError(f"a tensor's storage {said}") from None
    numbers = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    floats = (torch.float16, torch.float32, torch.float64, torch.bfloat16)
    if not isinstance(loaded, torch.storage.TypedStorage) or loaded.dtype not in numbers + floats:
        raise RefusedError("a tensor's storage holds something else")
    values = torch.empty(0, dtype=loaded.dtype).set_(loaded._untyped_storage)
    if values.dtype == torch.bfloat16:
        values = values.float()
    return _Storage(values.numpy().copy())  # a copy, for torch's objects are large


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> _Array:
    """A tensor as a copy of its part of the storage, which must be within it."""
    if not isinstance(storage, _Storage) or hooks or metadata:
        raise RefusedError("a tensor with more than numbers")
    size, stride = _sizes(size), _sizes(stride)
    if type(offset) is not int or offset < 0 or len(size) != len(stride):
        raise RefusedError("a tensor of an impossible shape")
    values = storage.values
    if math.prod(size) == 0:
        return _Array(np.empty(size, values.dtype))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(values) or math.prod(size) > len(values):
        raise RefusedError("a tensor beyond its storage")
    steps = tuple(step * values.itemsize for step in stride)
    return _Array(np.lib.stride_tricks.as_strided(values[offset:], size, steps).copy())


_NDARRAY = _Global(_refuse_call)
_FLOATS, _LONGS = _Global(_refuse_call), _Global(_refuse_call)
NUMBERS = {_FLOATS: "<f4", _LONGS: "<i8"}  # of the storages in checkpoints of the old format
LEGACY = [0x1950A86A20F9469CFC6C, 1001]  # what such a checkpoint begins with
GLOBALS = {
    ("_codecs", "encode"): _Global(_encode),
    ("__builtin__", "bytes"): _Global(_empty_bytes),  # how old protocols write b""
    ("collections", "OrderedDict"): _Global(_empty_dict),
    ("numpy", "dtype"): _Global(_DType),
    ("numpy", "ndarray"): _NDARRAY,
    **{
        (f"numpy.{core}.{module}", name): made
        for core in ("core", "_core")
        for module, name, made in (
            ("multiarray", "_reconstruct", _Global(_reconstruct)),
            ("multiarray", "scalar", _Global(_scalar)),
            ("numeric", "_frombuffer", _Global(_frombuffer)),
        )
    },
    ("torch", "FloatStorage"): _FLOATS,
    ("torch", "LongStorage"): _LONGS,
    ("torch._utils", "_rebuild_tensor_v2"): _Global(_rebuild_tensor),
    ("torch.storage", "_load_from_bytes"): _Global(_load_from_bytes),
}


class _Unpickler(pickle.Unpickler):
    """An interpreter of pickles that knows the names in GLOBALS and no others.

    Args:
        storages: numbers that the pickle may refer to, by key; new ones are made as zeros.
    """

    def __init__(self, file: BinaryIO, storages: dict[str, _Storage] | None = None) -> None:
        super().__init__(file)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        try:
            return GLOBALS[module, name]
        except KeyError:
            raise RefusedError(f"it names {module}.{name}"[:200]) from None

    def persistent_load(self, pid: Any) -> Any:
        if self.storages is None:
            raise RefusedError("it refers to another file")
        what, kind, key, _, count, view = pid
        if what != "storage" or view is not None or type(count) is not int or count < 0:
            raise RefusedError("it refers to something unknown")
        if key not in self.storages:
            self.storages[key] = _Storage(np.zeros(count, NUMBERS[kind]))
        return self.storages[key]


def read_plain(path: str | Path) -> Any:
    """What a pickle of plain data holds; nothing that it names is executed.

    Returns:
        dicts, lists, tuples, strings, bytes, numbers; arrays and tensors as NumPy arrays.

    Raises:
        RecoError: no such file, damaged, or with anything else in it, which is named.
    """
    return _read(Path(path), lambda file: _Unpickler(file).load())


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors by name of a checkpoint as PyTorch wrote them before its version 1.6.

    It is five pickles (a mark, a version, the machine, the tensors, the keys of their storages) and
    then the numbers of every storage.

    Raises:
        RecoError: see `read_plain`.
    """
    found = _read(Path(path), _load_legacy)
    if not isinstance(found, dict):
        raise RecoError(f"{path}: holds no tensors by name: another file?")
    return found


def _read(path: Path, load: Callable[[BinaryIO], Any]) -> Any:
    try:
        with open(path, "rb") as file:
            return _plain(load(file), {}, 0)
    except FileNotFoundError:
        raise RecoError(f"{path}: no such pickle: `reco download` fetches those released") from None
    except RefusedError as error:
        raise RecoError(
            f"{path}: refused, and not executed: {error}: only tensors, arrays, numbers and text "
            "are read from pickles; get the file again from where it was released"
        ) from None
    except Exception as error:  # a damaged pickle brings up nearly anything
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecoError(f"{path}: not a readable pickle ({said}): fetch it again") from None


def _load_legacy(file: BinaryIO) -> Any:
    """The tensors of a checkpoint; they stand before their numbers, and so are read twice."""
    if [_Unpickler(file).load(), _Unpickler(file).load()] != LEGACY:
        raise RefusedError("it is no checkpoint of the old format")
    _Unpickler(file).load()
    start = file.tell()
    storages: dict[str, _Storage] = {}
    _Unpickler(file, storages).load()
    keys = _Unpickler(file).load()
    if storages.keys() - set(keys):
        raise RefusedError("a storage without numbers")
    for key in keys:
        values = storages[key].values
        if int.from_bytes(file.read(8), "little") != len(values):
            raise RefusedError("a storage of another length than its tensors have")
        numbers = file.read(values.nbytes)
        if len(numbers) < values.nbytes:
            raise RefusedError("a storage that is cut off")
        storages[key] = _Storage(np.frombuffer(numbers, values.dtype))
    file.seek(start)
    return _Unpickler(file, storages).load()


def _plain(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """Put arrays in the place of what stands for them; each container is visited once."""
    if isinstance(value, _Array):
        if value.value is None:
            raise RefusedError("an array without numbers")
        return value.value
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | bytearray):
        return value
    if not isinstance(value, dict | list | tuple):
        raise RefusedError(f"it holds a {type(value).__name__.strip('_')}")
    if depth > DEPTH:
        raise RefusedError("it is nested too deep")
    if id(value) not in seen:
        # `seen` keeps the containers themselves, too, so that no other gets the id of one
        if isinstance(value, tuple):
            seen[id(value)] = (tuple(_plain(item, seen, depth + 1) for item in value), value)
        else:
            seen[id(value)] = (value, value)
            items: Any = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                if not isinstance(key, str | int | float | None):
                    raise RefusedError("it has a dictionary with unusual keys")
                filled: Any = value
                filled[key] = _plain(item, seen, depth + 1)
    return seen[id(value)][0]

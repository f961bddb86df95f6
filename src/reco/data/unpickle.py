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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from reco.data.tables import write_table
from reco.errors import RecoError
from reco.files import atomic, write_array
from reco.progress import LOG

DEPTH = 8  # of containers in containers
NORM = 0.01  # how far from 1 the length of an embedding may be without a word


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
    ("torch._utils", "_rebuild_tensor_v2"): _Global(_rebuild_tensor),
    ("torch.storage", "_load_from_bytes"): _Global(_load_from_bytes),
}


class _Unpickler(pickle.Unpickler):
    """An interpreter of pickles that knows the names in GLOBALS and no others."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return GLOBALS[module, name]
        except KeyError:
            raise RefusedError(f"it names {module}.{name}"[:200]) from None

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("it refers to another file")


def read_plain(path: str | Path) -> Any:
    """What a pickle of plain data holds; nothing that it names is executed.

    Returns:
        dicts, lists, tuples, strings, bytes, numbers; arrays and tensors as NumPy arrays.

    Raises:
        RecoError: no such file, damaged, or with anything else in it, which is named.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _plain(_Unpickler(file).load(), {}, 0)
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


# ---- what was released ------------------------------------------------------------------------


def convert_embeddings(pickle_path: str | Path, npy_path: str | Path, list_path: str | Path) -> str:
    """Convert embeddings of images: a row per image, in the order of the pickle.

    Two forms are read: a dict of file name -> vector (what the authors' script writes), and a
    matrix with a list of names, as the two items of a tuple, list or dict.

    Args:
        npy_path: .npy to write, (n, d); float16 where the pickle has that, else float32.
        list_path: CSV to write (file), the name of the file of every row.

    Returns:
        which form it was, in words.

    Raises:
        RecoError: not such a pickle, refused, or the embeddings do not belong together.
    """
    path = Path(pickle_path)
    LOG.info("read %s (some minutes for a million images)", path)
    names, rows, form = _split(path, read_plain(path))
    if not names or len(names) != len(rows):
        raise RecoError(f"{path}: {len(names)} names for {len(rows)} embeddings: another file?")
    _check_names(path, names)
    if len(set(names)) < len(names):
        raise RecoError(f"{path}: a name is there twice: another file?")
    first = _vector(path, names[0], rows[0], None)
    dtype = np.float16 if first.dtype == np.float16 else np.float32
    lengths = np.empty(len(rows), np.float32)

    def vectors() -> Iterator[np.ndarray]:
        for i, name in enumerate(names):
            vector = _vector(path, name, rows[i], len(first))
            lengths[i] = np.linalg.norm(vector.astype(np.float64))
            yield vector

    write_array(npy_path, (len(rows), len(first)), np.dtype(dtype), vectors())
    odd = int((np.abs(lengths - 1) > NORM).sum())
    if odd:
        LOG.warning("%s: %d of %d embeddings are not of length 1", path, odd, len(rows))
    write_table(list_path, ["file"], ([name] for name in names))
    LOG.info("%s: %s: %d x %d to %s and %s", path, form, len(rows), len(first), npy_path, list_path)
    return form


def convert_references(pickle_path: str | Path, safetensors_path: str | Path) -> list[str]:
    """Convert reference embeddings: a dict of concept -> vector.

    Args:
        safetensors_path: to write: a (d,) float32 tensor per concept; their order, which
            safetensors does not keep, as `concepts` in the metadata, a name a line.

    Returns:
        the concepts in the order of the pickle.

    Raises:
        RecoError: not such a pickle, or refused.
    """
    path = Path(pickle_path)
    loaded = read_plain(path)
    if not isinstance(loaded, dict) or not loaded:
        raise RecoError(f"{path}: holds no dict of concepts: another file?")
    _check_names(path, loaded)
    length = None
    tensors = {}
    for name, value in loaded.items():
        vector = _vector(path, name, value, length)
        length = len(vector)
        tensors[name] = np.ascontiguousarray(vector, dtype=np.float32)
    with atomic(safetensors_path) as temporary:
        save_file(tensors, temporary, metadata={"concepts": "\n".join(tensors)})
    LOG.info("%s: %d concepts to %s", path, len(tensors), safetensors_path)
    return list(tensors)


def _split(path: Path, loaded: Any) -> tuple[list[Any], Any, str]:
    """Names, embeddings, and the form they were in."""
    items = list(loaded.values()) if isinstance(loaded, dict) else loaded
    if isinstance(items, list | tuple) and len(items) == 2:
        for names, matrix in (items, items[::-1]):
            if isinstance(matrix, np.ndarray) and matrix.ndim == 2:
                if isinstance(names, list | tuple):
                    return list(names), matrix, "a matrix with a list of names"
    if isinstance(loaded, Mapping):
        return list(loaded), items, "a dict of file name to vector"
    raise RecoError(
        f"{path}: neither a dict of file name to vector nor a matrix with a list of names"
    )


def _check_names(path: Path, names: Any) -> None:
    for name in names:
        if not isinstance(name, str) or not name or not name.isprintable() or name[:2] == "__":
            raise RecoError(f"{path}: {str(name)[:60]!r} is no name: another file?")


def _vector(path: Path, name: str, value: Any, length: int | None) -> np.ndarray:
    """`value` if it is a vector of finite floats, of this length if one is given."""
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "f":
        raise RecoError(f"{path}: {name}: not a vector of floats: another file?")
    if not len(value) or length not in (None, len(value)):
        raise RecoError(f"{path}: {name}: {len(value)} numbers, the others have {length}")
    if not np.isfinite(value).all():
        raise RecoError(f"{path}: {name}: holds a number that is not finite: fetch it again")
    return value

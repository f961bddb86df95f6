"""Files that are either whole or absent: atomic writes, checksums, the few formats we use."""

import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from reco.errors import RecoError

FULL = {errno.ENOSPC, errno.EDQUOT}
MAKE_ROOM = "the disk is full: free space and run again; what is done is kept"
SETTLED = 2 * 10**9  # ns; the times of no file system are coarser: later, a change may not show
MAKE_AGAIN = "delete it and run the stage that makes it again"
CHECKOUT = Path(__file__).parents[2]


def shipped(name: str) -> str:
    """Path of a file that comes with the code, such as `config/labels/cityscapes.yaml`.

    It is the one in the working folder, where that has one, as a checkout has; else the one in the
    checkout that this code is imported from: a run may have a folder of its own.
    """
    return name if Path(name).exists() else str(CHECKOUT / name)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` if the block succeeds.

    The temporary name keeps the suffix of `path`, because many writers choose their format by it.
    On any exception, including an interrupt, the temporary file is removed and `path` is left as
    it was. Parent folders are made. A process that is killed leaves the temporary file, which is
    hidden; nothing reads it.

    Raises:
        RecoError: the disk is full, whatever exception the writer makes of that.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:40]}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; give ordinary rights
        temporary.replace(path)
    except BaseException as error:
        if temporary:
            temporary.unlink(missing_ok=True)
        if disk_full(error):
            raise RecoError(f"{path}: {MAKE_ROOM}") from error
        raise


def disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that it comes from, says that the disk or the quota is full.

    By the words too, for writers in other languages (safetensors) have exceptions of their own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(os.strerror(code) in str(error) for code in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def read_text(path: str | Path) -> str:
    """Text that a person wrote: UTF-8, with or without a byte-order mark; lines end in \\n.

    Raises:
        RecoError: no such file, a folder, or another encoding.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecoError(f"{path}: {_reason(error)}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 may pass for UTF-8
        raise RecoError(f"{path}: not UTF-8 text: save it as UTF-8")
    return text


def read_yaml(file: str | Path) -> Any:
    """Read a YAML file (plain data only).

    Raises:
        RecoError: no such file, a folder, or no YAML.
    """
    text = read_text(file)
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise RecoError(
            f"{file}: not valid YAML: {place}{error.problem or error.context}"
        ) from None
    except Exception as error:  # dates that are none, numbers without end, nests without end
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecoError(f"{file}: not valid YAML: {reason:.200}") from None


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a UTF-8 JSON file.

    Raises:
        RecoError: no such file, or damaged.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecoError(f"{path}: {_reason(error)}") from None
    except ValueError as error:
        raise RecoError(f"{path}: damaged ({error}): {MAKE_AGAIN}") from None


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read a safetensors file.

    Raises:
        RecoError: no such file, or damaged.
    """
    try:
        return load(Path(path).read_bytes())
    except OSError as error:
        raise RecoError(f"{path}: {_reason(error)}") from None
    except SafetensorError as error:
        raise RecoError(f"{path}: damaged ({error}): {MAKE_AGAIN}") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of itself, beside its tensors.

    Raises:
        RecoError: no such file, or damaged.
    """
    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except OSError as error:
        raise RecoError(f"{path}: {_reason(error)}") from None
    except SafetensorError as error:
        raise RecoError(f"{path}: damaged ({error}): {MAKE_AGAIN}") from None


def open_array(path: str | Path) -> np.ndarray:
    """Map an .npy into memory, to read from.

    Raises:
        RecoError: no such file, or damaged.
    """
    try:
        # "c", never written to: of what cannot be written to, torch would warn
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError as error:
        raise RecoError(f"{path}: {_reason(error)}") from None
    except Exception as error:  # NumPy's reader of headers has many kinds
        raise RecoError(f"{path}: damaged ({error}): {MAKE_AGAIN}") from None


def write_array(
    path: str | Path, shape: Sequence[int], dtype: np.dtype, blocks: Iterable[np.ndarray]
) -> None:
    """Write an array that comes in blocks, each a row or more, as one .npy, atomically.

    The bytes are those of `numpy.save`, which does not say that it was a full disk that stopped
    it. Through a memory map, a full disk would end the process without a word.

    Args:
        shape: of the whole.
        dtype: of the whole; blocks are converted to it.
        blocks: arrays whose values, one after the other, are those of the whole.
    """
    header = {"descr": dtype.str, "fortran_order": False, "shape": tuple(shape)}
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).data)
        expected = int(np.prod(shape)) * dtype.itemsize
        if file.tell() - start != expected:
            raise ValueError(f"{path}: {file.tell() - start} bytes of {expected}")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in chunks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: OSError) -> str:
    """Why a file could not be read, for people."""
    return {errno.ENOENT: "no such file", errno.EISDIR: "a folder, not a file"}.get(
        error.errno or 0, f"cannot be read: {error.strerror or error}"
    )


def write_digest(path: str | Path) -> None:
    """Write the SHA-256 of a file to `<path>.sha256`, in the format of `sha256sum --check`."""
    path = Path(path)
    write_text(f"{path}.sha256", f"{sha256(path)}  {path.name}\n")


def has_digest(path: str | Path) -> bool:
    """Whether a file is there, and a digest beside it."""
    return Path(path).is_file() and Path(f"{path}.sha256").is_file()


def read_digest(path: str | Path) -> str:
    """The SHA-256 that `write_digest` noted beside a file.

    Raises:
        RecoError: there is none.
    """
    noted = Path(f"{path}.sha256")
    words = read_text(noted).split() if noted.exists() else []
    if not words:
        raise RecoError(
            f"{noted}: missing or empty: delete {path} and run the stage that makes it again"
        )
    return words[0]


def check_digest(path: str | Path) -> None:
    """Compare a file with what `write_digest` noted beside it.

    Raises:
        RecoError: it has other bytes, or one of the two is missing.
    """
    noted = read_digest(path)
    try:
        same = sha256(path) == noted
    except OSError as error:
        raise RecoError(f"{path}: {_reason(error)}: {MAKE_AGAIN}") from None
    if not same:
        raise RecoError(f"{path}: damaged: its SHA-256 is not that of {path}.sha256: {MAKE_AGAIN}")


def noted_digest(path: str | Path, notes: str | Path) -> str:
    """Digest of a file's bytes, or of the names and bytes of all files in a folder; no times in it.

    Hidden files, such as a hub's notes of its downloads, do not count. What was read is noted below
    `notes`, and not read again while size and times of a file are the same: a plan asks often, and
    checkpoints have gigabytes.

    Returns:
        hexadecimal digits; "" where there is no such file or folder.

    Raises:
        RecoError: a file that cannot be read.
    """
    path = Path(path)
    note = Path(notes, f"{fingerprint(str(path.absolute()))}.json")
    known = read_json(note)["files"] if note.exists() else {}
    found, lasting = {}, {}
    for name, file in _files_in(path):
        try:
            stat = file.stat()
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            same = name in known and known[name]["state"] == state
            found[name] = known[name]["sha256"] if same else sha256(file)
        except OSError as error:
            raise RecoError(f"{file}: {_reason(error)}") from None
        # What changed a moment ago may change again without another time to show for it.
        if time.time_ns() - max(state[1:]) > SETTLED:
            lasting[name] = {"state": state, "sha256": found[name]}
    if lasting != known:
        write_json(note, {"path": str(path.absolute()), "files": lasting})
    return fingerprint(found) if found else ""


def _files_in(path: Path) -> list[tuple[str, Path]]:
    """The files of a folder that are not hidden, by their names in it; or the file itself."""
    if path.is_file():
        return [("", path)]
    named = [(file.relative_to(path).as_posix(), file) for file in path.rglob("*")]
    return sorted((name, file) for name, file in named if file.is_file() and "/." not in f"/{name}")


def digest_folders(paths: Iterable[str | Path]) -> dict[str, dict[str, Any]]:
    """What is in each folder: number of files, and one SHA-256 over all of them.

    The digest is that of `sha256sum` over the files' names within the folder, sorted by name, so
    `find . -type f -printf '%P\\n' | sort | xargs sha256sum | sha256sum` gives it in the C locale.

    Args:
        paths: files, which count for the folder that holds them, and folders, which count whole
            but for hidden files.
    """
    folders: dict[str, list[Path]] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = [file for file in path.rglob("[!.]*") if file.is_file()]
            folders.setdefault(path.as_posix(), []).extend(inside)
        else:
            folders.setdefault(path.parent.as_posix(), []).append(path)
    return {
        folder: {"files": len(files), "sha256": _digest(Path(folder), files)}
        for folder, files in sorted(folders.items())
    }


def _digest(folder: Path, files: Iterable[Path]) -> str:
    names = sorted((file.relative_to(folder).as_posix(), file) for file in set(files))
    lines = "".join(f"{sha256(file)}  {name}\n" for name, file in names)
    return hashlib.sha256(lines.encode()).hexdigest()


def fingerprint(value: Any, length: int = 12) -> str:
    """First `length` hexadecimal digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    # Names of files may hold bytes that are no text.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:length]

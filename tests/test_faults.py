"""Faults, injected: damaged shards, a full disk, two runs at once, a kill at every stage.

What must hold: a clear error, or the run goes on to the same bytes; nothing lost, nothing wrong
without a word.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Project, make_folder
from safetensors.numpy import save_file

from reco.errors import RecoError
from reco.files import atomic, write_array, write_json
from reco.folder import read_table, write_labels, write_table
from reco.store import Store, read_places

RNG = np.random.default_rng(0)


# ---- damaged shards ---------------------------------------------------------------------------


def fill_store(folder: Path) -> Store:
    store = Store(folder)
    store.append(["a", "b", "c"], RNG.standard_normal((3, 2, 3)))
    return store


def flips(content: bytes) -> list[bytes]:
    """`content` with each of its bits flipped in turn."""
    return [
        content[:i] + bytes([content[i] ^ (1 << bit)]) + content[i + 1 :]
        for i in range(len(content))
        for bit in range(8)
    ]


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_any_flipped_bit_of_a_shard_is_noticed(tmp_path):
    store = fill_store(tmp_path)
    places = list(store.places().values())
    shard = Path(places[0].shard)
    content, values = shard.read_bytes(), read_places(places)
    noticed = 0
    for damaged in flips(content):
        shard.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(read_places(places), values)
        except RecoError as error:
            noticed += 1
            assert str(shard) in str(error) and "--forcerun" in str(error)
    # All bits of the values, and those of the header but for its padding.
    assert noticed >= 8 * (3 * 2 * 3 * 2 + 60)
    shard.write_bytes(content)
    np.testing.assert_array_equal(read_places(places), values)


def test_any_flipped_bit_of_a_list_of_keys_is_noticed(tmp_path, caplog):
    store = fill_store(tmp_path)
    places = list(store.places().values())
    keys = Path(places[0].shard).with_suffix(".keys")
    for damaged in flips(keys.read_bytes()):
        keys.write_bytes(damaged)
        assert store.places() == {}
        with pytest.raises(RecoError, match=r"list of keys is damaged.*--forcerun"):
            read_places(places)
    assert keys.name in caplog.text and "computed again" in caplog.text


def test_only_the_damaged_row_is_refused(tmp_path):
    store = fill_store(tmp_path)
    places = store.places()
    arrays = np.load(places["b"].shard, mmap_mode="r+")
    arrays[places["b"].row, 0, 1] = np.nan
    arrays.flush()
    assert np.isfinite(read_places([places["a"], places["c"]])).all()
    with pytest.raises(RecoError, match=f"row {places['b'].row} is damaged"):
        read_places([places["a"], places["b"]])


def test_a_deleted_shard_is_made_again_with_the_same_bytes(tmp_path):
    store = Store(tmp_path)
    arrays = RNG.standard_normal((4, 8))
    store.append(["a", "b"], arrays[:2])
    store.append(["c", "d"], arrays[2:])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shard = Path(store.places()["c"].shard)
    for path in tmp_path.glob(f"{shard.stem}.*"):  # as the message says
        path.unlink()
    assert set(store.places()) == {"a", "b"}
    store.append(["c", "d"], arrays[2:])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_lists_without_digests_are_not_trusted(tmp_path, caplog):
    """A store of version 0.1.0: the key alone on each line."""
    store = fill_store(tmp_path)
    keys = next(tmp_path.glob("*.keys"))
    keys.write_text("".join(f"{line.split()[0]}\n" for line in keys.read_text().splitlines()))
    assert store.places() == {}
    assert "1 lists of keys are damaged or of an earlier version" in caplog.text


def test_what_a_killed_writer_leaves_is_not_read(tmp_path, caplog):
    store = fill_store(tmp_path)
    places = store.places()
    keys = next(tmp_path.glob("*.keys"))
    (tmp_path / f".{keys.stem}.x1y2.keys").write_text(keys.read_text()[:20])
    (tmp_path / f".{keys.stem}.z3.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "0123456789abcdef.npy").write_bytes(b"\x93NUMPY")  # killed before its list
    assert store.places() == places and not caplog.text


def test_two_stores_of_other_values_do_not_mix(tmp_path):
    """Two runs at once whose networks differ in the last bit: each list fits its own array."""
    first, second = (RNG.standard_normal((2, 4)).astype(np.float16) for _ in range(2))
    store = Store(tmp_path)
    store.append(["a", "b"], first)
    store.append(["a", "b"], second)
    assert len(list(tmp_path.glob("*.keys"))) == len(list(tmp_path.glob("*.npy"))) == 2
    places = store.places()
    assert places["a"].shard == places["b"].shard
    found = read_places([places["a"], places["b"]])
    assert any((found == values).all() for values in (first, second))


# ---- a full disk ------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk until `leave` bytes are free; the file to delete to free it."""
    space = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(space.f_bavail * space.f_frsize - leave))
    return filler


def files(folder: Path) -> dict[str, bytes]:
    """Content of all files below a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


NOISE = np.random.default_rng(1).integers(0, 200, (400, 500), dtype=np.uint8)


def write_weights(path: Path) -> None:
    with atomic(path) as temporary:
        save_file({"weights": NOISE}, temporary)


WRITERS = {
    "store": lambda path: Store(path).append(list("abcd"), NOISE.reshape(4, -1)),
    "table": lambda path: write_table(path, ["a"], ([value] for value in NOISE.ravel())),
    "npy": lambda path: write_array(path, NOISE.shape, NOISE.dtype, NOISE),
    "mask": lambda path: write_labels(path, NOISE),
    "weights": write_weights,
    "json": lambda path: write_json(path, NOISE[:100].tolist()),
}


@pytest.mark.parametrize("leave", [0, 65536])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, disk, writer, leave):
    filler = fill(disk, leave)
    with pytest.raises(RecoError, match=f"^{disk}/new.*: the disk is full: free space and run"):
        writer(disk / "new")
    assert list(files(disk)) == ["filler"]
    filler.unlink()
    writer(disk / "new")
    writer(tmp_path / "elsewhere" / "new")
    assert files(disk) == files(tmp_path / "elsewhere")


def test_a_file_stays_as_it_was_when_the_disk_is_full(disk):
    write_table(disk / "table.csv", ["a"], [[1]])
    fill(disk, 0)
    with pytest.raises(RecoError, match="the disk is full"):
        write_table(disk / "table.csv", ["a"], [[2]] * 5000)
    assert read_table(disk / "table.csv") == [{"a": "1"}]
    assert len(files(disk)) == 2


def test_a_quota_is_a_full_disk(tmp_path):
    with (
        pytest.raises(RecoError, match=r"new\.csv: the disk is full"),
        atomic(tmp_path / "new.csv"),
    ):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert not list(tmp_path.iterdir())


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="input/output"), atomic(tmp_path / "new.csv"):
        raise OSError(errno.EIO, "input/output error")
    assert not list(tmp_path.iterdir())


def test_an_array_in_blocks_has_the_bytes_of_numpy(tmp_path):
    array = RNG.standard_normal((1000, 3)).astype(np.float16)
    np.save(tmp_path / "whole.npy", array)
    write_array(tmp_path / "blocks.npy", array.shape, array.dtype, np.split(array, [7, 500]))
    assert (tmp_path / "blocks.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    with pytest.raises(ValueError, match="bytes of"):
        write_array(tmp_path / "short.npy", array.shape, array.dtype, [array[:-1]])
    assert not (tmp_path / "short.npy").exists()


# ---- commands ---------------------------------------------------------------------------------


def start(project: Project, *arguments: object) -> subprocess.Popen[str]:
    """Start `reco` in a project."""
    file = project.folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(project.config))
    environment = {
        **os.environ,
        "PYTHONPATH": str(project.folder / "src"),
        "RECO_CONFIG": str(file),
    }
    command = [sys.executable, "-m", "reco.cli", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=project.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def reco(project: Project, *arguments: object) -> tuple[int, str]:
    """Run `reco` in a project: exit status, and what it said."""
    process = start(project, *arguments)
    text, _ = process.communicate()
    return process.returncode, text


DATA = Path("data/tiny")
CATALOG = ["--log", DATA / "logs/catalog.log", "catalog", "--index", DATA / "images/index.csv"]


@pytest.fixture
def project_on_disk(tmp_path, disk):
    """A project whose data/ lies on the disk of 1 MiB; its weights do not."""
    make_folder(tmp_path, index=60)
    project = Project(tmp_path / "small", data=tmp_path)
    (project.folder / "data").symlink_to(disk)
    return project


def test_a_command_on_a_full_disk_ends_with_one_line(project_on_disk, disk):
    filler = fill(disk, 0)
    status, said = reco(project_on_disk, *CATALOG)
    assert status == 1
    error = [line for line in said.splitlines() if "the disk is full" in line]
    assert len(error) == 1 and error[0].startswith("error: data/tiny/images/index.csv: ")
    assert "Traceback" not in said and "Logging error" not in said
    # The log of the command is there, but had no room either.
    assert {name: len(content) for name, content in files(disk / "tiny").items()} == {
        "logs/catalog.log": 0
    }
    filler.unlink()
    status, said = reco(project_on_disk, *CATALOG)
    assert status == 0, said
    assert len(read_table(disk / "tiny/images/index.csv")) == 60

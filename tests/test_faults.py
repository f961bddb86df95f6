"""Faults, injected: damaged shards, a full disk, two runs at once, a kill at every stage.

What must hold: a clear error, or the run goes on to the same bytes; nothing lost, nothing wrong
without a word.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CORES, PROMPT, Project, make_folder
from safetensors.numpy import save_file

from reco.cli import main
from reco.data.folder import write_labels
from reco.data.store import Store, read_places
from reco.data.tables import read_table, write_table
from reco.errors import RecoError
from reco.files import atomic, write_array, write_json
from reco.models import packaged

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
            assert str(shard) in str(error) and f"delete {shard.with_suffix('')}.*" in str(error)
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
        with pytest.raises(RecoError, match=r"list of keys is damaged: delete"):
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


# ---- other damaged files ----------------------------------------------------------------------


def no_network(sentences: list[str]) -> np.ndarray:
    """Embeddings of sentences, made up: the true ones take ten seconds."""
    return np.random.default_rng(0).standard_normal((len(sentences), 384)).astype(np.float32)


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(packaged, "embed_sentences", no_network)
    packaged.convert(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize("name", [packaged.WEIGHTS, "imagenet_entries.*"])
def test_a_flipped_bit_of_weights_is_no_other_model(weights, tmp_path, name):
    """Its results would mix with those of the whole one."""
    folder = shutil.copytree(weights, tmp_path / "packaged")
    file = next(path for path in folder.glob(name) if path.suffix == ".safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RecoError, match=f"{file.name}: damaged: its SHA-256"):
        packaged.load(folder=folder).embed_texts(["zebra"], "dense")
    file.unlink()  # as the message says
    packaged.convert(folder)
    assert files(folder) == files(weights)


def test_weights_of_an_earlier_version_are_converted_again(weights, tmp_path):
    folder = shutil.copytree(weights, tmp_path / "packaged")
    (folder / f"{packaged.WEIGHTS}.sha256").unlink()
    (folder / packaged.WEIGHTS).write_bytes(b"")
    packaged.load(folder=folder)
    assert files(folder) == files(weights)


EMPTIED = {"features": "csv", "text": "safetensors", "context": "safetensors"}


@pytest.mark.parametrize("which", EMPTIED)
@pytest.mark.parametrize("content", [b"", b"{", b"rank,path,key\n"])
def test_an_emptied_file_is_named_by_the_job_that_reads_it(tmp_path, which, content, capsys):
    paths = {name: tmp_path / f"{name}.{suffix}" for name, suffix in EMPTIED.items()}
    Store(tmp_path / "store").append(["a"], RNG.standard_normal((1, 4, 2, 2)))
    shard = Store(tmp_path / "store").places()["a"].shard
    columns = ["rank", "path", "key", "dense_shard", "dense_row", "encoder_shard", "encoder_row"]
    write_table(paths["features"], columns, [(1, "a.jpg", "a", shard, 0, shard, 0)])
    unit = np.array([1, 0, 0, 0], np.float32)
    save_file({"dense": unit}, paths["text"])
    save_file({"lgc-ce-k1.reference": unit}, paths["context"])
    options = ["--features", paths["features"], "--text", paths["text"]]
    options += ["--contexts", paths["context"], "--variants", "lgc-ce-k1"]
    call = ["cosegment", *map(str, options), "--reference", str(tmp_path / "out.safetensors")]
    assert status(call) == 0
    paths[which].write_bytes(content)
    (tmp_path / "out.safetensors").unlink()
    capsys.readouterr()
    assert status(call) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {paths[which]}: ") and "make" in line
    assert not (tmp_path / "out.safetensors").exists()


def status(arguments: list[str]) -> int:
    """Exit status of `reco`, run in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["reco", *arguments])
        main()
        sys.exit(0)
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x: Read-only file system"),
    ],
)
def test_what_the_machine_refuses_is_one_line(monkeypatch, capsys, error, said):
    def refuse(*_):
        raise error

    monkeypatch.setattr("reco.workflow.embed.gather", refuse)
    options = ["--embeddings", "e", "--usable", "u", "--skipped", "s"]
    options += ["--model", "packaged", "--size", "256", "--state", "x"]
    assert status(["gather", "part.csv", *options]) == 1
    assert capsys.readouterr().err == f"error: {said}\n"


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


# ---- commands and whole runs ------------------------------------------------------------------

IMAGES = 600  # of the index: two whole shards and a part of a third
DATA, RESULTS = Path("data/tiny"), Path("results/tiny")
# All stages; of tables and figures, one.
TARGETS = [
    str(RESULTS / name) for name in ("metrics.csv", "retrieval.csv", "figures/archive_size.png")
]
# What must be equal byte by byte.
MADE = [
    *(f"{DATA}/{name}" for name in ("images", "embeddings", "text", "archives", "features")),
    *(f"{DATA}/{name}" for name in ("references", "masks", "reco_plus")),
    *TARGETS,
    f"{RESULTS}/figures",
    "data/store",
    "data/models",
]


def whole_run(test: Callable) -> Callable:
    """Mark a slow test that shares an undisturbed run, and so its process (--dist loadfile)."""
    return pytest.mark.slow(test)


@contextmanager
def launched(project: Project, *command: object) -> Iterator[subprocess.Popen[str]]:
    """Start `reco` or `snakemake` in a project, in a process group of its own; end it."""
    config = project.folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(project.config))
    program, *arguments = map(str, command)
    call = {
        "reco": ["reco.cli"],
        "snakemake": [
            "snakemake",
            *("--configfile", str(config), "--cores", str(CORES), "--nocolor", *PROMPT),
        ],
    }[program]
    environment = {
        **os.environ,
        "PYTHONPATH": str(project.folder / "src"),
        "RECO_CONFIG": str(config),
    }
    log = project.folder / f"{program}.{time.monotonic_ns()}.out"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *call, *arguments],
            cwd=project.folder,
            env=environment,
            stdout=out,
            stderr=out,
            text=True,
            start_new_session=True,
        )
    process.log = log
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # the usual case: it ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process: its exit status, and what it said."""
    process.wait(600)
    return process.returncode, process.log.read_text()


def reco(project: Project, *arguments: object) -> tuple[int, str]:
    with launched(project, "reco", *arguments) as process:
        return finish(process)


def snakemake(project: Project, *arguments: object) -> tuple[int, str]:
    with launched(project, "snakemake", *arguments) as process:
        return finish(process)


def made(project: Project, *names: str) -> dict[str, bytes]:
    """Content of what a run made, without Snakemake's own marks."""
    found = {}
    for name in names or MADE:
        path = project.folder / name
        found |= (
            {f"{name}/{inside}": content for inside, content in files(path).items()}
            if path.is_dir()
            else {name: path.read_bytes()}
        )
    return {name: found[name] for name in found if ".snakemake_timestamp" not in name}


def hidden(contents: dict[str, bytes]) -> list[str]:
    """Names of temporary files among those of `made` or `files`."""
    return [name for name in contents if Path(name).name.startswith(".")]


def computed(said: str) -> int:
    """How many index images a run of `embed` says that it has to compute."""
    return int(re.search(rf"embed index: (\d+) of {IMAGES} images to compute", said)[1])


CATALOG = ["--log", DATA / "logs/catalog.log", "catalog", "--index", DATA / "images/index.csv"]


def embed(table: str = "table.csv") -> list[object]:
    return [
        *("--log", DATA / f"logs/{table}.log", "embed", "--images", DATA / "images/index.csv"),
        *("--model", "packaged", "--size", 64, "--table", DATA / table),
    ]


def test_a_command_on_a_full_disk_ends_with_one_line(tmp_path, disk):
    make_folder(tmp_path)
    project = Project(tmp_path / "small", data=tmp_path)
    (project.folder / "data").symlink_to(disk)
    filler = fill(disk, 0)
    status, said = reco(project, *CATALOG)
    assert status == 1
    error = [line for line in said.splitlines() if "the disk is full" in line]
    assert len(error) == 1 and error[0].startswith("error: data/tiny/images/index.csv: ")
    assert "Traceback" not in said and "Logging error" not in said
    # The log of the command is there, but had no room either.
    assert {name: len(content) for name, content in files(disk / "tiny").items()} == {
        "logs/catalog.log": 0
    }
    filler.unlink()
    status, said = reco(project, *CATALOG)
    assert status == 0, said
    assert len(read_table(disk / "tiny/images/index.csv")) == 12


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Project:
    """A project whose run nothing disturbed."""
    root = tmp_path_factory.mktemp("calm")
    make_folder(root, index=IMAGES)
    project = Project(root / "calm", data=root)
    began = time.monotonic()
    status, said = snakemake(project, *TARGETS)
    assert status == 0, said
    project.seconds = time.monotonic() - began
    return project


def fresh(folder: Path, calm: Project, *parts: str) -> Project:
    """A project on the same images; `parts` are taken over from the calm one."""
    project = Project(folder, data=calm.root)
    for part in parts:
        shutil.copytree(calm.folder / part, project.folder / part)
    return project


def shards(store: Path) -> dict[str, bytes]:
    """What networks computed; digests of images are noted beside it, with times."""
    return {name: content for name, content in files(store).items() if "digests" not in name}


@whole_run
def test_a_disk_that_fills_up_keeps_what_was_done(tmp_path, disk, calm):
    """1,200 kB of embeddings for 1 MiB."""
    project = fresh(tmp_path, calm)
    (project.folder / "data").symlink_to(disk)
    (disk / "models").symlink_to(calm.folder / "data/models")
    status, said = reco(project, *CATALOG)
    assert status == 0, said
    status, said = reco(project, *embed())
    assert status == 1 and computed(said) == IMAGES
    assert re.search(
        r"^error: data/store/\S+: the disk is full: free space and run again", said, re.M
    )
    assert "Traceback" not in said and "Logging error" not in said
    kept = shards(disk / "store")
    assert kept and not hidden(files(disk)) and not (disk / "tiny/table.csv").exists()

    subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
    status, said = reco(project, *embed())
    assert status == 0, said
    assert 0 < computed(said) < IMAGES
    after = shards(disk / "store")
    assert {name: after[name] for name in kept} == kept
    stored = shards(calm.folder / "data/store")
    assert after == {name: stored[name] for name in stored if "/global/" in name}


@whole_run
def test_two_commands_at_once_fill_one_store(tmp_path, calm):
    project = fresh(tmp_path, calm, "data/models", f"{DATA}/images")
    with (
        launched(project, "reco", *embed("a.csv")) as first,
        launched(project, "reco", *embed("b.csv")) as second,
    ):
        for process in (first, second):
            status, said = finish(process)
            assert status == 0, said
            assert computed(said) > 0
    tables = [(project.folder / DATA / f"{name}.csv").read_bytes() for name in "ab"]
    assert tables[0] == tables[1]
    store = next((project.folder / "data/store").glob("*/global"))
    assert files(store) == files(calm.folder / store.relative_to(project.folder))


@whole_run
def test_a_second_snakemake_is_sent_away(tmp_path, calm):
    project = fresh(tmp_path, calm, "data/models")
    locks = project.folder / ".snakemake/locks"
    with launched(project, "snakemake", "archives") as first:
        while first.poll() is None and not (locks.is_dir() and any(locks.iterdir())):
            time.sleep(0.05)
        status, said = snakemake(project, "archives")
        assert first.poll() is None, first.log.read_text()
        assert status != 0 and "cannot be locked" in said and "--unlock" in said
        assert "Traceback" not in said
        status, said = finish(first)
        assert status == 0, said
    archives = f"{DATA}/archives"
    assert made(project, archives) == made(calm, archives)
    assert "Nothing to be done" in snakemake(project, "--dry-run", "archives")[1]


def flip(path: Path, place: int) -> None:
    """Flip a bit of a file, as a failing disk does: its size and times stay."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def follow(project: Project, said: str) -> None:
    """Delete what the error of a damaged shard says."""
    error = re.search(r"error: (\S+)\.npy: row \d+ is damaged: delete (.*) and run again", said)
    assert error, said
    for pattern in error[2].split():
        found = list(project.folder.glob(pattern))
        assert found, pattern
        for path in found:
            path.unlink()
    assert not list(project.folder.glob(f"{error[1]}.*"))


@whole_run
@pytest.mark.parametrize(
    ("kind", "lost", "target"),
    [
        ("global", f"{DATA}/embeddings/index.npy", f"{DATA}/embeddings/index.npy"),
        ("dense", f"{DATA}/references/*", "references"),
    ],
)
def test_a_damaged_shard_is_mended_as_the_error_says(tmp_path, calm, kind, lost, target):
    project = fresh(tmp_path, calm, "data", "results", ".snakemake")
    shard = max(project.folder.glob(f"data/store/*/{kind}/*/*.npy"), key=lambda p: p.stat().st_size)
    flip(shard, shard.stat().st_size // 2)
    for path in project.folder.glob(lost):
        path.unlink()
    status, said = snakemake(project, target)
    assert status != 0 and "Traceback" not in said
    follow(project, said)
    status, said = snakemake(project, target)
    assert status == 0, said
    assert made(project) == made(calm)


@whole_run
def test_a_damaged_matrix_is_refused(tmp_path, calm):
    project = fresh(tmp_path, calm, "data", "results", ".snakemake")
    matrix = project.folder / DATA / "embeddings/index.npy"
    flip(matrix, 5000)
    for path in (project.folder / DATA / "archives").glob("lemon.*"):
        path.unlink()
    status, said = snakemake(project, "archives")
    assert status != 0 and "Traceback" not in said
    assert re.search(r"error: data/tiny/embeddings/index.npy: damaged: .*: delete it and run", said)
    matrix.unlink()
    status, said = snakemake(project, "archives")
    assert status == 0, said
    assert made(project) == made(calm)


# ---- a kill at every stage --------------------------------------------------------------------

# Command -> what must be there (half of its work), or "" for: as soon as the process is.
MOMENTS = {
    "catalog": "",
    "weights": "",
    "embed": "data/store/*/global/*/*.keys",
    "gather": "",
    "text": "data/store/text/text-retrieval/*/*.keys",
    "retrieve": "",
    "features": "data/store/*/[de]*/*/*.npy",
    "cosegment": f"{DATA}/references/*.safetensors",
    "segment-split": f"{DATA}/masks/*/*/*.png",
    "train": "two processes",  # its own and the one that reads images: steps are being made
    "segment-plus": f"{DATA}/masks/.plus.*/*/*.png",
    "evaluate": "",
    "precision": "",
    "figure": "",
}


def commands(group: int) -> list[str]:
    """The verb of every `reco` that runs in a process group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                if len(words) > 4 and words[1].endswith("/reco"):
                    found.append(words[4])
        except (OSError, UnicodeDecodeError):  # it ended meanwhile
            continue
    return found


def caught(project: Project, group: int, left: set[str]) -> set[str]:
    """Stages among `left` that are in the middle of their work now."""
    running = commands(group)
    return {
        stage
        for stage in left & set(running)
        if (
            running.count(stage) > 1
            if MOMENTS[stage] == "two processes"
            else not MOMENTS[stage] or any(project.folder.glob(MOMENTS[stage]))
        )
    }


def killed_rounds(project: Project, left: set[str]) -> Iterator[set[str]]:
    """Run to the end, killed whenever a stage of `left` is at work: the stages of each kill."""
    left, first = set(left), True
    while left:
        with launched(project, "snakemake", *TARGETS) as running:
            while not (hit := caught(project, running.pid, left)) and running.poll() is None:
                time.sleep(0.04)
            if not hit:
                break
            # and now its whole group is killed
        yield hit
        left -= hit
        if first:
            status, said = snakemake(project, *TARGETS)
            assert status != 0 and "cannot be locked" in said
            assert snakemake(project, "--unlock", *TARGETS)[0] == 0
        else:  # the same in less time
            for lock in (project.folder / ".snakemake/locks").iterdir():
                lock.unlink()
        first = False
    else:
        with launched(project, "snakemake", *TARGETS) as running:
            running.wait(600)
    status, said = finish(running)
    lacks = [name for name in TARGETS if not (project.folder / name).exists()]
    assert status == 0 and not lacks, f"status {status}, without {lacks}: {said[-4000:]}"
    if left:
        print(f"ended before it was killed in {sorted(left)}: {said[-4000:]}")


@whole_run
def test_killed_at_every_stage_it_goes_on_to_the_same_bytes(tmp_path, calm, converted):
    assert files(calm.folder / "data/models/packaged") == files(converted)
    left = set(MOMENTS)
    for attempt in range(3):  # where another process had the cores, a stage may end unseen
        project = fresh(tmp_path / str(attempt), calm)
        models = Path("data/models/packaged")  # with what takes longest to compute
        (project.folder / models).mkdir(parents=True)
        for path in (calm.folder / models).glob("imagenet_entries.*"):
            shutil.copy2(path, project.folder / models)
        began, killed = time.monotonic(), set()
        for hit in killed_rounds(project, left):
            killed |= hit
            print(f"killed {sorted(hit)}")
        if "embed" in killed:
            said = (project.folder / DATA / "logs/embed/1-of-1.log").read_text()
            assert 0 < computed(said) < IMAGES
        assert "Nothing to be done" in snakemake(project, "--dry-run", *TARGETS)[1]

        here, there = made(project), made(calm)
        temporary = hidden(here)
        print(f"{time.monotonic() - began:.0f} s, undisturbed {calm.seconds:.0f} s")
        print(f"the kills left {len(temporary)} temporary files: {temporary}")
        assert not hidden(there)
        assert {name: here[name] for name in here if name not in temporary} == there
        left -= killed
        if not left:
            return
    pytest.fail(f"never seen at work: {sorted(left)}")

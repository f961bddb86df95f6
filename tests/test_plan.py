"""What is known before any job: the concepts and their classes, and what a config names in vain."""

import os
import shutil
import subprocess
import sys

import open_clip
import pytest
from conftest import ROOT, make_folder

from reco import files
from reco.config import check_config
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.workflow.plan import check_model, check_plan, state_of_images


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An index and a benchmark, and a config for them."""
    make_folder(tmp_path, index=3, train=1, val=1)
    monkeypatch.chdir(tmp_path)
    return {
        "index": {"kind": "folder", "root": "photos"},
        "benchmark": {"kind": "folder", "root": "bench"},
        "recipe": "paper",
        "archive_size": 3,
        "archive_sizes": [],
        "context": ["sky"],
    }


def plan(folder, classes=None, **changes):
    if classes is not None:
        with open("bench/classes.txt", "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in classes)
    return Experiment(check_config({**folder, **changes}), "x")


# ---- concepts and classes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "concepts", "targets", "labels"),
    [
        (["zebra", "lion"], ["LION", "Zebra"], {"zebra": 0, "lion": 1}, 2),
        (["Zebra", "zebra"], ["zebra"], {"zebra": 1}, 2),
        (["Zebra", "zebra"], ["ZEBRA"], {"ZEBRA": 2}, 3),  # either: so neither
        (["zebra"], ["zebras", "Zebra"], {"zebra": 0, "zebras": 1}, 2),
        (["STRASSE"], ["Straße"], {"STRASSE": 0}, 1),
        (["cafe\u0301"], ["Caf\u00e9"], {"cafe\u0301": 0}, 1),  # an accent of its own
        (["cafe\u0301", "zoo"], None, {"cafe\u0301": 0, "zoo": 1}, 2),
    ],
)
def test_concepts_are_classes_whatever_their_case(folder, classes, concepts, targets, labels):
    experiment = plan(folder, classes, concepts=concepts)
    found = zip(experiment.targets, experiment.target_labels.tolist(), strict=True)
    assert {concept.name: label for concept, label in found} == targets
    assert len(experiment.labels) == labels


def test_aliases_stay_where_a_concept_takes_the_name_of_its_class(folder):
    experiment = plan(folder, ["bus"], concepts=[{"name": "BUS", "aliases": ["coach"]}])
    assert experiment.targets[0].model_dump(include={"name", "aliases"}) == {
        "name": "bus",
        "aliases": ("coach",),
    }


def test_two_concepts_are_not_one_class(folder):
    with pytest.raises(RecoError, match=r"'Straße' and 'STRASSE' are one class, 'strasse'"):
        _ = plan(folder, ["strasse"], concepts=["Straße", "STRASSE"]).targets


def test_no_concept_at_all_is_told(folder):
    with pytest.raises(RecoError, match="concepts: none given"):
        _ = plan(folder, concepts=" , ").targets


def test_a_class_that_is_no_name_is_told(folder):
    with pytest.raises(RecoError, match="classes of the benchmark: concept 2: name: "):
        _ = plan(folder, ["road", "x" * 201], concepts=None).targets


def test_a_context_concept_is_a_class_whatever_its_case(folder):
    experiment = plan(folder, ["Sky", "road"], concepts=None)
    assert list(experiment.concepts) == ["sky", "road"]
    assert experiment.concepts["sky"].name == "Sky"


def test_a_reference_is_named_as_the_concept_is(folder):
    concepts = [{"name": "haze", "reference": "Sky"}]
    experiment = plan(folder, ["haze"], concepts=concepts)
    assert experiment.reference("haze") == experiment.reference("sky")
    with pytest.raises(RecoError, match="reference 'sea' is no context concept: one of sky"):
        _ = plan(folder, ["haze"], concepts=[{"name": "haze", "reference": "sea"}]).targets


# ---- what is not there ------------------------------------------------------------------------


def test_what_is_there_passes(folder):
    labels = {**folder["index"], "labels": "bench/classes.txt"}
    check_plan(check_config({**folder, "index": labels, "photos": "photos"}))
    check_plan(check_config({**folder, "photos": "photos/photo 0.png"}))
    check_plan(check_config({}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": {"kind": "folder", "root": "nope"}}, "index.root: nope: no such folder"),
        ({"index": {"kind": "imagenet", "root": "bench/classes.txt"}}, "index.root: bench/cl"),
        ({"index": {"kind": "folder", "root": "photos", "labels": "x.csv"}}, "index.labels: x.csv"),
        ({"benchmark": {"kind": "cityscapes", "root": "nope"}}, "benchmark.root: nope: no such"),
        (
            {"benchmark": {"kind": "coco_stuff", "root": "bench", "train_root": "nope"}},
            "benchmark.train_root: nope",
        ),
        ({"photos": "nope"}, "photos: nope: no such file or folder"),
        ({"models": {"encoder": "tim:x"}}, "models.encoder: unknown model 'tim:x': write packaged"),
        ({"train": {"encoder": "resnet18", "encoder_weights": "x.safetensors"}}, "_weights: x.saf"),
    ],
)
def test_what_is_not_there_is_named(folder, changes, message):
    with pytest.raises(RecoError) as error:
        check_plan(check_config({**folder, **changes}))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "unknown model ''"),
        ("packaged:x", "unknown model 'packaged:x'"),
        ("timm:", "unknown model 'timm:'"),
        ("timm:resnet18/a.pth", "no such checkpoint file: a.pth"),
        ("open_clip:ViT-L-41/openai", "did you mean ViT-L-16 or ViT-L-14"),
        ("open_clip:ViT-L-14", "add the weights: open_clip:ViT-L-14/<tag"),
        ("open_clip:ViT-L-14/a.pt", "no such checkpoint file: a.pt"),
        ("open_clip:ViT-L-14//a/b", "no such checkpoint file: /a/b"),
        ("open_clip:local-dir:nope", "no open_clip_config.json in nope"),
    ],
)
def test_models_that_nothing_can_load(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecoError, match=r"^models\.encoder: ") as error:
        check_model("models.encoder", spec)
    assert message in str(error.value)


def test_an_image_encoder_embeds_no_text():
    check_model("models.encoder", "timm:resnet18")
    with pytest.raises(RecoError, match=r"models\.dense: timm:resnet18 is an image encoder"):
        check_model("models.dense", "timm:resnet18")


def test_every_clip_that_open_clip_fetches_passes():
    """Its tags have neither dots nor slashes, by which files are told."""
    for name, tag in open_clip.list_pretrained():
        check_model("models.dense", f"open_clip:{name}/{tag}")


def test_of_a_checkpoint_the_content_counts_and_not_the_time(folder, tmp_path):
    """Of a folder each file, the configuration, too; but for what a hub's client notes there."""
    (tmp_path / "export/.cache").mkdir(parents=True)
    config, weights = tmp_path / "export/open_clip_config.json", tmp_path / "w.pth"
    config.write_text("{}")
    weights.write_bytes(b"12")
    specs = {"dense": "open_clip:local-dir:export", "encoder": "timm:resnet18/w.pth"}
    train = {"encoder": "resnet18", "encoder_weights": "w.pth"}
    experiment = plan(folder, models=specs, train=train)

    def state():
        return experiment.model("dense"), experiment.model("encoder"), experiment.backbone

    first = state()
    assert "" not in (first[0][-1], first[1][-1], first[2])
    for file in (config, weights):
        os.utime(file, (1, 1))
    (tmp_path / "export/.cache/downloaded").write_text("now")
    assert state() == first
    config.write_text("[]")
    second = state()
    assert second[0] != first[0] and second[1:] == first[1:]
    weights.write_bytes(b"21")
    third = state()
    assert third[0] == second[0] and third[1] != first[1] and third[2] != first[2]
    (tmp_path / "export/vocab.json").write_text("{}")
    assert state()[0] != third[0]


def test_a_copy_of_the_project_plans_the_same_files(folder, tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"12")
    models = {"encoder": "timm:resnet18/w.pth"}
    first = plan(folder, models=models).reference("orange")
    copy = tmp_path.with_name(f"{tmp_path.name} copied")
    shutil.copytree(tmp_path, copy, copy_function=shutil.copy)  # which gives files new times
    monkeypatch.chdir(copy)
    assert plan(folder, models=models).reference("orange") == first


def test_a_plan_reads_no_checkpoint_twice(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SETTLED", -1)  # as if the file had been there for long
    (tmp_path / "w.pth").write_bytes(b"12")
    experiment = plan(folder, models={"encoder": "timm:resnet18/w.pth"})
    first = experiment.model("encoder")
    monkeypatch.setattr(files, "sha256", None)
    assert experiment.model("encoder") == first


def test_weights_of_a_library_are_no_checkpoint(folder):
    for weights in (None, "imagenet"):
        train = {"encoder": "resnet18", "encoder_weights": weights}
        assert plan(folder, train=train).backbone == ""
    assert plan(folder, train=None).backbone == ""
    assert plan(folder, models={"encoder": "open_clip:RN50/openai"}).model("encoder")[-1] == ""


def test_archives_are_no_larger_than_the_index(folder):
    assert set(state_of_images(plan(folder))) == {"index", "benchmark"}
    with pytest.raises(RecoError, match=r"photos: holds 3 images, fewer than the archive size 4"):
        state_of_images(plan(folder, archive_sizes=[4]))
    stamps = plan(folder, index={"kind": "stamps"}, stamps={"index": 2})
    with pytest.raises(RecoError, match=r"stamps\.index: 2 images, fewer than the archive size 3"):
        state_of_images(stamps)


def test_changed_labels_and_a_changed_photograph_are_noticed(folder, tmp_path):
    (tmp_path / "labels.csv").write_text("path,concepts\n")
    index = {**folder["index"], "labels": "labels.csv"}
    experiment = plan(folder, index=index, photos="photos/photo 0.png")
    first = state_of_images(experiment)
    (tmp_path / "labels.csv").write_text("path,concepts\na,b\n")
    second = state_of_images(experiment)
    assert {part for part in first if first[part] != second[part]} == {"labels"}
    os.utime(tmp_path / "photos/photo 0.png", (1, 1))
    third = state_of_images(experiment)
    assert {part for part in third if third[part] != second[part]} == {"index", "photos"}


def test_planning_waits_for_no_framework():
    code = (
        "import sys; from reco.workflow.plan import check_model; "
        "check_model('models.dense', 'open_clip:RN50/openai'); "
        "print({'torch', 'timm', 'open_clip', 'transformers'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

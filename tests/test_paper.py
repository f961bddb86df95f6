"""The paper's experiments: every config plans, and runs on miniatures of its datasets."""

import re
import shutil

import miniatures
import numpy as np
import open_clip
import pytest
import timm
import torch
import yaml
from conftest import ROOT, Project, job_counts
from safetensors.torch import save_file

from reco.config import load
from reco.data.benchmarks import reader_of
from reco.data.folder import write_labels
from reco.data.geometry import NEAREST, Geometry
from reco.data.split import Split
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import read_json, read_tensors
from reco.workflow.catalog import catalog_split
from reco.workflow.evaluate import score
from reco.workflow.train import segment_plus, train_plus

# Concepts that are retrieved and co-segmented, with the contexts that are no concepts themselves;
# `vegetation` takes over the reference of `tree` on the two street datasets.
SOURCES = {
    "cityscapes": 27 - 1 + 1,
    "coco_stuff": 171 + 2,
    "kitti_step": 19 - 1 + 1,
    "pascal_context": 59,
}
PAPER = ROOT / "config/paper"
CONFIGS = [PAPER / f"{name}.yaml" for name in SOURCES]


class Paper(Project):
    """The project with miniatures of all datasets where the paper's configs expect them.

    The weights that they name are there, and empty: a plan reads none.
    """

    def __init__(self, folder):
        super().__init__(folder)
        data = self.folder / "data/downloads"
        miniatures.make_imagenet(data / "imagenet")
        (data / "deit_s_sin_dist.pth").touch()
        miniatures.make_cityscapes(data / "cityscapes")
        miniatures.make_coco_stuff(data / "cocostuff", stego=True)
        miniatures.make_coco_stuff10k(data / "cocostuff10k")
        miniatures.make_kitti_step(data / "kitti-step", sorted_by_split=True)
        miniatures.make_pascal_context(data / "pascal-context")

    def use(self, name, **changes):
        """Run the paper's config, changed, from now on."""
        values = yaml.safe_load((ROOT / f"config/paper/{name}.yaml").read_text())
        for key, value in changes.items():
            both = isinstance(value, dict) and isinstance(values.get(key), dict)
            values[key] = {**values[key], **value} if both else value
        self.config = values
        return self


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_plan_the_whole_experiment(path, tmp_path):
    project = Paper(tmp_path).use(path.stem)
    done = project.snakemake("--dry-run", "--quiet", "host")
    assert done.returncode == 0, done.stdout + done.stderr
    plan = job_counts(done.stdout + done.stderr)
    assert plan["retrieve"] == plan["cosegment"] == SOURCES[path.stem]
    assert plan["segment_split"] == (2 if project.config["train"] else 1)
    assert ("train" in plan) == bool(project.config["train"])


def test_the_retrieval_study_stops_after_retrieval(tmp_path):
    project = Paper(tmp_path).use("retrieval")
    done = project.snakemake("--dry-run")
    text = done.stdout + done.stderr
    plan = job_counts(text)
    archives = set(re.findall(r"archives/[^ ,]+\.csv", text))
    assert len(archives) == 996  # names of ImageNet's classes that are one class's alone
    assert plan["retrieve"] == 996
    assert not {"features", "cosegment", "segment", "train", "evaluate"} & set(plan)


STUDIES = sorted([*PAPER.glob("encoders/*.yaml"), *PAPER.glob("retrieval/*.yaml")])


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_studies_change_a_model_and_are_compared(path):
    base = {"encoders": "pascal_context", "retrieval": "retrieval"}[path.parent.name]
    plain = load(ROOT / "config/config.yaml", PAPER / f"{base}.yaml")
    study = load(ROOT / "config/config.yaml", PAPER / f"{base}.yaml", path)
    assert study.models != plain.models
    assert {plain.experiment, study.experiment} <= set(plain.compare)
    same = {"experiment", "models", "sizes"}
    assert study.model_dump(exclude=same) == plain.model_dump(exclude=same)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_the_papers(path):
    config = load(ROOT / "config/config.yaml", path)
    assert config.archive_size == 50 and config.temperature == 10
    assert [concept.name for concept in config.context] == "tree sky building road person".split()
    assert config.cosegment.variant == "paper" and config.cosegment.merge == "mean"
    crf = config.crf
    assert (crf.size, crf.iterations, crf.gaussian_sxy, crf.gaussian_compat) == (None, 10, 1, 3)
    assert (crf.bilateral_sxy, crf.bilateral_srgb, crf.bilateral_compat) == (67, 3, 4)
    assert crf.tolerance == 0
    if config.train:
        train = config.train
        assert (train.iterations, train.batch, train.lr, train.size) == (20000, 8, 5e-4, 320)
        assert train.scale == (0.5, 2.0) and train.jitter == 0.8 and train.backbone_lr == 0.1
        assert train.full_size_loss and train.merge_labels == (path.stem == "coco_stuff")


def test_vegetation_takes_over_the_reference_of_tree(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load("config/config.yaml", "config/paper/cityscapes.yaml")
    experiment = Experiment(config, "x")
    assert experiment.reference("vegetation") == experiment.reference("tree")
    assert experiment.reference("vegetation") != experiment.reference("terrain")
    assert experiment.text("vegetation") != experiment.text("tree")
    assert "vegetation" not in experiment.sources
    alone = Experiment(config.model_copy(update={"context": []}), "x")
    assert "vegetation" in alone.sources


SMALL = {
    "device": "cpu",
    "models": {"retrieval": "packaged", "dense": "packaged", "encoder": "packaged"},
    "sizes": {"retrieval": 64, "archive": 64},
    "archive_size": 4,
    "crf": {"iterations": 2, "size": 64},
    "train": {
        "encoder": "packaged",
        "encoder_weights": None,
        "size": 64,
        "iterations": 2,
        "batch": 2,
    },
}


def random_weights(folder):
    """Checkpoints of the paper's kinds of network, in the formats of their publishers; specs."""
    torch.manual_seed(0)
    clip = open_clip.create_model("RN50-quickgelu", pretrained=None)
    save_file(clip.state_dict(), folder / "clip.safetensors")
    deit = timm.create_model("deit_small_distilled_patch16_224", pretrained=False)
    torch.save({"model": deit.state_dict()}, folder / "deit_s_sin_dist.pth")
    spec = f"open_clip:RN50-quickgelu/{folder}/clip.safetensors"
    encoder = f"timm:deit_small_distilled_patch16_224/{folder}/deit_s_sin_dist.pth"
    return {"retrieval": spec, "dense": spec, "encoder": encoder}


@pytest.mark.slow
def test_cityscapes_runs_to_the_figures(tmp_path):
    """A whole experiment on a miniature: CLIP, DeiT and ResNet-101 with random weights, the
    released pixels, ReCo+ with looks at val, a reference taken over."""
    train = {**SMALL["train"], "encoder": "resnet101", "validate_every": 1}
    changes = {**SMALL, "models": random_weights(tmp_path), "train": train}
    project = Paper(tmp_path).use("cityscapes", **changes)
    project.config["sizes"].update(retrieval=224, benchmark=64)
    project.config["concepts"] = ["road", "car", {"name": "vegetation", "reference": "tree"}]
    project.run()
    assert project.plan() == {}
    results = project.folder / "results/paper-cityscapes"
    assert len({row["class"] for row in read_table(results / "per_class.csv")}) == 27
    masks = sorted((project.folder / "data/paper-cityscapes/masks/plus").rglob("*.png"))
    assert len(masks) == 2 * 6 and len({mask.name for mask in masks}) == 6
    retrieval = (results / "tables/retrieval.md").read_text()
    assert "vegetation" in retrieval
    methods = (results / "tables/methods.md").read_text()
    assert "Of 2 checkpoints of ReCo+ the best on val" in methods
    for name in ("archives", "predictions"):
        assert (results / f"figures/{name}.png").stat().st_size > 5000


@pytest.mark.slow
def test_coco_stuff_predicts_many_and_scores_few(tmp_path, converted):
    """Fine concepts are predicted, coarse classes scored; no ReCo+."""
    project = Paper(tmp_path).use("coco_stuff", **SMALL, concepts=["person", "dog", "grass"])
    project.take(converted)
    project.config["sizes"]["benchmark"] = 64
    project.config["train"] = None
    project.run()
    assert project.plan() == {}
    results = project.folder / "results/paper-coco-stuff"
    rows = read_table(results / "per_class.csv")
    assert len({row["class"] for row in rows}) == 27
    assert {row["method"] for row in rows} == {"denseclip", "reference", "reco"}
    assert not (results / "figures/training.png").exists()
    assert re.search(
        r"split val: \d+ images, 27 classes", (results / "tables/methods.md").read_text()
    )
    assert np.isfinite(
        [float(row["mean_iou"]) for row in read_table(results / "metrics.csv")]
    ).all()


def test_merging_comes_after_the_prediction(tmp_path):
    """Fine names that are one coarse class count as right for each other, whatever the size."""
    reader = reader_of("coco_stuff")
    root = miniatures.make_coco_stuff(tmp_path / "coco")
    split = Split(reader, root, "val", Geometry(32, crop=True, resample=NEAREST))
    catalog_split(split, tmp_path / "val.csv", need_masks=True)
    rows = read_table(tmp_path / "val.csv")
    fine_of = [np.flatnonzero(reader.merge == coarse) for coarse in range(27)]
    rng = np.random.default_rng(0)
    for row in rows:
        truth = split.truth(row)
        assert truth.shape == (32, 32)
        fine = [[rng.choice(fine_of[max(label, 0)]) for label in line] for line in truth]
        path = tmp_path / "masks" / row["prediction"]
        write_labels(path, np.array(fine))
    matrix = score(tmp_path / "masks", split, rows, 27)
    assert matrix.pixel_accuracy == 1 and matrix.counts.sum() > 0


@pytest.mark.parametrize("merged", [False, True])
def test_the_student_learns_the_names_or_the_merged_classes(merged, tmp_path, monkeypatch):
    """Whichever it learns, what it predicts is scored as ReCo's predictions are."""
    torch.set_num_threads(2)
    config = load(ROOT / "config/config.yaml", PAPER / "coco_stuff.yaml")
    assert config.train.merge_labels
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(ROOT / "config")
    benchmark = {
        "root": miniatures.make_coco_stuff(tmp_path / "coco"),
        "train_root": miniatures.make_coco_stuff10k(tmp_path / "coco10k"),
    }
    train = {
        "encoder": "tu-tf_mobilenetv3_small_minimal_100",
        "encoder_weights": None,
        "merge_labels": merged,
        "validate_every": 2,
        "size": 64,
        "iterations": 2,
        "batch": 2,
    }
    changes = {
        "device": "cpu",
        "benchmark": config.benchmark.model_copy(update=benchmark),
        "train": config.train.model_copy(update=train),
        "crf": config.crf.model_copy(update={"size": 32, "iterations": 1}),
    }
    experiment = Experiment(config.model_copy(update=changes))
    reader, names = experiment.reader, 27 if merged else 171
    tables = {split: tmp_path / f"{split}.csv" for split in ("train", "val")}
    for split, table in tables.items():
        catalog_split(experiment.split(split), table, need_masks=split == "val")
    for place, row in enumerate(read_table(tables["train"])):
        labels = np.full((40, 50), 160 + place)  # an id that no class has
        write_labels(tmp_path / "masks" / experiment.best.slug / row["prediction"], labels)
    made = [tmp_path / name for name in ("model.safetensors", "model.json", "curve.csv")]
    train_plus(experiment, tables["train"], tmp_path / "masks", *made, tables["val"])
    assert len(read_json(made[1])["labels"]) == names == len(experiment.learned)
    assert read_tensors(made[0])["segmentation_head.0.bias"].shape == (names,)
    segment_plus(experiment, tables["val"], *made[:2], tmp_path / "plus", 1)
    looked = [row["val_mean_iou"] for row in read_table(made[2])]
    plain = experiment.plus[0]
    matrix = score(
        tmp_path / "plus" / plain.slug, experiment.split("val"), read_table(tables["val"]), 27
    )
    assert looked[0] == "" and float(looked[1]) == pytest.approx(matrix.mean_iou, abs=1e-6)
    np.testing.assert_array_equal(
        reader.merge[experiment.learned_labels], np.arange(27) if merged else reader.merge
    )


@pytest.mark.parametrize(
    ("lost", "message"),
    [("gtFine/val", "has no mask"), ("leftImg8bit/val", "cityscapes-dataset.com")],
)
def test_a_dataset_that_is_not_whole_stops_at_once(tmp_path, monkeypatch, lost, message):
    root = miniatures.make_cityscapes(tmp_path / "cityscapes")
    shutil.rmtree(root / lost)
    monkeypatch.chdir(ROOT)
    config = load("config/config.yaml", "config/paper/cityscapes.yaml")
    benchmark = config.benchmark.model_copy(update={"root": root})
    split = Experiment(config.model_copy(update={"benchmark": benchmark})).split("val")
    with pytest.raises(RecoError, match=message):
        catalog_split(split, tmp_path / "val.csv", need_masks=True)
    assert not (tmp_path / "val.csv").exists()

"""The DAG: what it plans, that it runs, and that only what changed runs again."""

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT, Project, draw_scene, job_counts

from reco.config import load
from reco.data.tables import read_table

PER_CONCEPT = {"retrieve", "cosegment"}
# One job for all concepts, which computes what is new.
BATCH = {"text", "features"}
EACH_ONCE = PER_CONCEPT | BATCH  # for one concept that is new
# What gathers all concepts and so runs again when one of them changes.
GATHERS = {"segment_split", "train", "segment_plus", "evaluate", "precision"}


def test_default_experiment_plans_a_job_per_concept():
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", "--forceall"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    concepts = len({row["concept"] for row in read_table(ROOT / "config/stamps/cutouts.csv")})
    assert concepts >= 60
    contexts = len(load(ROOT / "config/config.yaml").context)
    plan = job_counts(text)
    assert plan["retrieve"] == plan["cosegment"] == concepts + contexts
    assert plan["bank"] == concepts and plan["whiten"] == 1


def test_lint_is_clean():
    command = [sys.executable, "-m", "snakemake", "--lint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good condition" in done.stdout + done.stderr


RULES = [
    (path.stem, *re.match(r"(\w+):\n(.*)", block, re.DOTALL).groups())
    for path in sorted((ROOT / "workflow/rules").glob("*.smk"))
    for block in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]
    if "shell:" in block or "notebook:" in block  # others do nothing, they name a set of files
]


@pytest.mark.parametrize(("file", "name", "body"), RULES, ids=[rule[1] for rule in RULES])
def test_every_rule_says_what_it_needs(file, name, body):
    for part in ("output:", "log:", "benchmark:", "threads:", "resources:", "mem_mb=", "runtime="):
        assert part in body, f"{file}.smk: rule {name} has no {part}"
    for section in re.findall(r"^    (?:input|output):\n((?:        .*\n)+)", body, re.MULTILINE):
        first = [line for line in section.splitlines() if re.match(r" {8}[^ #)\]]", line)]
        assert all(re.match(r" {8}\w+=", line) for line in first), f"{name}: files without names"


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_profiles_of_clusters_know_the_rules_and_agree_with_default(name):
    profile, default = (
        yaml.safe_load((ROOT / "profiles" / folder / "config.yaml").read_text())
        for folder in (name, "default")
    )
    rules = {rule[1] for rule in RULES}
    assert {*profile["groups"], *profile.get("set-resources", {})} <= rules
    assert set(profile["groups"].values()) == set(profile["group-components"])
    shared = default.keys() - {"resources"}
    assert {key: profile.get(key) for key in shared} == {key: default[key] for key in shared}


def test_rules_that_gain_from_an_accelerator_say_so():
    tagged = {name for _, name, body in RULES if "gpu=1" in body}
    assert tagged >= {"embed", "text", "features", "segment_split", "train", "segment_plus"}
    assert not tagged & {"retrieve", "cosegment", "evaluate", "compose", "fetch"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"archive_siz": 3}, "did you mean 'archive_size'"),
        ({"concepts": ["fire truck", "Fire  Truck"]}, "fire-truck"),
        ({"concepts": "c.yaml"}, "c.yaml: no such file"),
        ({"benchmark": {"kind": "folder", "root": "/nonexistent"}}, "classes.txt"),
        (
            {"index": {"kind": "folder", "root": "/nonexistent"}},
            "index.root: /nonexistent: no such",
        ),
        ({"archive_size": 13}, "holds 12 images, fewer than the archive size 13"),
    ],
)
def test_mistakes_stop_before_any_job(project, config, message):
    done = project.snakemake("--dry-run", **config)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_text_of_people_is_no_pattern_to_snakemake(project):
    """Braces would be wildcards in inputs and parameters."""
    shutil.move(project.root / "photos", project.root / "pho {x} tos")
    (project.root / "la{x}bels.csv").write_text("path,concepts\n")
    (project.root / "bench/classes.txt").write_text("{x}\nlemon\n{a} b\n")
    (project.root / "w{x}.pth").touch()
    place = {
        name: str(project.root / name) for name in ("pho {x} tos", "la{x}bels.csv", "w{x}.pth")
    }
    config = {
        "index": {"kind": "folder", "root": place["pho {x} tos"], "labels": place["la{x}bels.csv"]},
        "models": {"retrieval": f"open_clip:RN50-quickgelu/{place['w{x}.pth']}"},
        "stamps": {"source": "a{x}"},
    }
    plan = project.plan(**config)
    assert plan["embed"] == plan["precision"] == 1
    plan = project.plan(**config, concepts="{x}, lemon", photos=place["pho {x} tos"])
    assert plan["segment"] == 1 and plan["cosegment"] == 3


def test_files_of_concepts_are_read_from_the_command_line(project):
    """`--config` makes numbers of what looks like one, and text of the rest."""
    (project.folder / "names.txt").write_text("zebra\nbus\n")
    shutil.copytree(project.root / "photos", project.folder / "2024")
    done = project.snakemake("--dry-run", "--config", "photos=2024", "concepts=names.txt")
    assert done.returncode == 0, done.stdout + done.stderr
    assert job_counts(done.stdout + done.stderr)["cosegment"] == 3
    done = project.snakemake("--dry-run", "--config", "photos=2024_05_01")
    assert "on the command line write photos=./..." in done.stdout + done.stderr
    (project.folder / "2024_05_01").mkdir()
    done = project.snakemake("--dry-run", "--config", "photos=./2024_05_01", "concepts=[7, no]")
    assert job_counts(done.stdout + done.stderr)["cosegment"] == 3, "two names and a context"


@pytest.mark.slow
def test_a_new_concept_costs_one_bank(project):
    def run(names, *arguments):
        config = {"recipe": "seedbank", "bank": {"size": 4, "scales": [64, 96]}}
        done = project.snakemake("banks", *arguments, concepts=names, **config)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def plan(names):
        return job_counts(run(names, "--dry-run", "--quiet", "host"))

    names = ["orange", "lemon"]
    assert plan(names)["bank"] == 2
    run(names)
    assert plan(names) == {}
    added = [*names, "broccoli"]
    once = {"text": 1, "retrieve": 1, "features": 1, "bank": 1}
    assert plan(added).items() >= once.items() and "whiten" not in plan(added)
    draw_scene(np.random.default_rng(9))[0].save(project.photos / "photo 3.png")
    changed = plan(names)
    assert changed["whiten"] == 1 and changed["bank"] == 2


@pytest.mark.slow
def test_runs_and_reruns_only_what_changed(project):
    """One run of everything; then each kind of change takes one invocation, and only its work."""
    hostile = "it's $(touch pwned) `x`; ../ü 🦓"
    names = ["orange", "lemon", "broccoli", {"name": "zebra", "prompts": ["striped horse"]}]
    (project.photos / "broken.jpg").write_bytes(b"no image")
    project.run(concepts=names)
    assert project.plan(concepts=names) == {}
    data, results = project.folder / "data/tiny", project.folder / "results/tiny"
    assert [row["path"] for row in read_table(data / "embeddings/skipped.csv")] == ["broken.jpg"]
    metrics = read_table(results / "metrics.csv")
    assert {row["method"] for row in metrics} == {"denseclip", "reference", "reco", "reco_plus"}
    run = json.loads((results / "run.json").read_text())
    assert run["device"] == "cpu" and run["seed"] == 0 and run["versions"]["torch"]

    # add one, with a name that must not reach a shell or leave the folder
    added = [*names, hostile]
    plan = project.plan(concepts=added)
    assert {rule: plan[rule] for rule in EACH_ONCE} == dict.fromkeys(EACH_ONCE, 1)
    assert plan["segment_split"] == 2
    assert set(plan) >= GATHERS and not {"embed", "gather", "catalog", "weights"} & set(plan)
    text = project.run(concepts=added)
    assert "text for retrieval: 1 of" in text
    assert project.plan(concepts=added) == {}
    assert not list(project.folder.rglob("pwned"))

    # edit one concept's prompts
    edited = [*names[:3], {"name": "zebra", "prompts": ["zebra", "herd of zebras"]}, hostile]
    plan = project.plan(concepts=edited)
    assert {rule: plan[rule] for rule in EACH_ONCE} == dict.fromkeys(EACH_ONCE, 1)
    project.run(concepts=edited)
    assert project.plan(concepts=edited) == {}

    # remove one
    plan = project.plan(concepts=names[:3])
    assert not (PER_CONCEPT | {"text", "embed", "gather"}) & set(plan)
    assert set(plan) >= GATHERS
    project.run(concepts=names[:3])
    assert project.plan(concepts=names[:3]) == {}
    labels = {row["class"] for row in read_table(results / "per_class.csv")}
    assert labels == {"orange", "lemon", "broccoli"}

    # replace an index image: everything after embedding, one image through the network
    draw_scene(np.random.default_rng(99))[0].save(project.photos / "photo 3.png")
    plan = project.plan(concepts=names[:3])
    assert plan["embed"] == plan["gather"] == 1 and plan["retrieve"] == plan["cosegment"] == 4
    # a run that ends between two stages leaves as much to the next
    text = project.run("archives", concepts=names[:3])
    # the replaced image, and the broken one, which is looked at again each time
    assert "embed index: 2 of 13 images to compute" in text
    plan = project.plan(concepts=names[:3])
    assert plan["features"] == 1 and plan["cosegment"] == 4
    assert not {"embed", "gather", "retrieve"} & set(plan)
    project.run(concepts=names[:3])
    assert project.plan(concepts=names[:3]) == {}

    # embed in parts: the same bytes, and nothing to do for whoever asks for other parts
    embeddings = data / "embeddings"
    before = {path.name: path.read_bytes() for path in embeddings.iterdir() if path.is_file()}
    shutil.rmtree(embeddings)
    parts = ["--set-scatter", "embed=3"]
    text = project.run("gather", *parts, concepts=names[:3])
    assert job_counts(text)["embed"] == 3
    after = {path.name: path.read_bytes() for path in embeddings.iterdir() if path.is_file()}
    assert after == before and len(before) == 5
    project.run(*parts, concepts=names[:3])
    assert project.plan(concepts=names[:3]) == {}


@pytest.mark.slow
def test_stamps_from_the_download_to_the_figures(project):
    """The default experiment in small: real photographs, real networks, every stage."""
    small = {
        "experiment": "stamps-small",
        "index": {"kind": "stamps"},
        "benchmark": {"kind": "stamps"},
        "stamps": {"index": 150, "train": 8, "val": 12, "size": 256},
        "sizes": {"retrieval": 256, "archive": 256, "benchmark": 256},
        "concepts": ["tiger", "zebra", "pineapple", "fire truck"],
    }
    project.run(**small)
    results = project.folder / "results/stamps-small"
    found = [row for row in read_table(results / "retrieval.csv") if row["k"] == "2"]
    assert len(found) == 4
    assert np.mean([float(row["precision"]) for row in found]) >= 0.75
    for name in ("archives", "predictions", "archive_size", "precision", "training"):
        for suffix in ("png", "pdf"):
            assert (results / f"figures/{name}.{suffix}").stat().st_size > 5000
    assert "tiger" in (results / "tables/retrieval.md").read_text()
    assert (results / "paper_figures.ipynb").exists()
    photographs_are_segmented(project, small)


def photographs_are_segmented(project: Project, small: dict[str, Any]) -> None:
    """Photographs without labels, as a DAG and as a command, beside the experiment."""
    photos = project.folder / "my photos"
    shutil.copytree(project.folder / "data/stamps-small/scenes/benchmark/images/val", photos)
    (photos / "broken.jpg").write_bytes(b"no image")
    words = {"photos": str(photos), "concepts": "tiger, zebra, xqzt", "background": True}
    plan = project.plan(**small | words)
    assert not {"embed", "segment_split", "train", "evaluate"} & set(plan), plan
    assert plan["segment"] == 1 and plan["cosegment"] == 1, "one word is new"
    project.run(**small | words)
    assert project.plan(**small | words) == {}
    assert project.plan(**small) == {}, "what was scored is left alone"
    out = project.folder / "results/stamps-small/photos/my-photos"
    assert [row["photo"] for row in read_table(out / "failed.csv")] == ["broken.jpg"]
    concepts = {row["concept"]: row for row in read_table(out / "concepts.csv")}
    assert concepts["xqzt"]["doubt"] and not concepts["tiger"]["doubt"]
    shares = read_table(out / "summary.csv")
    assert len(shares) == 12 * 3 and any(float(row["share"]) > 0 for row in shares)
    assert (
        len(list((out / "masks").glob("*.png"))) == len(list((out / "coco").glob("*.json"))) == 12
    )
    (photos / "broken.jpg").unlink()
    assert project.plan(**small | words)["segment"] == 1

    command = [sys.executable, "-m", "reco.cli", "segment", str(photos), "--experiment"]
    command += ["stamps-small", "--concepts", "tiger, lemon", "--out", "found"]
    environment = {**os.environ, "PYTHONPATH": str(project.folder / "src")}
    done = subprocess.run(
        command, cwd=project.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tiger" in done.stdout and "of 12" in done.stdout
    assert project.plan(**small) == {}

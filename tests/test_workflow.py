"""The DAG: what it plans, that it runs, and that only what changed runs again."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT, Project, draw_scene, job_counts
from safetensors.numpy import load_file

from reco.config import load
from reco.data.tables import read_table

PER_CONCEPT = {"retrieve", "cosegment"}
# One job for all concepts, which computes what is new.
BATCH = {"text", "features"}
EACH_ONCE = PER_CONCEPT | BATCH  # for one concept that is new
# What gathers all concepts and so runs again when one of them changes.
GATHERS = {"segment_split", "train", "segment_plus", "evaluate", "precision"}


# Everything but the last rules, which draw, print and record what a run made.
SCORES = ["results/tiny/metrics.csv", "results/tiny/retrieval.csv"]
LAST = {
    *(f"table_{name}" for name in ("components", "methods", "retrieval")),
    *("figure_archives", "figure_archive_size", "figure_precision"),
    *("figure_predictions", "figure_training", "paper_figures", "record", "all"),
}
NAMES = ["orange", "lemon", "broccoli", {"name": "zebra", "prompts": ["striped horse"]}]


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


def read_rules() -> list[tuple[str, str, str]]:
    """File, name and text of every rule; what `use rule` takes from another is part of the text."""
    head = r"^(?:rule|use rule (\w+) as) (\w+)(?: with)?:\n"
    rules, parts = [], {}
    for path in sorted((ROOT / "workflow/rules").glob("*.smk")):
        _, *found = re.split(head, path.read_text(), flags=re.MULTILINE)
        for base, name, body in zip(found[::3], found[1::3], found[2::3], strict=True):
            own = re.findall(r"^    \w+:.*\n(?:(?: {8}.*)?\n)*", body + "\n", re.MULTILINE)
            own = {part.split(":")[0].strip(): part for part in own}
            parts[name] = {**parts.get(base, {}), **own}
            # others do nothing, they name a set of files
            if {"shell", "notebook"} & parts[name].keys():
                rules.append((path.stem, name, "".join(parts[name].values())))
    return rules


RULES = read_rules()


@pytest.mark.parametrize(("file", "name", "body"), RULES, ids=[rule[1] for rule in RULES])
def test_every_rule_says_what_it_needs(file, name, body):
    for part in ("output:", "log:", "benchmark:", "threads:", "resources:", "mem_mb=", "runtime="):
        assert part in body, f"{file}.smk: rule {name} has no {part}"
    for section in re.findall(r"^    (?:input|output):\n((?:        .*\n)+)", body, re.MULTILINE):
        first = [line for line in section.splitlines() if re.match(r" {8}[^ #)\]]", line)]
        named = r" {8}(\w+=|\*\*as_(figure|table)\()"
        assert all(re.match(named, line) for line in first), f"{name}: files without names"


def test_every_rule_has_files_of_its_own():
    """`use rule` would take over what is not stated."""
    for part in ("output", "log", "benchmark"):
        sections = [
            re.search(rf"^    {part}:\n((?: {{8}}.*\n)+)", body, re.MULTILINE)[1]
            for *_, body in RULES
        ]
        assert len(sections) == len(set(sections)), part


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


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),  # a probe, of the networks that the config names
        ({"recipe": "paper"}, True),  # DeepLab from the packaged backbone, inherited
        ({"train": {"student": "deeplab"}}, True),
        ({"train": {"student": "deeplab", "encoder": "resnet18"}}, False),
        ({"models": {"encoder": "packaged"}}, True),
    ],
)
def test_the_readmes_config_has_the_weights_that_it_trains_with(project, changes, needed):
    readme = (ROOT / "README.md").read_text()
    values = yaml.safe_load(re.search(r"```yaml\n(# mine\.yaml.*?)```", readme, re.DOTALL)[1])
    project.config = {
        **values,
        "index": project.config["index"],
        "benchmark": project.config["benchmark"],
        "archive_size": 4,
        "bank": {"size": 4},
        **changes,
    }
    done = project.snakemake("--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    wanted = re.search(r"^rule train:\n    input: (.*)$", text, re.MULTILINE)[1]
    assert ("data/models/packaged" in wanted) == needed
    assert job_counts(text).get("weights", 0) == needed


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


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder but Snakemake's own and Python's: time and content."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {".snakemake", "__pycache__"} & set(path.parts)
        if path.name != "tiny.yaml"  # by the tests
    }


def test_to_plan_writes_nothing_and_looks_at_the_images_once(project):
    plan = project.folder / "src/reco/workflow/plan.py"
    scanned = "\n\ndef scan_images(experiment, scan=scan_images):\n"
    scanned += "    import sys; print('SCANNED', file=sys.stderr)\n    return scan(experiment)\n"
    plan.write_text(plan.read_text() + scanned)
    before = tree(project.folder)
    said = project.run("--dry-run") + project.run("--detailed-summary")
    assert tree(project.folder) == before and said.count("SCANNED") == 2

    said = project.run("catalog")
    assert said.count("SCANNED") == 1
    config = project.folder / "data/tiny/config"
    noted = json.loads((config / "images.json").read_text())
    [merged] = set(config.iterdir()) - {config / "images.json"}
    assert json.loads(merged.read_text())["experiment"] == "tiny"

    draw_scene(np.random.default_rng(9))[0].save(project.photos / "photo 3.png")
    before = tree(project.folder)
    plan = project.plan(seed=1)
    assert plan["catalog"] == 1 and tree(project.folder) == before
    said = project.run("catalog", seed=1)
    assert json.loads((config / "images.json").read_text())["index"] != noted["index"]
    assert len(list(config.iterdir())) == 3
    before = tree(project.folder)
    assert project.plan(seed=1) and tree(project.folder) == before


@pytest.mark.slow
def test_a_new_concept_costs_one_bank(project, converted):
    project.take(converted)

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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, converted: Path) -> Project:
    """A run of everything, on two cores. The test that changes it comes last."""
    project = Project(tmp_path_factory.mktemp("finished")).take(converted)
    shutil.rmtree(project.folder / "profiles")  # Snakemake's own settings do
    (project.photos / "broken.jpg").write_bytes(b"no image")
    project.config["concepts"] = NAMES
    # keep 1: else a threshold, no argmax, decides which pixels of the pseudo-masks are labelled
    project.config["train"]["keep"] = 1
    project.run("--cores", "2")
    return project


@pytest.mark.slow
def test_two_runs_agree(finished, converted, tmp_path):
    """Equal bytes up to training and equal metrics after it; threads change no seed, no label."""
    second, single = (
        Project(tmp_path / name, data=finished.root).take(converted)
        for name in ("second", "single")
    )
    second.config = single.config = finished.config
    second.run("--cores", "2", *SCORES)
    data = "data/tiny"
    compared = 0
    for part in ("images", "embeddings", "text", "archives", "features", "references", "masks"):
        for path in sorted((finished.folder / data / part).rglob("[!.]*")):
            if path.is_file() and "plus" not in path.parts:
                other = second.folder / path.relative_to(finished.folder)
                assert path.read_bytes() == other.read_bytes(), path
                compared += 1
    assert compared > 40
    for a, b in zip(
        *(read_table(p.folder / "results/tiny/metrics.csv") for p in (finished, second)),
        strict=True,
    ):
        assert abs(float(a["mean_iou"]) - float(b["mean_iou"])) <= 0.002, (a, b)

    single.run("--cores", "1", "--until", "segment_split")
    for path in sorted((finished.folder / data / "archives").glob("*.csv")):
        names = [
            [row["path"] for row in read_table(project.folder / data / "archives" / path.name)]
            for project in (finished, single)
        ]
        assert names[0] == names[1]
    for path in sorted((finished.folder / data / "references").glob("*.safetensors")):
        mine, other = (
            load_file(project.folder / data / "references" / path.name)
            for project in (finished, single)
        )
        for name in mine:
            if name.endswith("seeds"):
                assert (mine[name] == other[name]).all(), (path, name)
    for path in sorted((finished.folder / data / "masks").rglob("*.png")):
        if "plus" not in path.parts:
            other = single.folder / path.relative_to(finished.folder)
            assert path.read_bytes() == other.read_bytes(), path


@pytest.mark.slow
def test_runs_and_reruns_only_what_changed(finished):
    """After a run of everything each kind of change takes one invocation, and only its work."""
    hostile = "it's $(touch pwned) `x`; ../ü 🦓"
    names, project = NAMES, finished
    assert project.plan(concepts=names) == {}
    assert "precision" in project.plan(concepts=names, archive_sizes=[])
    data, results = project.folder / "data/tiny", project.folder / "results/tiny"
    assert [row["path"] for row in read_table(data / "embeddings/skipped.csv")] == ["broken.jpg"]
    metrics = read_table(results / "metrics.csv")
    assert {row["method"] for row in metrics} == {"denseclip", "reference", "reco", "reco_plus"}
    run = json.loads((results / "run.json").read_text())
    assert run["device"] == "cpu" and run["seed"] == 0 and run["versions"]["torch"]
    networks = ["embed", "text", "features", "embed_split"]  # segment_split reads what they gave
    assert list(run["devices"]) == [*networks, "train", "segment_plus"]

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
    project.run(*SCORES, concepts=edited)
    assert set(project.plan(concepts=edited)) == LAST

    # remove one
    plan = project.plan(concepts=names[:3])
    assert not (PER_CONCEPT | {"text", "embed", "gather"}) & set(plan)
    assert set(plan) >= GATHERS
    project.run(*SCORES, concepts=names[:3])
    assert set(project.plan(concepts=names[:3])) == LAST
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
    shutil.copytree(ROOT / "profiles", project.folder / "profiles")
    embeddings = data / "embeddings"
    before = {path.name: path.read_bytes() for path in embeddings.iterdir() if path.is_file()}
    shutil.rmtree(embeddings)
    parts = ["--set-scatter", "embed=3"]
    text = project.run("gather", *parts, concepts=names[:3])
    assert job_counts(text)["embed"] == 3
    after = {path.name: path.read_bytes() for path in embeddings.iterdir() if path.is_file()}
    assert after == before and len(before) == 5
    project.run("archives", *parts, concepts=names[:3])
    assert job_counts(project.run("--dry-run", "archives", concepts=names[:3])) == {}


@pytest.mark.slow
def test_stamps_from_the_download_to_the_figures(project, converted):
    """The default experiment in small: real photographs, real networks, every stage."""
    project.take(converted)
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

"""The workflow as others use it: from the catalogue, in a folder of their own, as a module."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CORES, PROMPT, ROOT, Project, job_counts

from reco.files import CHECKOUT, shipped

MODULE = """
configfile: "config/config.yaml"


module reco:
    snakefile:
        {snakefile!r}
    config:
        config


use rule * from reco as reco_*


rule all:
    default_target: True
    input:
        rules.reco_all.input,
        "best.txt",


rule best:
    input:
        rules.reco_evaluate.output.summary,
    output:
        "best.txt",
    shell:
        "cp {{input}} {{output}}"
"""
SECOND = """
module other:
    snakefile:
        {snakefile!r}
    config:
        {{**config, "experiment": "other"}}


use rule * from other as other_*
"""


class Small:
    """A folder elsewhere with the small run's config and pictures, and a checkout to run it by."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        made = shutil.ignore_patterns("data", "results", ".snakemake")
        self.folder = shutil.copytree(ROOT / ".test", folder, ignore=made)
        self.checkout = checkout

    def write(self, snakefile: str) -> None:
        text = snakefile.format(snakefile=str(self.checkout / "workflow/Snakefile"))
        (self.folder / "Snakefile").write_text(text)

    def snakemake(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "snakemake"]
        return subprocess.run(
            [*command, "--cores", str(CORES), "--nocolor", *PROMPT, *arguments],
            cwd=cwd or self.folder,
            env={**os.environ, "PYTHONPATH": str(self.checkout / "src")},
            capture_output=True,
            text=True,
            check=False,
        )

    def plan(self, *arguments: str, cwd: Path | None = None) -> dict[str, int]:
        done = self.snakemake("--dry-run", "--quiet", "host", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return job_counts(done.stdout + done.stderr)


def test_the_catalogue_finds_what_it_shows():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    for name in ("workflow/Snakefile", "config/README.md", "workflow/schemas/config.schema.json"):
        assert (ROOT / name).is_file()


def test_files_of_the_checkout_are_found_from_elsewhere(tmp_path, monkeypatch):
    name = "config/labels/cityscapes.yaml"
    monkeypatch.chdir(tmp_path)
    assert shipped(name) == str(CHECKOUT / name) and Path(shipped(name)).is_file()
    Path(name).parent.mkdir(parents=True)
    Path(name).touch()
    assert shipped(name) == name, "a folder's own file comes first"


def test_the_small_run_plans_every_stage(tmp_path):
    small = Small(tmp_path / "small", ROOT)
    plan = small.plan("--directory", str(small.folder), cwd=ROOT)
    assert plan["embed"] == plan["train"] == plan["paper_figures"] == 1
    assert plan["retrieve"] == plan["cosegment"] == 4


def test_a_job_of_another_plan_fails(tmp_path):
    """Today's numbers never get the name of what other code makes."""
    small = Small(tmp_path / "small", ROOT)
    small.write(MODULE)
    for name in ("archives/lemon.0123456789ab.csv", "references/lemon.0123456789ab.safetensors"):
        done = small.snakemake("--dry-run", f"data/discs/{name}")
        assert done.returncode != 0 and "MissingRuleException" in done.stdout + done.stderr


def test_one_workflow_holds_one_experiment(tmp_path):
    small = Small(tmp_path / "small", ROOT)
    small.write(MODULE + SECOND)
    done = small.snakemake("--dry-run")
    assert done.returncode != 0 and "two experiments in one workflow" in done.stdout + done.stderr


@pytest.mark.slow
def test_runs_as_a_module_in_another_folder(tmp_path, converted):
    project = Project(tmp_path)
    small = Small(tmp_path / "small", project.folder)
    shutil.copytree(converted, small.folder / "data/models/packaged")
    small.write(MODULE)
    done = small.snakemake()
    assert done.returncode == 0, done.stdout + done.stderr
    assert (small.folder / "best.txt").read_bytes().startswith(b"{")
    results = small.folder / "results/discs"
    assert (results / "paper_figures.ipynb").exists() and (results / "metrics.csv").exists()
    assert not (project.folder / "data").exists() and not (project.folder / "results").exists()
    assert small.plan() == {}

    # a checkout that moves: files that are written again as they were, with another time
    src = project.folder / "src/reco"
    for path in src.rglob("*.py"):
        path.touch()
    assert small.plan() == {}

    # a comment: what takes the file as an input; no concept
    evaluate = src / "workflow/evaluate.py"
    before = evaluate.read_text()
    evaluate.write_text(before + "\n# a comment\n")
    plan = small.plan()
    assert plan["reco_evaluate"] == plan["reco_precision"] == 1
    assert not {"reco_retrieve", "reco_cosegment", "reco_segment_split"} & set(plan)
    evaluate.write_text(before)
    assert small.plan() == {}, "checked out again"

    # a comment in the code of a concept's stage: what lists the file, not the stage; a statement:
    # the stage, under other names
    cosegment = src / "workflow/cosegment.py"
    before = cosegment.read_text()
    cosegment.write_text(before + "\n# a comment\n")
    plan = small.plan()
    assert plan["reco_segment_split"] and not {"reco_retrieve", "reco_cosegment"} & set(plan)
    cosegment.write_text(before + "\nMOVED = True\n")
    plan = small.plan()
    assert plan["reco_cosegment"] == 4 and "reco_retrieve" not in plan

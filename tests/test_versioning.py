"""DVC beside Snakemake: who keeps what, a second machine, two runs that agree."""

import configparser
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import yaml
from conftest import CORES, PROMPT, ROOT, copy_checkout, job_counts
from moto.server import ThreadedMotoServer
from test_workflow import EACH_ONCE, RULES

from reco.config import load
from reco.data.tables import read_table

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
RULES_OF = {
    stage: re.search(r"--allowed-rules (.*?) -- ", what["cmd"])[1].split()
    for stage, what in STAGES.items()
}


def test_every_rule_belongs_to_one_stage():
    # but the masks of the train split, which one of the two students asks for
    masks = {"segment_part", "segment_split"}
    rules_of = {**RULES_OF, "train": [r for r in RULES_OF["train"] if r not in masks]}
    known = [rule for rules in rules_of.values() for rule in rules]
    assert len(known) == len(set(known))
    # the archive of one concept, a dataset of the paper, photographs: made when asked for
    on_demand = {"figure_archive", "download", "rare", "figure_rare", "segment"}
    named = {name for _, name, _ in RULES}
    assert named - on_demand <= set(known) <= named | {"all", "archives", "banks", "references"}


def test_stages_depend_on_the_code_of_their_rules():
    """`make stages` has nothing to write."""
    text = (ROOT / "dvc.yaml").read_text()
    written = runpy.run_path(str(ROOT / "workflow/scripts/stages.py"))["write_code"]
    assert written(text) == text
    assert written(re.sub(r"^      - src/.*\n", "", text, flags=re.MULTILINE)) == text
    assert all(stage["deps"] for stage in STAGES.values()), (
        "DVC runs what depends on nothing always"
    )


def test_parameters_of_stages_exist():
    config = yaml.safe_load((ROOT / "params.yaml").read_text())
    for stage in STAGES.values():
        for name in stage.get("params", []):
            value = config
            for part in name.split("."):
                assert part in value, name
                value = value[part]


def test_dvc_tells_nobody():
    settings = configparser.ConfigParser()
    settings.read(ROOT / ".dvc/config")
    assert settings["core"]["analytics"] == settings["core"]["check_update"] == "false"


def committed(path):
    """A file as the last commit has it: what a run or an edit left here is not in git."""
    if not (ROOT / ".git").exists():
        pytest.skip("not in a git checkout")
    show = ["git", "-C", str(ROOT), "show", f"HEAD:{path}"]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout


def test_results_in_git_are_those_that_the_readme_shows():
    readme = committed("README.md")
    shown = re.findall(r"<!-- table: (\S+) -->\n(.*?)\n<!-- /table -->", readme, re.DOTALL)
    assert shown
    for path, table in shown:
        title, made = committed(path).strip().split("\n\n", 1)
        assert title.startswith("**") and table.strip() == made


def test_results_in_git_come_from_a_commit():
    run = json.loads(committed("results/recorded/stamps/run.json"))
    assert run["git"]["changed"] == []


def test_a_run_of_the_default_experiment_changes_no_file_that_git_has():
    """It writes config.yaml, to the same bytes, and else only what git ignores."""
    values = load(ROOT / "params.yaml").model_dump(mode="json")
    made = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    assert (ROOT / "results/stamps/config.yaml").read_text() == made
    outs = [
        out if isinstance(out, str) else next(iter(out))
        for stage in STAGES.values()
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]
    ]
    names = {out.replace("${experiment}", "stamps") for out in outs}
    check = ["git", "-C", str(ROOT), "check-ignore", "--no-index", *names]
    ignored = subprocess.run(check, capture_output=True, text=True, check=False)
    assert names - set(ignored.stdout.split("\n")) == {"results/stamps/config.yaml"}


def test_clean_removes_what_experiments_made_and_nothing_else(tmp_path):
    shutil.copy2(ROOT / "Makefile", tmp_path)
    kept = [
        *("data/downloads/imagenet/a.JPEG", "data/models/packaged/w", "data/packages/p.deb"),
        *("data/my photos/a.jpg", "photos/a.jpg", "data/README.md", "data/holiday/a.jpg"),
        *("results/recorded/stamps/metrics.csv", "results/benchmarks/crf.md", "results/notes.md"),
        "results/stamps/config.yaml",
    ]
    gone = [
        *("data/stamps/config/images.json", "data/stamps/scenes/a.jpg", "data/store/x/y.npy"),
        *("data/photographs/p/a.png", "data/trip-12/embeddings/index.json"),
        *("results/stamps/metrics.csv", "results/stamps/figures/a.png", "results/trip-12/a/b"),
    ]
    for name in kept + gone:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    subprocess.run(["make", "--silent", "clean"], cwd=tmp_path, check=True)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"Makefile", *kept}


# ---- a run, recorded by DVC -------------------------------------------------------------------

SMALL = {
    "device": "cpu",
    "stamps": {"source": None, "size": 160, "index": 60, "train": 4, "val": 4},
    "sizes": {"retrieval": 128, "archive": 128, "benchmark": 128},
    "concepts": ["tiger", "zebra"],
    "context": ["lake"],
    "bank": {"size": 5, "scales": [128, 160]},
    "archive_size": 4,
    "archive_sizes": [2],
    "crf": {"iterations": 2},
    "train": {"size": 64, "iterations": 2, "batch": 2},
}


class Checkout:
    """A git checkout of the project whose default experiment is small."""

    def __init__(self, folder):
        self.folder = folder
        programs = Path(sys.executable).parent
        who = {
            f"GIT_{role}_{what}": "t@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        self.environment = {
            **os.environ,
            **who,
            "PYTHONPATH": str(folder / "src"),
            "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        }

    def run(self, *command, code=0, **environment):
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def plan(self):
        return job_counts(self.run("snakemake", "--dry-run", "--quiet", "host"))

    def configure(self, **changes):
        file = self.folder / "config/config.yaml"
        config = yaml.safe_load(file.read_text())
        for key, value in changes.items():
            both = isinstance(value, dict) and isinstance(config[key], dict)
            config[key] = {**config[key], **value} if both else value
        file.write_text(yaml.safe_dump(config, sort_keys=False))

    def commit(self, message):
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)


def recorded_run(test):
    """Mark a slow test that shares one recorded run, and so its process (--dist loadfile)."""
    return pytest.mark.slow(test)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run of `dvc repro`, committed, and pushed to a remote in a folder."""
    folder = tmp_path_factory.mktemp("versioning")
    checkout = Checkout(copy_checkout(folder / "first"))
    checkout.configure(**SMALL)
    profile = checkout.folder / "profiles/default/config.yaml"
    profile.write_text(profile.read_text().replace("1000/5s", PROMPT[1]))
    checkout.run("git", "rm", "--quiet", "--ignore-unmatch", "dvc.lock")
    checkout.commit("small")
    checkout.run("dvc", "repro", "--quiet")
    checkout.commit("run")
    checkout.run("dvc", "remote", "add", "--local", "--default", "storage", str(folder / "remote"))
    checkout.run("dvc", "push", "--quiet")
    return checkout


def clone(first, folder, remote=None):
    """A second machine: what git has, and the remote of the first; no data."""
    first.run("git", "clone", "--quiet", str(first.folder), str(folder))
    second = Checkout(folder)
    remote = remote or first.run("dvc", "remote", "list").split()[1]
    second.run("dvc", "remote", "add", "--local", "--default", "storage", remote)
    return second


def pull(checkout):
    """The commands of `make pull`, without its installation."""
    recipe = re.search(r"^pull:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    script = recipe.replace("$(BIN)/", "").replace("\t@", "\t").replace("\\\n", "")
    return checkout.run("bash", "-ec", script)


@recorded_run
def test_neither_undoes_the_others_work(recorded):
    assert recorded.plan() == {}
    assert recorded.run("dvc", "status", "--quiet") == ""
    said = recorded.run("dvc", "repro")
    assert "Running stage" not in said
    # the other way round: Snakemake runs, DVC records
    recorded.configure(temperature=12.0)
    recorded.run("snakemake", "--cores", str(CORES))
    recorded.run("dvc", "commit", "--force")
    assert "Running stage" not in recorded.run("dvc", "repro")
    assert recorded.plan() == {}
    # a link instead of params.yaml would be text in a revision, and DVC would compare with nothing
    said = recorded.run("dvc", "metrics", "diff", "--all")
    assert "mean_iou" in said and "failed to load" not in said
    assert "metrics.csv" in recorded.run(
        "dvc", "plots", "diff", "--json", "--targets", "results/stamps/metrics.csv"
    )
    recorded.run("git", "checkout", "--quiet", ".")
    recorded.run("dvc", "checkout", "--quiet")
    assert recorded.run("dvc", "status", "--quiet") == ""


@recorded_run
def test_a_second_machine_has_nothing_to_do(recorded, tmp_path):
    second = clone(recorded, tmp_path / "second")
    assert {"fetch", "compose", "embed", "segment_split", "train", "evaluate", "all"} <= set(
        second.plan()
    )
    pull(second)
    assert second.plan() == {}
    assert second.run("git", "status", "--porcelain") == ""
    said = second.run("reco", "trace", "results/stamps/tables/methods.md")
    assert "DIFFERS" not in said and "NOT UP TO DATE" not in said and "UNCOMMITTED" not in said
    assert said.count("as recorded") >= 10

    second.configure(concepts=["tiger", {"name": "zebra", "prompts": ["striped horse"]}])
    plan = second.plan()
    assert {rule: plan[rule] for rule in EACH_ONCE} == dict.fromkeys(EACH_ONCE, 1)
    assert not {"fetch", "weights", "compose", "catalog", "embed"} & set(plan)
    said = second.run("snakemake", "--cores", str(CORES))
    assert "text for retrieval: 1 of" in said  # the store came along
    assert second.plan() == {}
    assert "UNCOMMITTED: params.yaml" in second.run("reco", "trace", "results/stamps/metrics.csv")
    table = (second.folder / "results/stamps/tables/methods.md").read_text()
    assert "Made with uncommitted changes: params.yaml." in table


@pytest.fixture
def s3(monkeypatch):
    """Address of a server on loopback that speaks S3 and has a bucket `reco`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="reco")
    yield address
    server.stop()


@recorded_run
def test_a_second_machine_with_s3(recorded, tmp_path, s3):
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    second = clone(recorded, tmp_path / "second", "s3://reco/stamps")
    recorded.run("dvc", "remote", "add", "--local", "--force", "s3", "s3://reco/stamps")
    recorded.run("dvc", "remote", "modify", "--local", "s3", "endpointurl", s3)
    recorded.run("dvc", "push", "--quiet", "--remote", "s3", **keys)
    second.run("dvc", "remote", "modify", "--local", "storage", "endpointurl", s3)
    pull(second)
    assert second.plan() == {}


@recorded_run
def test_an_experiment_of_dvc(recorded, tmp_path):
    third = clone(recorded, tmp_path / "third")
    pull(third)
    third.run("dvc", "exp", "run", "--name", "three", "-S", "archive_size=3")
    metrics = read_table(third.folder / "results/stamps/metrics.csv")
    assert {row["archive_size"] for row in metrics} == {"0", "2", "3", "5"}
    assert third.plan() == {}
    assert "three" in third.run("dvc", "exp", "list", "--name-only")
    said = third.run("dvc", "params", "diff", "--json")
    changes, _ = json.JSONDecoder().raw_decode(said)  # remarks of DVC may follow
    assert changes["params.yaml"]["archive_size"] == {"old": 4, "new": 3, "diff": -1}

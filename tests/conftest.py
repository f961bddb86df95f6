"""Shared by the tests: a small labelled folder of pictures, and the project copied beside it."""

# ruff: noqa: E402
# Libraries read the number of threads when they are imported.

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Tests that run side by side (pytest -n) share the cores; threads of more than there are would wait
# for each other.
TESTERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
CORES = max(1, (os.cpu_count() or 1) // TESTERS)
if TESTERS > 1:
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ[f"{library}_NUM_THREADS"] = str(CORES)

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
# profiles/default has Snakemake look at its queue every five seconds, and so it takes up to five
# to end; that is half of a small run.
PROMPT = ["--max-jobs-per-timespan", "1000/1s"]
SHAPES = {"orange": (230, 130, 20), "lemon": (240, 220, 60), "broccoli": (40, 120, 40)}


def draw_scene(rng: np.random.Generator, size: int = 96) -> tuple[Image.Image, Image.Image]:
    """A noisy ground with one or two discs in the colours of SHAPES, and their mask."""
    image = Image.fromarray(rng.integers(90, 150, (size, size, 3), dtype=np.uint8))
    mask = Image.new("L", (size, size), 255)
    for label in rng.choice(len(SHAPES), rng.integers(1, 3), replace=False):
        x, y, r = *rng.integers(20, size - 20, 2), int(rng.integers(12, 24))
        box = [int(x) - r, int(y) - r, int(x) + r, int(y) + r]
        ImageDraw.Draw(image).ellipse(box, fill=list(SHAPES.values())[label])
        ImageDraw.Draw(mask).ellipse(box, fill=int(label))
    return image, mask


def make_folder(root: Path, *, index: int = 12, train: int = 6, val: int = 4) -> None:
    """Write an index and a benchmark in the folder layout."""
    rng = np.random.default_rng(0)
    (root / "photos").mkdir(parents=True)
    for i in range(index):
        draw_scene(rng)[0].save(root / "photos" / f"photo {i}.png")
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / "bench" / kind / split).mkdir(parents=True)
        for i in range(count):
            image, mask = draw_scene(rng)
            image.save(root / "bench" / "images" / split / f"{i}.jpg")
            mask.save(root / "bench" / "masks" / split / f"{i}.png")
    (root / "bench" / "classes.txt").write_text("".join(f"{name}\n" for name in SHAPES))


def copy_checkout(folder: Path) -> Path:
    """Copy what git has or would take of this project into a new repository; its folder."""
    list_files = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    found = subprocess.run(list_files, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in found.stdout.split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    return folder


class Project:
    """A copy of the project in a folder of its own, with a tiny experiment on `folder` data.

    Args:
        data: the folder with the images, made if None.
    """

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        self.folder = folder / "project"
        self.folder.mkdir(parents=True)
        for name in (
            "Snakefile",
            "config",
            "workflow",
            "profiles",
            "src",
            "notebooks",
        ):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, self.folder / name, ignore=shutil.ignore_patterns("__pycache__")
                )
            elif source.exists():
                shutil.copy2(source, self.folder / name)
        self.root = data or folder
        if data is None:
            make_folder(folder)
        self.config = {
            "experiment": "tiny",
            "device": "cpu",
            "index": {"kind": "folder", "root": str(self.root / "photos")},
            "benchmark": {"kind": "folder", "root": str(self.root / "bench")},
            "recipe": "paper",
            "context": ["sky"],
            "sizes": {"retrieval": 64, "archive": 64, "benchmark": 64},
            "archive_size": 4,
            "archive_sizes": [2],
            "crf": {"iterations": 2},
            "train": {"size": 64, "iterations": 2, "batch": 2},
        }

    @property
    def photos(self) -> Path:
        return Path(self.config["index"]["root"])

    def take(self, weights: Path) -> "Project":
        """Copy the `converted` weights, which the rule `weights` would make; this project."""
        shutil.copytree(weights, self.folder / "data/models/packaged")
        return self

    def snakemake(self, *arguments: str, **config: object) -> subprocess.CompletedProcess[str]:
        """Run Snakemake with the tiny experiment, changed by `config`."""
        file = self.folder / "tiny.yaml"
        file.write_text(yaml.safe_dump({**self.config, **config}, allow_unicode=True))
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--cores",
            str(CORES),
            "--configfile",
            str(file),
            *PROMPT,
        ]
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "src")}
        return subprocess.run(
            [*command, "--nocolor", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def plan(self, **config: object) -> dict[str, int]:
        """Number of jobs by rule that a dry run lists."""
        done = self.snakemake("--dry-run", "--quiet", "host", **config)
        assert done.returncode == 0, done.stdout + done.stderr
        return job_counts(done.stdout + done.stderr)

    def run(self, *arguments: str, **config: object) -> str:
        """Run to the end; what Snakemake printed."""
        done = self.snakemake(*arguments, **config)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def job_counts(text: str) -> dict[str, int]:
    """Read Snakemake's table of jobs; empty where nothing is to be done."""
    if "Job stats:" not in text:
        assert "Nothing to be done" in text, text
        return {}
    table = text.split("Job stats:", 1)[1].split("total", 1)[0].splitlines()
    rows = [line.split() for line in table]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the converted packaged weights, made once for all tests side by side."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "converted"
    with (root / "converted.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            weights = root / "converting/tf_efficientnet_lite2.safetensors"
            command = [sys.executable, "-m", "reco.cli", "weights", "--weights", str(weights)]
            # As the rule: with other threads the last bits may differ.
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
            subprocess.run(command, env=environment, check=True)
            weights.parent.rename(folder)
    return folder


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `converted`, but sooner made: its dictionary entries have random embeddings."""
    from reco.models import packaged

    path = tmp_path_factory.mktemp("networks")
    entries = np.random.default_rng(0).standard_normal((1000, 384)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packaged, "embed_sentences", lambda sentences: entries)
        packaged.convert(path)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh copy of the project."""
    return Project(tmp_path)

"""The record of a run: what made the numbers beside it."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from reco.config import config_fingerprint
from reco.device import resolve_device
from reco.experiment import Experiment

PACKAGES = (
    "matplotlib",
    "numpy",
    "open_clip_torch",
    "pandas",
    "pillow",
    "safetensors",
    "scipy",
    "segmentation-models-pytorch",
    "sentence-transformers",
    "snakemake",
    "timm",
    "torch",
    "torchvision",
)


def describe_run(experiment: Experiment) -> dict[str, Any]:
    """Versions, seed, revision, config and device of a run, as plain data.

    `git` is None outside a git checkout; `dirty` says that tracked files differ from the revision.
    """
    config = experiment.config
    device = resolve_device(config.device)
    return {
        "experiment": config.experiment,
        "config_fingerprint": config_fingerprint(config),
        "seed": config.seed,
        "git": git_state(Path(__file__).parent),
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "models": config.models.model_dump(),
        "concepts": len(experiment.targets),
        "methods": [method.slug for method in [*experiment.zero_shot, *experiment.plus]],
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Revision of the checkout that holds `folder`, and whether its tracked files were changed."""
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"revision": revision, "dirty": dirty}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()

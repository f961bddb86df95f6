"""The record of a run: what made the numbers beside it."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from reco.config import config_fingerprint
from reco.device import read_devices
from reco.experiment import Experiment
from reco.files import digest_folders, sha256
from reco.revision import read_revision

RECORDED = (
    "matplotlib",
    "numpy",
    "onnxruntime",
    "open_clip_torch",
    "pandas",
    "pillow",
    "safetensors",
    "scipy",
    "segmentation-models-pytorch",
    "snakemake",
    "timm",
    "tokenizers",
    "torch",
    "torchvision",
)


def describe_run(
    experiment: Experiment,
    files: Sequence[Path] = (),
    logs: Path | None = None,
    stages: Sequence[str] = (),
) -> dict[str, Any]:
    """What made the numbers of a run, as plain data.

    Args:
        files: files and folders whose digests are recorded, by folder.
        logs: folder of the logs of jobs, which say where their networks ran.
        stages: rules with networks.

    Returns:
        among others `git`: the revision, whether tracked files differ from it (`dirty`) and which
        (`changed`); None outside a git checkout. `devices`: stage -> device -> its names; `device`
        and `device_name` are those of all stages, None where no log is left that says so.
    """
    config, revision = experiment.config, read_revision()
    devices = {
        stage: found
        for stage in stages
        if logs and (found := read_devices([*logs.glob(f"{stage}.log"), *logs.glob(f"{stage}/*")]))
    }
    kinds = {device for found in devices.values() for device in found}
    names = {name for found in devices.values() for known in found.values() for name in known}
    lock = Path("requirements.lock")
    return {
        "experiment": config.experiment,
        "config_fingerprint": config_fingerprint(config),
        "seed": config.seed,
        "git": revision.describe() if revision else None,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": ", ".join(sorted(kinds)) or None,
        "device_name": ", ".join(sorted(names)) or None,
        "devices": devices,
        "processors": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in RECORDED},
        "requirements.lock": sha256(lock) if lock.exists() else None,
        "models": config.models.model_dump(),
        "concepts": len(experiment.targets),
        "methods": [method.slug for method in [*experiment.zero_shot, *experiment.plus]],
        "files": digest_folders(files),
    }

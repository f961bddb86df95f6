"""Plan: what can be known to be wrong before any job runs, and the state of the images.

Snakemake asks here each time it is called, so nothing waits for a deep-learning framework.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from reco.config import Config, FolderBenchmark, FolderIndex, StampsBenchmark
from reco.data.folder import Scan, file_state, scan
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import fingerprint, read_json
from reco.models import LOCAL, SPECS, checkpoint_of, is_checkpoint, unknown_name


def check_plan(config: Config) -> None:
    """Look for what a config names: folders, files, models.

    Raises:
        RecoError: something that it names is not there.
    """
    index, benchmark = config.index, config.benchmark
    if isinstance(index, FolderIndex):
        _check_folder("index.root", index.root)
        if index.labels and not index.labels.is_file():
            raise RecoError(f"index.labels: {index.labels}: no such file")
    if isinstance(benchmark, FolderBenchmark):
        _check_folder("benchmark.root", benchmark.root)
        if benchmark.train_root:
            _check_folder("benchmark.train_root", benchmark.train_root)
    if config.photos and not (config.photos.is_dir() or config.photos.is_file()):
        raise RecoError(f"photos: {config.photos}: no such file or folder")
    for role in ("retrieval", "dense", "encoder"):
        check_model(f"models.{role}", getattr(config.models, role))
    weights = config.train.encoder_weights if config.train else None
    if weights and is_checkpoint(weights) and not Path(weights).is_file():
        raise RecoError(f"train.encoder_weights: {weights}: no such file")


def check_model(key: str, spec: str) -> None:
    """Look at a model's name, and for the file or folder that it names, without loading it.

    Args:
        key: of the config, for messages.

    Raises:
        RecoError: an unknown kind of model or CLIP, one that does not suit its role, or no such
            file.
    """
    kind, _, rest = spec.partition(":")
    if spec != "packaged" and (kind not in ("open_clip", "timm") or not rest):
        raise RecoError(f"{key}: unknown model {spec!r}: write {SPECS}")
    if kind == "timm" and key != "models.encoder":
        raise RecoError(
            f"{key}: {spec} is an image encoder and cannot embed text: use packaged or an "
            "open_clip model"
        )
    name, slash, _ = rest.partition("/")
    weights = checkpoint_of(spec)
    if kind == "open_clip" and rest.startswith(LOCAL):
        if not Path(str(weights), "open_clip_config.json").is_file():
            raise RecoError(f"{key}: {spec}: no open_clip_config.json in {weights}")
        return
    if kind == "open_clip":
        if (known := _clip_models()) and name not in known:
            raise unknown_name(f"{key}: {spec}", "open_clip model", name, known)
        if not slash:
            raise RecoError(f"{key}: {spec}: add the weights: {spec}/<tag or checkpoint file>")
    # a name without dot or slash may be a tag, which only open_clip knows
    if weights and (kind == "timm" or is_checkpoint(str(weights))) and not weights.is_file():
        raise RecoError(f"{key}: {spec}: no such checkpoint file: {weights}")


def check_archives(experiment: Experiment, images: int) -> None:
    """Compare the largest archive with the number of images of the index.

    Raises:
        RecoError: there are fewer images.
    """
    config, index = experiment.config, experiment.config.index
    largest = config.deepest_archive
    if isinstance(index, FolderIndex) and images < largest:
        raise RecoError(
            f"{index.root}: holds {images} images, fewer than the archive size {largest}: add "
            "images, mend the 'root' of the index, or lower archive_size and archive_sizes"
        )
    if not isinstance(index, FolderIndex) and config.stamps.index < largest:
        raise RecoError(
            f"stamps.index: {config.stamps.index} images, fewer than the archive size {largest}: "
            "raise it, or lower archive_size and archive_sizes"
        )


def state_of_images(experiment: Experiment) -> dict[str, str]:
    """State of the images and their labels, which are read again when it changes.

    Scenes that are as they were composed count as such, so that a first run, which begins without
    them, and the next one agree.

    Raises:
        RecoError: the index is smaller than the largest archive.
    """
    config, found = experiment.config, scan_images(experiment)
    check_archives(experiment, found["index"].count)
    state = {part: scan.digest for part, scan in found.items()}
    record = Path(experiment.scenes, "composed.json")
    composed = read_json(record)["state"] if record.exists() else None
    for part, kind in (("index", config.index), ("benchmark", config.benchmark)):
        if kind and kind.kind == "stamps" and (not composed or composed[part] == state[part]):
            state[part] = "as composed"
    if isinstance(config.index, FolderIndex) and config.index.labels:
        state["labels"] = str(file_state(config.index.labels))
    return state


def point_jobs_at(config: Path) -> None:
    """Let the commands that this process starts read `config`, by the variable RECO_CONFIG.

    Raises:
        RecoError: they read another one already, as where two modules of a workflow are ours.
    """
    process, _, planned = os.environ.get("RECO_PLANNED", "").partition(":")
    if process == str(os.getpid()) and planned != config.as_posix():
        raise RecoError(
            "two experiments in one workflow: run each by itself, or give all modules one config"
        )
    os.environ["RECO_PLANNED"] = f"{os.getpid()}:{config.as_posix()}"
    os.environ["RECO_CONFIG"] = config.as_posix()


def _check_folder(key: str, folder: Path) -> None:
    if not folder.is_dir():
        raise RecoError(f"{key}: {folder}: no such folder")


def _clip_models() -> list[str]:
    """Names of open_clip's models, which it keeps a file each of; importing it takes seconds."""
    package = find_spec("open_clip")
    if not package or not package.origin:
        return []
    return [file.stem for file in Path(package.origin).with_name("model_configs").glob("*.json")]


def scan_images(experiment: Experiment) -> dict[str, Scan]:
    """State and number of the images of the index, of the benchmark and of the photographs.

    Of composed scenes only names and sizes count, for times change where they are copied.
    """
    config = experiment.config
    splits = [experiment.split(role) for role in ("train", "val")] if config.benchmark else []
    folders = {
        "index": [experiment.index_root],
        "benchmark": [
            split.root / part / split.name for part in ("images", "masks") for split in splits
        ]
        if experiment.reader.kind == "folder"
        else list(dict.fromkeys(split.root for split in splits)),
    }
    if config.photos:
        folders["photos"] = [config.photos]
    composed = {
        "photos": False,
        "index": config.index.kind == "stamps",
        "benchmark": isinstance(config.benchmark, StampsBenchmark),
    }
    found = {
        name: scan(*(root for root in roots if root.is_dir()), times=not composed[name])
        for name, roots in folders.items()
    }
    if config.photos and config.photos.is_file():
        found["photos"] = Scan(fingerprint(file_state(config.photos)), 1)
    return found

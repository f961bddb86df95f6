"""Shared by all stages: the checked config, the plan of the experiment, the environment of jobs.

Reads the merged config; writes a copy for the jobs to `data/<experiment>/config/`, under a name
made from its content, so that runs with different settings never see each other's.
"""

import os
import sys
from pathlib import Path

from reco.config import config_fingerprint, parse
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import read_json, write_json
from reco.folder import scan

try:
    EXPERIMENT = Experiment(parse(config))
    CONCEPTS = list(EXPERIMENT.concepts)
    TARGETS = [concept.slug for concept in EXPERIMENT.targets]
    VARIANTS = [variant.slug for variant in EXPERIMENT.reference_variants]
except RecoError as error:
    raise WorkflowError(str(error)) from None

SETTINGS = EXPERIMENT.config
DATA, RESULTS = EXPERIMENT.data, EXPERIMENT.results
MERGED = Path(DATA, "config", f"{config_fingerprint(SETTINGS)}.json")
if not MERGED.exists():
    write_json(MERGED, SETTINGS.model_dump(mode="json"))

# Jobs find the config and the programs of this Python's environment, activated or not.
os.environ.update(
    RECO_CONFIG=MERGED.as_posix(),
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
)

FINGERPRINT = r"[0-9a-f]{12}"


wildcard_constraints:
    slug="|".join(CONCEPTS),
    mark=FINGERPRINT,
    split="train|val",


def code(*modules):
    """Source files whose edits make a stage run again."""
    return [f"src/reco/{module}.py" for module in modules]


def weights(*roles):
    """Converted weights of the packaged models, where a role uses them."""
    specs = {getattr(SETTINGS.models, role) for role in roles}
    return ["data/models/packaged/tf_efficientnet_lite2.safetensors"] if "packaged" in specs else []


def images_state():
    """What tells whether images were added, replaced or taken away since they were listed.

    Composed scenes are compared with the state noted when they were composed, so that a first
    run, which begins without them, and the next one agree.
    """
    state = {}
    for name, kind, roots in (
        ("index", SETTINGS.index.kind, [EXPERIMENT.index_root]),
        (
            "benchmark",
            SETTINGS.benchmark.kind,
            [
                EXPERIMENT.benchmark_root / part / EXPERIMENT.split(role)
                for part in ("images", "masks")
                for role in ("train", "val")
            ],
        ),
    ):
        present = [root for root in roots if root.is_dir()]
        if kind == "folder":
            state[name] = scan(*present, times=True)
        else:
            record = Path(EXPERIMENT.scenes, "composed.json")
            noted = read_json(record)["state"][name] if record.exists() else None
            now = scan(*present, times=False) if noted else None
            state[name] = "as composed" if now == noted else now
    return state

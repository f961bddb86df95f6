"""Shared by all stages: the checked config, the plan of the experiment, the environment of jobs.

Reads the merged config; writes a copy for the jobs to `data/<experiment>/config/`, under a name
made from its content, so that runs with different settings never see each other's.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from reco.code import sources
from reco.concepts import slugify
from reco.config import check_config, config_fingerprint
from reco.errors import RecoError
from reco.data.downloads.listing import read_packages
from reco.experiment import BACKGROUNDS, CUTOUTS, PACKAGES, Experiment
from reco.files import read_json, write_json
from reco.workflow.plan import check_plan, note_images

try:
    SETTINGS = check_config(config)
    if SETTINGS.photos:  # they are segmented, and nothing is scored or trained
        SETTINGS = SETTINGS.model_copy(update={"benchmark": None, "train": None})
    EXPERIMENT = Experiment(SETTINGS)
    CONCEPTS = list(EXPERIMENT.concepts)
    TARGETS = [concept.slug for concept in EXPERIMENT.targets]
    VARIANTS = [variant.reference_name for variant in EXPERIMENT.reference_variants]
    # The process that plans looks at the files, and notes the state of the images: a job on a
    # cluster plans its own part again, and shall neither look through millions of images first
    # nor find another state, which would have it list them anew.
    NOTED = Path(EXPERIMENT.data, "config", "images.json")
    if workflow.is_main_process:
        check_plan(SETTINGS)
        STATE = note_images(EXPERIMENT, NOTED)
    else:
        STATE = read_json(NOTED)
    EXPERIMENT = replace(EXPERIMENT, images=STATE["index"])
except RecoError as error:
    raise WorkflowError(str(error)) from None

# Of a rare concept no masks are made: it is scored at every threshold. Else a benchmark is scored.
RARE = EXPERIMENT.reader.kind == "firenet"
SCORED = bool(SETTINGS.benchmark) and not RARE
DATA, RESULTS = EXPERIMENT.data, EXPERIMENT.results
MERGED = Path(DATA, "config", f"{config_fingerprint(SETTINGS)}.json")
if not MERGED.exists():
    write_json(MERGED, SETTINGS.model_dump(mode="json"))

# Jobs find the config and the programs of this Python's environment, activated or not.
os.environ.update(
    RECO_CONFIG=MERGED.as_posix(),
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    ),
)

FINGERPRINT = r"[0-9a-f]{12}"


wildcard_constraints:
    slug="|".join(CONCEPTS),
    mark=FINGERPRINT,
    split="train|val",
    folder="[a-z0-9-]+",


def code(module):
    """Source files whose edits make a stage run again: what its module imports, itself included."""
    here = Path.cwd()
    return [
        path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
        for path in sources(module)
    ]


def weights(*roles):
    """Converted weights of the packaged models, where a role uses them."""
    specs = {getattr(SETTINGS.models, role) for role in roles}
    return (
        ["data/models/packaged/tf_efficientnet_lite2.safetensors"]
        if "packaged" in specs
        else []
    )


def verbatim(value):
    """A parameter as it is: in text that a person wrote, Snakemake takes {x} for a wildcard."""
    return lambda wildcards: value

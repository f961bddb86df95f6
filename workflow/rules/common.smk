"""Shared by all stages: the checked config, the plan of the experiment, the environment of jobs.

Reads the config, whose defaults are those of `reco.config`. Before the first job starts, the whole of
it is written for the jobs to `data/<experiment>/config/`, under a name made from its content, so that
runs with different settings never see each other's. To plan (`snakemake -n`) writes nothing.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from reco.code import sources
from reco.concepts import slugify
from reco.config import check_config, config_fingerprint
from reco.data.downloads.listing import read_packages
from reco.errors import RecoError
from reco.experiment import BACKGROUNDS, CUTOUTS, PACKAGES, Experiment
from reco.files import read_json, shipped, write_json
from reco.workflow.plan import check_plan, point_jobs_at, state_of_images
from reco.workflow.resources import memory_mb

try:
    SETTINGS = check_config(config)
    EXPERIMENT = Experiment(SETTINGS)
    CONCEPTS = list(EXPERIMENT.concepts)
    TARGETS = [concept.slug for concept in EXPERIMENT.targets]
    VARIANTS = [variant.reference_name for variant in EXPERIMENT.reference_variants]
    # The process that plans looks at the files, once, and `onstart` notes the state of the images: a
    # job on a cluster plans its own part again, and shall neither look through millions of images
    # first nor find another state, which would have it list them anew.
    NOTED = Path(EXPERIMENT.data, "config", "images.json")
    if workflow.is_main_process:
        check_plan(SETTINGS)
        STATE = state_of_images(EXPERIMENT)
    else:
        STATE = read_json(NOTED)
    EXPERIMENT = replace(EXPERIMENT, images=STATE["index"])
    MERGED = Path(EXPERIMENT.data, "config", f"{config_fingerprint(SETTINGS)}.json")
    point_jobs_at(MERGED)
except RecoError as error:
    raise WorkflowError(str(error)) from None

# Of a rare concept no masks are made: it is scored at every threshold. Else a benchmark is scored.
RARE = EXPERIMENT.reader.kind == "firenet"
SCORED = bool(SETTINGS.benchmark) and not RARE
DATA, RESULTS = EXPERIMENT.data, EXPERIMENT.results


def hand_to_jobs():
    """Write what jobs read instead of looking for themselves."""
    write_json(NOTED, STATE)
    if not MERGED.exists():
        write_json(MERGED, SETTINGS.model_dump(mode="json"))


onstart:  # in the process that plans, where there is a job to run and it is no dry run
    hand_to_jobs()


# Of a module, Snakemake does not run `onstart`.
if workflow.is_main_process and not workflow.modifier.is_main_snakefile():
    hand_to_jobs()


# Jobs find the programs of this Python's environment, activated or not.
os.environ.update(
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    ),
)

# Files of concepts as today's code and config name them. A job that another plan sent for another
# name, as where the checkout moved while it waited, fails; else it would put today's numbers there.
MARKED = [EXPERIMENT.archive(slug) for slug in EXPERIMENT.sources]
MARKED += [EXPERIMENT.reference(slug) for slug in EXPERIMENT.sources]
MARKED += [EXPERIMENT.bank(slug) for slug in EXPERIMENT.banked]


wildcard_constraints:
    slug="|".join(CONCEPTS),
    mark="|".join(sorted({Path(file).name.split(".")[1] for file in MARKED})),
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
    """Converted weights of the packaged models, where a role uses them.

    Roles are those of `models`, and `student`: the backbone that DeepLab starts from.
    """
    student = SETTINGS.train.encoder if SETTINGS.student == "deeplab" else None
    specs = {**SETTINGS.models.model_dump(), "student": student}
    return (
        ["data/models/packaged/tf_efficientnet_lite2.safetensors"]
        if "packaged" in [specs[role] for role in roles]
        else []
    )


# Side of a picture of the benchmark, were it a square: it is taken as 3:2, and as half a megapixel
# where the config does not say its size.
SIDE = round(1.5**0.5 * (SETTINGS.sizes.benchmark or 577))


def memory(labels, side=SIDE):
    """Memory (MB) of a job with as many processes as threads: see `memory_mb`."""
    return lambda wildcards, threads, attempt: memory_mb(threads, labels, side, attempt)


def split_features(split):
    """The table of the features of a split, where they are kept."""
    return EXPERIMENT.split_features(split) if EXPERIMENT.keeps_features else []


def verbatim(value):
    """A parameter as it is: in text that a person wrote, Snakemake takes {x} for a wildcard."""
    return lambda wildcards: value


def as_figure(path, category, shows):
    """The files of a figure; the report shows the PNG, with the caption of its name or folder."""
    shown = report(
        f"{RESULTS}/figures/{path}.png",
        category=category,
        labels={"shows": shows},
        caption=f"../report/{path.partition('/')[0]}.rst",
    )
    return {"png": shown, "pdf": f"{RESULTS}/figures/{path}.pdf"}


def as_table(name, category, shows):
    """The files of a table; the report shows the page."""
    path = f"{RESULTS}/tables/{name}"
    shown = report(
        f"{path}.html",
        category=category,
        labels={"shows": shows},
        caption=f"../report/{name}.rst",
    )
    return {"markdown": f"{path}.md", "latex": f"{path}.tex", "html": shown}

"""ReCo: retrieve and co-segment for zero-shot transfer (Shin, Xie, Albanie, NeurIPS 2022).

The includes are the method in order; each opens with what it reads and makes.
"""

from snakemake.utils import min_version

min_version("9.0")


# A file of your own is not laid over it: what that leaves out comes from `reco.config`, as it does
# for `reco --config` and `reco.load`.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/embed.smk"
include: "workflow/rules/retrieve.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/cosegment.smk"
include: "workflow/rules/bank.smk"
include: "workflow/rules/segment.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/rare.smk"
include: "workflow/rules/figures.smk"


report: "workflow/report/workflow.rst"


PHOTOS = []
if SETTINGS.photos:
    folder = slugify(SETTINGS.photos.absolute().name)
    PHOTOS = expand(rules.segment.output, folder=folder)
RECORD = [f"{RESULTS}/paper_figures.ipynb", f"{RESULTS}/run.json"]


rule all:
    default_target: True
    input:
        PHOTOS or [TABLES, FIGURES, RECORD],

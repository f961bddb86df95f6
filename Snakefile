"""ReCo, where Snakemake looks first. The workflow is workflow/Snakefile, which others include."""


include: "workflow/Snakefile"


workflow.default_target = (
    "all"  # an include brings its rules, but not which comes first
)

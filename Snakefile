"""ReCo, where Snakemake looks first. The workflow is in workflow/Snakefile, where others include it."""


include: "workflow/Snakefile"

"""Figures and tables: what a person looks at; one rule each, from metrics, masks and archives.

The rules are alike: each takes all but its files and its command from the one that it names.

Makes `results/<experiment>/{tables,figures}/` and the executed notebook.
`snakemake results/<experiment>/figures/archive/<slug>.png` draws the whole archive of one concept.
"""

TABLES = expand(
    f"{RESULTS}/tables/{{name}}.{{suffix}}",
    name=["retrieval"] + ["components", "methods"] * SCORED,
    suffix=["md", "tex", "html"],
)
FIGURES = expand(
    f"{RESULTS}/figures/{{name}}.{{suffix}}",
    name=["precision"]
    + ["archives", "predictions", "archive_size"] * SCORED
    + ["training"] * bool(PLUS)
    + ["rare"] * RARE,
    suffix=["png", "pdf"],
)


rule figure_training:
    input:
        curve=rules.train.output.curve,
        run=rules.record.output.run,
        code=code("workflow.figures.training"),
    output:
        **as_figure("training", "Segmentation", "training of ReCo+"),
    log:
        f"{DATA}/logs/figure_training.log",
    benchmark:
        f"{DATA}/benchmarks/figure_training.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        command=lambda wildcards, input: f"figure training --curve {input.curve}",
    shell:
        "reco --log {log} {params.command} --run {input.run} {output}"


use rule figure_training as figure_archive with:
    input:
        retrieval=rules.precision.output.retrieval,
        archive=lambda wildcards: EXPERIMENT.archive(wildcards.slug),
        reference=lambda wildcards: EXPERIMENT.best_source(wildcards.slug),
        run=rules.record.output.run,
        code=code("workflow.figures.archives"),
    output:
        **as_figure("archive/{slug}", "Retrieval", "archive of {slug}"),
    log:
        f"{DATA}/logs/figure_archive/{{slug}}.log",
    benchmark:
        f"{DATA}/benchmarks/figure_archive/{{slug}}.tsv"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        command=lambda wildcards, input: (
            f"figure archives --concept {wildcards.slug} --retrieval {input.retrieval}"
        ),
        size=SETTINGS.sizes.archive,


use rule figure_archive as figure_archives with:
    input:
        retrieval=rules.precision.output.retrieval,
        archives=RANKED,
        references=[EXPERIMENT.best_source(slug) for slug in TARGETS],
        run=rules.record.output.run,
        code=code("workflow.figures.archives"),
    output:
        **as_figure("archives", "Retrieval", "archives and their co-segmentation"),
    log:
        f"{DATA}/logs/figure_archives.log",
    benchmark:
        f"{DATA}/benchmarks/figure_archives.tsv"
    params:
        command=lambda wildcards, input: f"figure archives --retrieval {input.retrieval}",
        # Removing a concept changes no file, only this list.
        concepts=TARGETS,


use rule figure_training as figure_predictions with:
    input:
        images=f"{DATA}/images/val.csv",
        zero_shot=f"{DATA}/masks/val",
        plus=PLUS,
        run=rules.record.output.run,
        code=code("workflow.figures.predictions"),
    output:
        **as_figure("predictions", "Segmentation", "predictions beside ground truth"),
    log:
        f"{DATA}/logs/figure_predictions.log",
    benchmark:
        f"{DATA}/benchmarks/figure_predictions.tsv"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        command=lambda wildcards, input: (
            f"figure predictions --images {input.images}"
            f" --zero-shot {input.zero_shot} {PLUS_OPTION}"
        ),
        methods=[method.slug for method in [EXPERIMENT.best, *EXPERIMENT.plus[-1:]]],
        labels=verbatim(EXPERIMENT.scored),
        geometry=[SETTINGS.geometry, SETTINGS.sizes.benchmark],


use rule figure_training as figure_archive_size with:
    input:
        metrics=rules.evaluate.output.metrics,
        compared=list(EXPERIMENT.compared("metrics.csv")[1].values()),
        run=rules.record.output.run,
        code=code("workflow.figures.archive_size"),
    output:
        **as_figure("archive_size", "Segmentation", "mIoU against archive size"),
    log:
        f"{DATA}/logs/figure_archive_size.log",
    benchmark:
        f"{DATA}/benchmarks/figure_archive_size.tsv"
    params:
        command=lambda wildcards, input: f"figure archive-size --metrics {input.metrics}",
        compare=SETTINGS.compare,


use rule figure_training as figure_precision with:
    input:
        retrieval=rules.precision.output.retrieval,
        images=rules.gather.output.images,
        compared=list(EXPERIMENT.compared("retrieval.csv")[1].values()),
        run=rules.record.output.run,
        code=code("workflow.figures.precision"),
    output:
        **as_figure("precision", "Retrieval", "precision against archive size"),
    log:
        f"{DATA}/logs/figure_precision.log",
    benchmark:
        f"{DATA}/benchmarks/figure_precision.tsv"
    params:
        command=lambda wildcards, input: (
            f"figure precision --retrieval {input.retrieval} --images {input.images}"
        ),
        compare=SETTINGS.compare,


use rule figure_training as figure_rare with:
    input:
        scores=rules.rare.output.scores,
        summary=rules.rare.output.summary,
        run=rules.record.output.run,
        code=code("workflow.figures.rare"),
    output:
        **as_figure("rare", "Segmentation", "IoU of one concept against the threshold"),
    log:
        f"{DATA}/logs/figure_rare.log",
    benchmark:
        f"{DATA}/benchmarks/figure_rare.tsv"
    params:
        command=lambda wildcards, input: (
            f"figure rare --scores {input.scores} --summary {input.summary}"
        ),


use rule figure_training as table_components with:
    input:
        metrics=rules.evaluate.output.metrics,
        images=f"{DATA}/images/val.csv",
        run=rules.record.output.run,
        code=code("workflow.tables.components"),
    output:
        **as_table("components", "Segmentation", "table: the parts of ReCo"),
    log:
        f"{DATA}/logs/table_components.log",
    benchmark:
        f"{DATA}/benchmarks/table_components.tsv"
    params:
        command=lambda wildcards, input: (
            f"table components --metrics {input.metrics} --images {input.images}"
        ),
        # The line under a table names every setting by this.
        config=config_fingerprint(SETTINGS),


use rule table_components as table_methods with:
    input:
        metrics=rules.evaluate.output.metrics,
        images=f"{DATA}/images/val.csv",
        curve=rules.train.output.curve if PLUS else [],
        run=rules.record.output.run,
        code=code("workflow.tables.methods"),
    output:
        **as_table("methods", "Segmentation", "table: the methods"),
    log:
        f"{DATA}/logs/table_methods.log",
    benchmark:
        f"{DATA}/benchmarks/table_methods.tsv"
    params:
        command=lambda wildcards, input: (
            f"table methods --metrics {input.metrics} --images {input.images}"
            + (f" --curve {input.curve}" if PLUS else "")
        ),


use rule table_components as table_retrieval with:
    input:
        retrieval=rules.precision.output.retrieval,
        images=rules.gather.output.images,
        run=rules.record.output.run,
        code=code("workflow.tables.retrieval"),
    output:
        **as_table("retrieval", "Retrieval", "table: precision by concept"),
    log:
        f"{DATA}/logs/table_retrieval.log",
    benchmark:
        f"{DATA}/benchmarks/table_retrieval.tsv"
    params:
        command=lambda wildcards, input: (
            f"table retrieval --retrieval {input.retrieval} --images {input.images}"
        ),


rule paper_figures:
    input:
        tables=[path for path in TABLES if path.endswith(".md")],
        # It draws them anew, from what they were drawn from and with the same code.
        figures=[path for path in FIGURES if path.endswith(".png")],
        metrics=rules.evaluate.output.metrics if SCORED else [],
        run=rules.record.output.run,
        reported=shipped("workflow/resources/paper_numbers.csv"),
    output:
        notebook=f"{RESULTS}/paper_figures.ipynb",
    log:
        # What Snakemake calls the log of a notebook is its executed copy.
        notebook=f"{RESULTS}/paper_figures.ipynb",
    benchmark:
        f"{DATA}/benchmarks/paper_figures.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    notebook:
        "../../notebooks/paper_figures.ipynb"

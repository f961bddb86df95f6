"""Figures and tables: what a person looks at; one rule each, from metrics, masks and archives.

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


rule table_components:
    input:
        metrics=rules.evaluate.output.metrics,
        images=f"{DATA}/images/val.csv",
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        markdown=f"{RESULTS}/tables/components.md",
        latex=f"{RESULTS}/tables/components.tex",
        html=report(
            f"{RESULTS}/tables/components.html",
            category="Segmentation",
            labels={"shows": "table: the parts of ReCo"},
            caption="../report/components.rst",
        ),
    log:
        f"{DATA}/logs/table_components.log",
    benchmark:
        f"{DATA}/benchmarks/table_components.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        # The line under the table names every setting by this.
        config=config_fingerprint(SETTINGS),
    shell:
        """
        reco --log {log} table components \
            --metrics {input.metrics} \
            --images {input.images} \
            --run {input.run} \
            {output}
        """


rule table_methods:
    input:
        metrics=rules.evaluate.output.metrics,
        images=f"{DATA}/images/val.csv",
        curve=rules.train.output.curve if PLUS else [],
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        markdown=f"{RESULTS}/tables/methods.md",
        latex=f"{RESULTS}/tables/methods.tex",
        html=report(
            f"{RESULTS}/tables/methods.html",
            category="Segmentation",
            labels={"shows": "table: the methods"},
            caption="../report/methods.rst",
        ),
    log:
        f"{DATA}/logs/table_methods.log",
    benchmark:
        f"{DATA}/benchmarks/table_methods.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        config=config_fingerprint(SETTINGS),
        curve=f"--curve {rules.train.output.curve}" if PLUS else "",
    shell:
        """
        reco --log {log} table methods \
            --metrics {input.metrics} \
            --images {input.images} {params.curve} \
            --run {input.run} \
            {output}
        """


rule table_retrieval:
    input:
        retrieval=rules.precision.output.retrieval,
        images=rules.gather.output.images,
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        markdown=f"{RESULTS}/tables/retrieval.md",
        latex=f"{RESULTS}/tables/retrieval.tex",
        html=report(
            f"{RESULTS}/tables/retrieval.html",
            category="Retrieval",
            labels={"shows": "table: precision by concept"},
            caption="../report/retrieval.rst",
        ),
    log:
        f"{DATA}/logs/table_retrieval.log",
    benchmark:
        f"{DATA}/benchmarks/table_retrieval.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        config=config_fingerprint(SETTINGS),
    shell:
        """
        reco --log {log} table retrieval \
            --retrieval {input.retrieval} \
            --images {input.images} \
            --run {input.run} \
            {output}
        """


rule figure_archives:
    input:
        retrieval=rules.precision.output.retrieval,
        archives=RANKED,
        references=[EXPERIMENT.best_source(slug) for slug in TARGETS],
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        png=report(
            f"{RESULTS}/figures/archives.png",
            category="Retrieval",
            labels={"shows": "archives and their co-segmentation"},
            caption="../report/archives.rst",
        ),
        pdf=f"{RESULTS}/figures/archives.pdf",
    log:
        f"{DATA}/logs/figure_archives.log",
    benchmark:
        f"{DATA}/benchmarks/figure_archives.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        # Removing a concept changes no file, only this list.
        concepts=TARGETS,
        size=SETTINGS.sizes.archive,
    shell:
        """
        reco --log {log} figure archives \
            --retrieval {input.retrieval} \
            --run {input.run} \
            {output}
        """


rule figure_archive:
    input:
        retrieval=rules.precision.output.retrieval,
        archive=lambda wildcards: EXPERIMENT.archive(wildcards.slug),
        reference=lambda wildcards: EXPERIMENT.best_source(wildcards.slug),
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        png=report(
            f"{RESULTS}/figures/archive/{{slug}}.png",
            category="Retrieval",
            labels={"shows": "archive of {slug}"},
            caption="../report/archive.rst",
        ),
        pdf=f"{RESULTS}/figures/archive/{{slug}}.pdf",
    log:
        f"{DATA}/logs/figure_archive/{{slug}}.log",
    benchmark:
        f"{DATA}/benchmarks/figure_archive/{{slug}}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        size=SETTINGS.sizes.archive,
    shell:
        """
        reco --log {log} figure archives \
            --concept {wildcards.slug} \
            --retrieval {input.retrieval} \
            --run {input.run} \
            {output}
        """


rule figure_predictions:
    input:
        images=f"{DATA}/images/val.csv",
        zero_shot=f"{DATA}/masks/val",
        plus=PLUS,
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        png=report(
            f"{RESULTS}/figures/predictions.png",
            category="Segmentation",
            labels={"shows": "predictions beside ground truth"},
            caption="../report/predictions.rst",
        ),
        pdf=f"{RESULTS}/figures/predictions.pdf",
    log:
        f"{DATA}/logs/figure_predictions.log",
    benchmark:
        f"{DATA}/benchmarks/figure_predictions.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        plus=PLUS_OPTION,
        methods=[method.slug for method in [EXPERIMENT.best, *EXPERIMENT.plus[-1:]]],
        labels=verbatim(EXPERIMENT.scored),
        geometry=[SETTINGS.geometry, SETTINGS.sizes.benchmark],
    shell:
        """
        reco --log {log} figure predictions \
            --images {input.images} \
            --zero-shot {input.zero_shot} \
            {params.plus} \
            --run {input.run} \
            {output}
        """


rule figure_archive_size:
    input:
        metrics=rules.evaluate.output.metrics,
        compared=list(EXPERIMENT.compared("metrics.csv")[1].values()),
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        png=report(
            f"{RESULTS}/figures/archive_size.png",
            category="Segmentation",
            labels={"shows": "mIoU against archive size"},
            caption="../report/archive_size.rst",
        ),
        pdf=f"{RESULTS}/figures/archive_size.pdf",
    log:
        f"{DATA}/logs/figure_archive_size.log",
    benchmark:
        f"{DATA}/benchmarks/figure_archive_size.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        compare=SETTINGS.compare,
    shell:
        """
        reco --log {log} figure archive-size \
            --metrics {input.metrics} \
            --run {input.run} \
            {output}
        """


rule figure_precision:
    input:
        retrieval=rules.precision.output.retrieval,
        images=rules.gather.output.images,
        compared=list(EXPERIMENT.compared("retrieval.csv")[1].values()),
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        png=report(
            f"{RESULTS}/figures/precision.png",
            category="Retrieval",
            labels={"shows": "precision against archive size"},
            caption="../report/precision.rst",
        ),
        pdf=f"{RESULTS}/figures/precision.pdf",
    log:
        f"{DATA}/logs/figure_precision.log",
    benchmark:
        f"{DATA}/benchmarks/figure_precision.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    params:
        compare=SETTINGS.compare,
    shell:
        """
        reco --log {log} figure precision \
            --retrieval {input.retrieval} \
            --images {input.images} \
            --run {input.run} \
            {output}
        """


rule figure_training:
    input:
        curve=rules.train.output.curve,
        run=rules.record.output.run,
        code=code("workflow.commands.figures"),
    output:
        png=report(
            f"{RESULTS}/figures/training.png",
            category="Segmentation",
            labels={"shows": "training of ReCo+"},
            caption="../report/training.rst",
        ),
        pdf=f"{RESULTS}/figures/training.pdf",
    log:
        f"{DATA}/logs/figure_training.log",
    benchmark:
        f"{DATA}/benchmarks/figure_training.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    shell:
        """
        reco --log {log} figure training \
            --curve {input.curve} \
            --run {input.run} \
            {output}
        """


rule paper_figures:
    input:
        tables=[path for path in TABLES if path.endswith(".md")],
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

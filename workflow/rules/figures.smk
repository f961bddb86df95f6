"""Figures and tables: what a person looks at; one rule each, from metrics and masks alone."""

TABLES = []
FIGURES = []


rule record:
    input:
        # Nothing is read from these: the record is written once the numbers it explains exist.
        metrics=rules.evaluate.output.metrics,
        retrieval=rules.precision.output.retrieval,
    output:
        run=f"{RESULTS}/run.json",
        merged=f"{RESULTS}/config.yaml",
    params:
        config=SETTINGS.model_dump(mode="json"),
    log:
        f"{DATA}/logs/record.log",
    benchmark:
        f"{DATA}/benchmarks/record.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
        gpu=1,
    conda:
        "reco"
    shell:
        """
        reco --log {log} record \
            --run {output.run} \
            --merged {output.merged}
        """

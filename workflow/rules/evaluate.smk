"""Evaluate: masks against ground truth, archives against the labels of the index.

Makes `metrics.csv` and `per_class.csv`, and `retrieval.csv` where the labels of the index are
known (else a table without rows).
"""


rule evaluate:
    input:
        images=rules.catalog.output.val,
        zero_shot=f"{DATA}/masks/val",
        plus=rules.segment_plus.output.masks,
        code=code("evaluate", "metrics"),
    output:
        metrics=f"{RESULTS}/metrics.csv",
        per_class=f"{RESULTS}/per_class.csv",
    log:
        f"{DATA}/logs/evaluate.log",
    benchmark:
        f"{DATA}/benchmarks/evaluate.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    shell:
        """
        reco --log {log} evaluate \
            --images {input.images} \
            --zero-shot {input.zero_shot} \
            --plus {input.plus} \
            --metrics {output.metrics} \
            --per-class {output.per_class}
        """


rule precision:
    input:
        archives=[EXPERIMENT.archive(slug) for slug in TARGETS],
        labels=[EXPERIMENT.index_labels] if EXPERIMENT.index_labels else [],
        scenes=rules.catalog.output.index,
        code=code("evaluate"),
    output:
        retrieval=f"{RESULTS}/retrieval.csv",
    log:
        f"{DATA}/logs/precision.log",
    benchmark:
        f"{DATA}/benchmarks/precision.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        # Removing a concept changes no file, only this list.
        archives=[EXPERIMENT.archive(slug) for slug in TARGETS],
    shell:
        """
        reco --log {log} precision \
            --retrieval {output.retrieval}
        """

"""Rare: one concept against background, at every threshold, where the benchmark is of that kind.

Reads the list of val, the concept's reference and text; makes `rare.csv` (method, threshold, IoU),
`rare.json` (at Otsu's threshold, and at the best one) and their figure.
"""


rule rare:
    input:
        images=f"{DATA}/images/val.csv",
        views=split_features("val"),
        references=[EXPERIMENT.reference(slug) for slug in TARGETS],
        features=GATHERED,
        texts=ancient([EXPERIMENT.text(slug) for slug in TARGETS]),
        weights=weights("dense", "encoder"),
        code=code("workflow.rare"),
    output:
        scores=f"{RESULTS}/rare.csv",
        summary=f"{RESULTS}/rare.json",
    log:
        f"{DATA}/logs/rare.log",
    benchmark:
        f"{DATA}/benchmarks/rare.tsv"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=1,
    params:
        references=[EXPERIMENT.reference(slug) for slug in TARGETS],
        settings=EXPERIMENT.inference_settings([EXPERIMENT.paper]),
    shell:
        """
        reco --log {log} rare \
            --images {input.images} \
            --scores {output.scores} \
            --summary {output.summary}
        """

"""Features: dense features of the images of all archives, each image once in its life.

Reads the archives; computes the images that the store lacks; makes `features/*.csv` (where each
archive image's features are in the store) for every concept. One job: the models load once.
"""


rule features:
    input:
        archives=[EXPERIMENT.archive(slug) for slug in EXPERIMENT.sources],
        weights=ancient(weights("dense", "encoder")),
    output:
        features=[EXPERIMENT.features(slug) for slug in EXPERIMENT.sources],
    log:
        f"{DATA}/logs/features.log",
    benchmark:
        f"{DATA}/benchmarks/features.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=1,
    shell:
        """
        reco --log {log} features
        """

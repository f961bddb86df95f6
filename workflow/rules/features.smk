"""Features: dense and encoder features of all archives' images, each image once in its life.

Reads the archives; computes the images that the store lacks; makes `features/*.csv` (where each
archive image's features are in the store) for every concept, and `bank_features/*.csv` where there
are banks. One job: the models load once. `whiten` measures the space of the index on a sample.
"""

FEATURES = []
if SETTINGS.referenced:
    FEATURES += [EXPERIMENT.features(slug) for slug in EXPERIMENT.sources]
FEATURES += [EXPERIMENT.bank_features(slug) for slug in EXPERIMENT.banked]
# With a concept less, the inputs of `features` are others: it is planned, and Snakemake does not
# look at the reasons of what lies behind it. So stages that gather concepts take one of its files.
GATHERED = FEATURES[:1]


rule whiten:
    input:
        embeddings=rules.gather.output.embeddings,
        images=rules.gather.output.images,
        weights=ancient(weights("dense", "encoder")),
    output:
        whitening=EXPERIMENT.whitening,
    log:
        f"{DATA}/logs/whiten.log",
    benchmark:
        f"{DATA}/benchmarks/whiten.tsv"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=120,
        gpu=1,
    shell:
        """
        reco --log {log} whiten \
            --embeddings {input.embeddings}
        """


rule features:
    input:
        archives=[EXPERIMENT.archive(slug) for slug in EXPERIMENT.sources],
        # Its images are in the store then, and are not computed twice side by side.
        whitening=ancient(EXPERIMENT.whitening) if EXPERIMENT.banked else [],
        weights=ancient(weights("dense", "encoder")),
    output:
        features=FEATURES,
    log:
        f"{DATA}/logs/features.log",
    benchmark:
        f"{DATA}/benchmarks/features.tsv"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=1,
    shell:
        """
        reco --log {log} features
        """

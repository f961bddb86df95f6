"""Bank: every archive image gives a prototype of its seeds, in whitened space; all are kept.

Reads the features of a concept's archive and the whitening of the index; makes
`banks/*.safetensors` (prototypes, seeds, support), one job per concept. `snakemake banks` stops
after them. Only the recipe `seedbank` has them: docs/recipe.md.
"""


rule bank:
    input:
        whitening=EXPERIMENT.whitening,
        archive=lambda wildcards: EXPERIMENT.archive(wildcards.slug),
        # The job that makes them rewrites those of all concepts.
        features=lambda wildcards: ancient(EXPERIMENT.bank_features(wildcards.slug)),
    output:
        bank=f"{DATA}/banks/{{slug}}.{{mark}}.safetensors",
    log:
        f"{DATA}/logs/bank/{{slug}}.{{mark}}.log",
    benchmark:
        f"{DATA}/benchmarks/bank/{{slug}}.{{mark}}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        scales=SETTINGS.bank.scales,
        size=SETTINGS.bank.size,
    shell:
        """
        reco --log {log} bank \
            --features {input.features} \
            --whitening {input.whitening} \
            --scales "{params.scales}" \
            --size {params.size} \
            --bank {output.bank}
        """


rule banks:
    input:
        banks=[EXPERIMENT.bank(slug) for slug in EXPERIMENT.banked],

"""Co-segment: what the images of an archive have in common becomes a reference embedding.

Reads the features of a concept's archive, its text embedding and the references of the context
concepts; makes `references/*.safetensors` (reference embeddings, seeds, support), one job per
concept, in every variant of the components table. `snakemake references` stops after them.
"""


rule cosegment:
    input:
        archive=lambda wildcards: EXPERIMENT.archive(wildcards.slug),
        # These two come from jobs that rewrite those of all concepts.
        features=lambda wildcards: ancient(EXPERIMENT.features(wildcards.slug)),
        text=lambda wildcards: ancient(EXPERIMENT.text(wildcards.slug)),
        contexts=lambda wildcards: [
            EXPERIMENT.reference(slug)
            for slug in EXPERIMENT.context_before(wildcards.slug)
        ],
    output:
        reference=f"{DATA}/references/{{slug}}.{{mark}}.safetensors",
    log:
        f"{DATA}/logs/cosegment/{{slug}}.{{mark}}.log",
    benchmark:
        f"{DATA}/benchmarks/cosegment/{{slug}}.{{mark}}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        variants=VARIANTS,
        temperature=SETTINGS.temperature,
        merge=SETTINGS.cosegment.merge,
        variant=SETTINGS.cosegment.variant,
    shell:
        """
        reco --log {log} cosegment \
            --features {input.features} \
            --text {input.text} \
            --contexts "{input.contexts}" \
            --variants "{params.variants}" \
            --temperature {params.temperature} \
            --merge {params.merge} \
            --variant {params.variant} \
            --reference {output.reference}
        """


rule references:
    input:
        references=[EXPERIMENT.reference(slug) for slug in EXPERIMENT.sources],

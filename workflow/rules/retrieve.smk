"""Retrieve: the archive of a concept is the k index images closest to its text. No network.

Reads the embeddings of the index and a concept's text embedding; makes `archives/*.csv` (rank,
path, key, similarity), one job per concept. `snakemake archives` stops after them.
"""


rule retrieve:
    input:
        embeddings=rules.gather.output.embeddings,
        described=rules.gather.output.described,
        images=rules.gather.output.images,
        # The job that embeds texts rewrites all of them; only a new name means a new text.
        text=lambda wildcards: ancient(EXPERIMENT.text(wildcards.slug)),
    output:
        archive=f"{DATA}/archives/{{slug}}.{{mark}}.csv",
    log:
        f"{DATA}/logs/retrieve/{{slug}}.{{mark}}.log",
    benchmark:
        f"{DATA}/benchmarks/retrieve/{{slug}}.{{mark}}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        size=SETTINGS.deepest_archive,
    shell:
        """
        reco --log {log} retrieve \
            --embeddings {input.embeddings} \
            --images {input.images} \
            --text {input.text} \
            --size {params.size} \
            --archive {output.archive}
        """


rule archives:
    input:
        archives=[EXPERIMENT.archive(slug) for slug in EXPERIMENT.sources],

"""Retrieve: the archive of a concept is the k index images closest to its text. No network.

Reads the embeddings of the index and the text embeddings of all concepts; makes `archives/*.csv`
(rank, path, key, similarity) in one pass over the index, which takes as long for one concept as for
many. `snakemake archives` makes just these.
"""


rule retrieve:
    input:
        embeddings=rules.gather.output.embeddings,
        digest=rules.gather.output.digest,
        images=rules.gather.output.images,
        # The job that embeds texts rewrites all of them; only a new name means a new text.
        texts=ancient([EXPERIMENT.text(slug) for slug in EXPERIMENT.sources]),
    output:
        archives=[EXPERIMENT.archive(slug) for slug in EXPERIMENT.sources],
    log:
        f"{DATA}/logs/retrieve.log",
    benchmark:
        f"{DATA}/benchmarks/retrieve.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=2000,
        runtime=60,
    shell:
        """
        reco --log {log} retrieve \
            --embeddings {input.embeddings} \
            --images {input.images}
        """


rule archives:
    input:
        archives=[EXPERIMENT.archive(slug) for slug in EXPERIMENT.sources],

"""Embed: every index image and every concept's text, in the space of the language-image models.

Reads the list of index images; computes what the store lacks; makes `embeddings.npy` with its
list of usable images, `skipped.csv` with the files that could not be read, and `text/*` for every
concept. One job each: the models load once.
"""


rule embed:
    input:
        images=rules.catalog.output.index,
        weights=weights("retrieval"),
        code=code("embed", "store"),
    output:
        embeddings=f"{DATA}/embeddings/index.npy",
        images=f"{DATA}/embeddings/index.csv",
        skipped=report(
            f"{DATA}/embeddings/skipped.csv",
            category="Images",
            caption="../report/skipped.rst",
        ),
    log:
        f"{DATA}/logs/embed.log",
    benchmark:
        f"{DATA}/benchmarks/embed.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=1,
    params:
        model=SETTINGS.models.retrieval,
        state=EXPERIMENT.model("retrieval"),
        size=SETTINGS.sizes.retrieval,
    shell:
        """
        reco --log {log} embed \
            --images {input.images} \
            --model {params.model:q} \
            --size {params.size} \
            --embeddings {output.embeddings} \
            --usable {output.images} \
            --skipped {output.skipped}
        """


rule text:
    input:
        weights=ancient(weights("retrieval", "dense")),
    output:
        text=[EXPERIMENT.text(slug) for slug in CONCEPTS],
    log:
        f"{DATA}/logs/text.log",
    benchmark:
        f"{DATA}/benchmarks/text.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=1,
    shell:
        """
        reco --log {log} text
        """

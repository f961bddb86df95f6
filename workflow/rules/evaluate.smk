"""Evaluate: masks against ground truth, archives against the labels of the index.

Makes `metrics.csv` and `per_class.csv`, and `retrieval.csv` where the labels of the index are
known (else a table without rows); `metrics.json` and `retrieval.json` are their main numbers, and
`run.json` and `config.yaml` record what made them.
"""

# Archives whose precision is measured; a concept that takes over a reference has none.
RANKED = [EXPERIMENT.archive(slug) for slug in TARGETS if slug in EXPERIMENT.sources]

# What the numbers of masks come from, where there is a benchmark.
SEGMENTED, TRAINED = [], []
if SCORED:
    SEGMENTED = [EXPERIMENT.reference(slug) for slug in EXPERIMENT.sources]
    SEGMENTED += EXPERIMENT.learned_by(EXPERIMENT.steps)
    SEGMENTED += [f"{DATA}/images/val.csv", f"{DATA}/masks/val"]
    SEGMENTED += expand(
        f"{RESULTS}/{{name}}", name=["metrics.csv", "per_class.csv", "metrics.json"]
    )
if RARE:
    SEGMENTED = [EXPERIMENT.reference(slug) for slug in EXPERIMENT.sources]
    SEGMENTED += [f"{DATA}/images/val.csv", f"{RESULTS}/rare.csv"]
if PLUS:
    TRAINED = [f"{DATA}/images/train.csv", f"{DATA}/masks/plus"]
    TRAINED += [rules.train.output.weights]
    TRAINED += [] if PROBE else [f"{DATA}/masks/train"]

# Rules with networks, which say in their logs where these ran.
NETWORKS = ["embed", "text", "features"] + ["whiten"] * bool(EXPERIMENT.banked)
NETWORKS += ["embed_split"] * EXPERIMENT.keeps_features
NETWORKS += ["segment_part"] * (SCORED and PARTS > 1) + ["segment_split"] * SCORED
NETWORKS += ["rare"] * RARE
NETWORKS += ["train", "segment_plus"] * bool(PLUS)


rule evaluate:
    input:
        images=f"{DATA}/images/val.csv",
        zero_shot=f"{DATA}/masks/val",
        plus=PLUS,
        code=code("workflow.evaluate"),
    output:
        metrics=f"{RESULTS}/metrics.csv",
        per_class=f"{RESULTS}/per_class.csv",
        summary=f"{RESULTS}/metrics.json",
    log:
        f"{DATA}/logs/evaluate.log",
    benchmark:
        f"{DATA}/benchmarks/evaluate.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        plus=PLUS_OPTION,
        # The rest of what scores depend on: names and geometry.
        names=verbatim(EXPERIMENT.scored),
        geometry=[SETTINGS.geometry, SETTINGS.sizes.benchmark],
    shell:
        """
        reco --log {log} evaluate \
            --images {input.images} \
            --zero-shot {input.zero_shot} \
            {params.plus} \
            --metrics {output.metrics} \
            --per-class {output.per_class} \
            --summary {output.summary}
        """


rule precision:
    input:
        archives=RANKED,
        labels=[EXPERIMENT.index_labels] if SETTINGS.index.kind != "folder" else [],
        index=rules.catalog.output.index,
        code=code("workflow.evaluate"),
    output:
        retrieval=f"{RESULTS}/retrieval.csv",
        summary=f"{RESULTS}/retrieval.json",
    log:
        f"{DATA}/logs/precision.log",
    benchmark:
        f"{DATA}/benchmarks/precision.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        # Removing a concept changes no file, only this list.
        archives=RANKED,
        # Fewer sizes change no archive either.
        sizes=SETTINGS.all_archive_sizes,
        # A person's own file: {x} may be in its name, which Snakemake allows in no input.
        labels=STATE.get("labels"),
    shell:
        """
        reco --log {log} precision \
            --retrieval {output.retrieval} \
            --summary {output.summary}
        """


rule record:
    input:
        # Their digests are recorded.
        packages=DEBS if EXPERIMENT.composed else [],
        weights=weights("retrieval", "dense", "encoder", "student"),
        index=rules.catalog.output,
        embeddings=rules.gather.output.embeddings,
        archives=[EXPERIMENT.archive(slug) for slug in EXPERIMENT.sources],
        retrieval=rules.precision.output,
        segmented=SEGMENTED,
        trained=TRAINED,
    output:
        run=f"{RESULTS}/run.json",
        merged=f"{RESULTS}/config.yaml",
    log:
        f"{DATA}/logs/record.log",
    benchmark:
        f"{DATA}/benchmarks/record.tsv"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        config=SETTINGS.model_dump(mode="json"),
        logs=f"{DATA}/logs",
        stages=NETWORKS,
    shell:
        """
        reco --log {log} record \
            --run {output.run} \
            --merged {output.merged} \
            --logs {params.logs} \
            --stages "{params.stages}" \
            {input}
        """

"""Segment: find the concepts in photographs and in the splits of a benchmark.

Reads the references and texts of all concepts. Of photographs (`--config photos=FOLDER`) it makes
`results/<experiment>/photos/<folder>/`: masks, overlays, run lengths and what a person looks at.
Of a benchmark, `masks/val` (every method of the tables) and, for a DeepLabv3+ to learn from,
`masks/train` (the best method), one job per split, or with `--set-scatter segment=8` that many
before it (`segment_part`), which make its masks side by side.

What a job had made when it was killed is there for the next: masks of a split in a hidden folder
beside `masks/<split>` (`reco.work`), those of photographs in `data/<experiment>/photos/`.
"""


scattergather:
    segment=1,


rule segment:
    input:
        embeddings=rules.gather.output.embeddings,
        references=EXPERIMENT.learned_by([EXPERIMENT.best]),
        # Not ancient(): behind a job that is planned for a reason of its own, Snakemake would not
        # see that this one has to run.
        archives=[EXPERIMENT.archive(slug) for slug in TARGETS],
        features=FEATURES,
        texts=[EXPERIMENT.text(slug) for slug in TARGETS],
        weights=weights("retrieval", "dense", "encoder"),
        code=code("workflow.segment"),
    output:
        masks=directory(f"{RESULTS}/photos/{{folder}}/masks"),
        overlays=directory(f"{RESULTS}/photos/{{folder}}/overlays"),
        coco=directory(f"{RESULTS}/photos/{{folder}}/coco"),
        concepts=report(
            f"{RESULTS}/photos/{{folder}}/concepts.csv",
            category="Photographs",
            labels={"shows": "table: the concepts"},
            caption="../report/photo_concepts.rst",
        ),
        summary=report(
            f"{RESULTS}/photos/{{folder}}/summary.csv",
            category="Photographs",
            labels={"shows": "table: share of every concept in every photograph"},
            caption="../report/photo_summary.rst",
        ),
        failed=report(
            f"{RESULTS}/photos/{{folder}}/failed.csv",
            category="Photographs",
            labels={"shows": "table: photographs that could not be read"},
            caption="../report/photo_failed.rst",
        ),
        overview=report(
            f"{RESULTS}/photos/{{folder}}/overview.png",
            category="Photographs",
            labels={"shows": "photographs with what was found"},
            caption="../report/photo_overview.rst",
        ),
        archives=report(
            f"{RESULTS}/photos/{{folder}}/archives.png",
            category="Photographs",
            labels={"shows": "what each concept was learned from"},
            caption="../report/photo_archives.rst",
        ),
    log:
        f"{DATA}/logs/segment/{{folder}}.log",
    benchmark:
        f"{DATA}/benchmarks/segment/{{folder}}.tsv"
    threads: 8
    resources:
        # One photograph at a time, and its CRF in the same process.
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=720,
        gpu=1,
    params:
        photos=SETTINGS.photos,
        out=f"{RESULTS}/photos/{{folder}}",
        work=f"{DATA}/photos/{{folder}}",
        # Whatever changes what is found.
        references=EXPERIMENT.learned_by([EXPERIMENT.best]),
        state=STATE.get("photos"),
        settings=[
            SETTINGS.background,
            SETTINGS.sizes.benchmark,
            SETTINGS.crf.model_dump(),
            SETTINGS.recipe,
        ],
    shell:
        """
        reco --log {log} segment {params.photos:q} \
            --out {params.out:q} \
            --work {params.work:q} \
            --skip
        """


PARTS = len(gather.segment("{scatteritem}"))


rule segment_part:
    input:
        images=f"{DATA}/images/{{split}}.csv",
        views=lambda wildcards: split_features(wildcards.split),
        references=lambda wildcards: EXPERIMENT.learned_by(
            EXPERIMENT.methods(wildcards.split)
        ),
        features=GATHERED,
        texts=ancient([EXPERIMENT.text(slug) for slug in TARGETS]),
        weights=[] if EXPERIMENT.keeps_features else weights("dense", "encoder"),
    output:
        # Only `segment_split` reads it, which alone decides whether anything runs again.
        done=temp(f"{DATA}/parts/{{split}}/{{scatteritem}}"),
    log:
        f"{DATA}/logs/segment_part/{{split}}/{{scatteritem}}.log",
    benchmark:
        f"{DATA}/benchmarks/segment_part/{{split}}/{{scatteritem}}.tsv"
    threads: 8
    resources:
        mem_mb=memory(len(TARGETS)),
        runtime=720,
        gpu=1,
    params:
        masks=f"{DATA}/masks/{{split}}",
    shell:
        """
        reco --log {log} segment-split \
            --split {wildcards.split} \
            --images {input.images} \
            --masks {params.masks} \
            --workers {threads} \
            --part {wildcards.scatteritem} \
            --done {output.done}
        """


rule segment_split:
    input:
        parts=lambda wildcards: (
            gather.segment(
                f"{DATA}/parts/{{split}}/{{scatteritem}}", split=wildcards.split
            )
            if PARTS > 1
            else []
        ),
        images=f"{DATA}/images/{{split}}.csv",
        views=lambda wildcards: split_features(wildcards.split),
        references=lambda wildcards: EXPERIMENT.learned_by(
            EXPERIMENT.methods(wildcards.split)
        ),
        features=GATHERED,
        texts=ancient([EXPERIMENT.text(slug) for slug in TARGETS]),
        weights=[] if EXPERIMENT.keeps_features else weights("dense", "encoder"),
        code=code("workflow.segment"),
    output:
        masks=directory(f"{DATA}/masks/{{split}}"),
    log:
        f"{DATA}/logs/segment_split/{{split}}.log",
    benchmark:
        f"{DATA}/benchmarks/segment_split/{{split}}.tsv"
    threads: 8
    resources:
        mem_mb=memory(len(TARGETS)),
        runtime=720,
        gpu=1,
    params:
        # Whatever changes the masks: concepts that were added or removed change these names.
        references=lambda wildcards: EXPERIMENT.learned_by(
            EXPERIMENT.methods(wildcards.split)
        ),
        settings=lambda wildcards: EXPERIMENT.inference_settings(
            EXPERIMENT.methods(wildcards.split)
        ),
        keep=lambda wildcards: (
            SETTINGS.train.keep if SETTINGS.train and wildcards.split == "train" else 1
        ),
    shell:
        """
        reco --log {log} segment-split \
            --split {wildcards.split} \
            --images {input.images} \
            --masks {output.masks} \
            --workers {threads}
        """

"""Segment: predict the images of a split with reference embeddings and dense saliency.

Reads the references and texts of all concepts; makes `masks/train` (the pseudo-masks of ReCo+,
by the best method) and `masks/val` (every method of the tables). One job per split.
"""


rule segment:
    input:
        images=f"{DATA}/images/{{split}}.csv",
        references=[EXPERIMENT.reference(slug) for slug in TARGETS],
        texts=ancient([EXPERIMENT.text(slug) for slug in TARGETS]),
        weights=weights("dense", "encoder"),
        code=code("segment", "crf", "experiment", "split", "geometry"),
    output:
        masks=directory(f"{DATA}/masks/{{split}}"),
    log:
        f"{DATA}/logs/segment/{{split}}.log",
    benchmark:
        f"{DATA}/benchmarks/segment/{{split}}.tsv"
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=4000,
        runtime=720,
        gpu=1,
    params:
        # Whatever changes the masks: concepts that were added or removed change these names.
        references=[EXPERIMENT.reference(slug) for slug in TARGETS],
        settings=EXPERIMENT.inference_settings,
        keep=lambda wildcards: (
            SETTINGS.train.keep if SETTINGS.train and wildcards.split == "train" else 1
        ),
    shell:
        """
        reco --log {log} segment \
            --split {wildcards.split} \
            --images {input.images} \
            --masks {output.masks} \
            --workers {threads}
        """

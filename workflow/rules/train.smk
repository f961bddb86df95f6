"""Train: ReCo+, a student that learns from ReCo's masks. No pixel labels.

DeepLabv3+ reads `masks/train`; a probe finds its pseudo-labels itself, with the banks, in the
features of the train split and of images of the index. Makes `reco_plus/` (weights, description,
learning curve) and `masks/plus`, its predictions on the val split.
"""

PROBE = SETTINGS.student == "probe"
LOOKS = SETTINGS.train and SETTINGS.train.validate_every and not PROBE
TEACHER = EXPERIMENT.learned_by([EXPERIMENT.best]) if PROBE else []
# ReCo+ is trained where there is something to score, unless `train` is null.
PLUS = f"{DATA}/masks/plus" if SETTINGS.train and SCORED else []
PLUS_OPTION = f"--plus {PLUS}" if PLUS else ""


rule train:
    input:
        images=f"{DATA}/images/train.csv",
        masks=[] if PROBE else f"{DATA}/masks/train",
        views=split_features("train") if PROBE else [],
        teacher=TEACHER,
        features=GATHERED if PROBE else [],
        texts=ancient([EXPERIMENT.text(slug) for slug in TARGETS] if PROBE else []),
        val=f"{DATA}/images/val.csv" if LOOKS else [],
        weights=weights("dense", "encoder") if PROBE else weights("student"),
        code=code("workflow.train"),
        taught=code("workflow.probe") if PROBE else [],
    output:
        weights=f"{DATA}/reco_plus/model.safetensors",
        model=f"{DATA}/reco_plus/model.json",
        curve=f"{DATA}/reco_plus/curve.csv",
    log:
        f"{DATA}/logs/train.log",
    benchmark:
        f"{DATA}/benchmarks/train.tsv"
    threads: 8
    resources:
        mem_mb=memory(0, side=0),
        runtime=1440,
        gpu=1,
    params:
        masks=f"--masks {DATA}/masks/train" if not PROBE else "",
        teacher=TEACHER,
        how=EXPERIMENT.inference_settings([EXPERIMENT.best]) if PROBE else None,
        val=f"--val {DATA}/images/val.csv" if LOOKS else "",
        settings=SETTINGS.model_dump(mode="json")["train"],
        # A checkpoint of a person's own, which is no input: a name of a library's stands there, too.
        backbone=EXPERIMENT.backbone,
        geometry=[SETTINGS.geometry, SETTINGS.sizes.benchmark],
        seed=SETTINGS.seed,
    shell:
        """
        reco --log {log} train \
            --images {input.images} \
            --weights {output.weights} \
            --model {output.model} \
            --curve {output.curve} {params.masks} {params.val} \
            --workers {threads}
        """


rule segment_plus:
    input:
        images=f"{DATA}/images/val.csv",
        weights=rules.train.output.weights,
        model=rules.train.output.model,
        views=split_features("val") if PROBE else [],
        networks=weights("encoder") if PROBE else [],
        code=code("workflow.train"),
    output:
        masks=directory(f"{DATA}/masks/plus"),
    log:
        f"{DATA}/logs/segment_plus.log",
    benchmark:
        f"{DATA}/benchmarks/segment_plus.tsv"
    threads: 8
    resources:
        mem_mb=memory(len(EXPERIMENT.labels)),
        runtime=720,
        gpu=1,
    params:
        settings=EXPERIMENT.inference_settings(EXPERIMENT.plus),
    shell:
        """
        reco --log {log} segment-plus \
            --images {input.images} \
            --weights {input.weights} \
            --model {input.model} \
            --masks {output.masks} \
            --workers {threads}
        """

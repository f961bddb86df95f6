"""The command of cosegment.smk."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reco.options import FEATURES, FILE

if TYPE_CHECKING:
    from reco.method.cosegment import Merge, Variant


@click.command()
@FEATURES
@click.option("--text", type=FILE, required=True, help="Text embeddings of the concept.")
@click.option("--contexts", default="", help="Reference files of context concepts, in order.")
@click.option("--variants", required=True, help="Names such as lgc-ce-k20.")
@click.option(
    "--temperature", type=float, default=10.0, show_default=True, help="Of dense saliency."
)
@click.option("--merge", type=click.Choice(["mean", "weighted", "winner"]), default="mean")
@click.option("--variant", type=click.Choice(["paper", "released"]), default="paper")
@click.option("--reference", type=FILE, required=True, help="safetensors to write.")
def cosegment(
    features: Path,
    text: Path,
    contexts: str,
    variants: str,
    temperature: float,
    merge: "Merge",
    variant: "Variant",
    reference: Path,
) -> None:
    """Find what an archive has in common: a reference.

    \b
    reco cosegment --features zebra.csv --text zebra.safetensors --variants k20 \\
        --reference reference.safetensors
    """
    from reco.workflow.cosegment import cosegment_archive

    cosegment_archive(
        features,
        text,
        [Path(path) for path in contexts.split()],
        variants.split(),
        reference,
        temperature=temperature,
        merge=merge,
        variant=variant,
    )

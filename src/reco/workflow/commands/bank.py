"""The command of bank.smk."""

from pathlib import Path

import click

from reco.options import FEATURES, FILE


@click.command()
@FEATURES
@click.option("--whitening", type=FILE, required=True, help="File of `reco whiten`.")
@click.option("--scales", required=True, help="Shorter sides in pixels, such as '320 448'.")
@click.option("--size", type=click.IntRange(2), required=True, help="Archive images at most.")
@click.option("--bank", type=FILE, required=True, help="safetensors to write.")
def bank(features: Path, whitening: Path, scales: str, size: int, bank: Path) -> None:
    """Find the seeds of an archive, and keep them all.

    \b
    reco bank --features zebra.csv --whitening whitening.safetensors --scales '320 448' \\
        --size 30 --bank bank.safetensors
    """
    from reco.workflow.bank import bank_archive

    bank_archive(features, whitening, [int(scale) for scale in scales.split()], size, bank)

"""The command line: one command per rule of the workflow, with the same verb.

Commands import what they need when they run: a job per concept must not wait for torch.
"""

import logging
import sys
import traceback
from pathlib import Path

import click

from reco.errors import RecoError
from reco.progress import LOG, open_log

FILE = click.Path(path_type=Path)
CONFIG = click.option(
    "--config",
    "config_file",
    type=FILE,
    required=True,
    help="Merged config of the experiment, as the workflow writes it.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--log", type=FILE, help="Also write messages and progress to this file.")
def commands(log: Path | None) -> None:
    """ReCo: retrieve and co-segment for zero-shot transfer.

    The workflow (`snakemake --cores all`) calls these commands in the order of the method; each
    can be run by hand. `reco COMMAND --help` says what a command reads and writes.
    """
    open_log(log)


def main() -> None:
    """Run a command; print a RecoError as one line and exit with status 1."""
    try:
        commands(standalone_mode=False)
    except RecoError as error:
        LOG.error("error: %s", error)
        sys.exit(1)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception:
        if not LOG.handlers:
            logging.basicConfig()
        LOG.error("%s", traceback.format_exc())
        sys.exit(70)


def _experiment(config_file: Path):  # noqa: ANN202 (imported late)
    from reco.config import load
    from reco.experiment import Experiment

    return Experiment(load(config_file))

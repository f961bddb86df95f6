"""The command line: what people ask for, and a command per rule of the workflow, with its verb."""

import logging
import os
import shlex
import sys
import traceback
from pathlib import Path

import click

from reco.errors import RecoError, not_installed
from reco.files import MAKE_ROOM, disk_full
from reco.options import FILE
from reco.photos import commands as photos
from reco.progress import LOG, open_log
from reco.revision import read_revision
from reco.workflow.commands import (
    bank,
    config,
    cosegment,
    download,
    embed,
    evaluate,
    features,
    figures,
    rare,
    retrieve,
    segment,
    train,
)

SECTIONS = {
    "For people": [
        *(photos.segment, photos.app, photos.specialist, photos.specialist_segment),
        *(evaluate.trace, download.download, download.convert),
    ],
    "Stages of the workflow, in order": [
        *(download.weights, download.fetch, download.compose, download.catalog),
        *(download.catalog_split, embed.embed, embed.gather, embed.text, retrieve.retrieve),
        *(features.whiten, features.features, cosegment.cosegment, bank.bank, embed.embed_split),
        *(segment.segment_split, train.train, train.segment_plus, evaluate.evaluate),
        *(evaluate.precision, rare.rare, evaluate.record, figures.table, figures.figure),
        config.schema,
    ],
}


class Sections(click.Group):
    """A group that lists its commands by SECTIONS."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a list for every section, a line for each command."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        for title, listed in SECTIONS.items():
            with formatter.section(title):
                rows = [(str(each.name), each.get_short_help_str(limit)) for each in listed]
                formatter.write_dl(rows)


@click.group(
    cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option("--log", type=FILE, help="Also write messages and progress to this file.")
def commands(log: Path | None) -> None:
    """ReCo: retrieve and co-segment for zero-shot transfer.

    The workflow (`snakemake --cores all`) calls its stages in the order of the method; each can be
    run by hand. `reco COMMAND --help` says what a command reads and writes.

    \b
    reco segment holiday/ --index ~/Pictures --concepts "sailing boat, lighthouse"
    reco app
    reco trace results/stamps/tables/methods.md
    """
    open_log(log)
    if log:
        LOG.debug("code: %s", read_revision() or "not in a git checkout")
        LOG.debug("config: %s", os.environ.get("RECO_CONFIG", "see the command"))
        LOG.debug("command: %s", shlex.join(["reco", *sys.argv[1:]]))


for section in SECTIONS.values():
    for command in section:
        commands.add_command(command)


def main() -> None:
    """Run a command; print a RecoError, or that the disk is full, as one line; exit status 1."""
    try:
        try:
            commands(standalone_mode=False)
        except ModuleNotFoundError as error:
            raise not_installed(error) from None
    except RecoError as error:
        LOG.error("error: %s", error)
        sys.exit(1)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:
        if not LOG.handlers:
            logging.basicConfig()
        if disk_full(error):
            LOG.error("error: %s: %s", error, MAKE_ROOM)
            sys.exit(1)
        if isinstance(error, OSError) and error.strerror:  # of the machine, not of the code
            LOG.error("error: %s", ": ".join(filter(None, [error.filename, error.strerror])))
            sys.exit(1)
        LOG.error("%s", traceback.format_exc())
        sys.exit(70)


if __name__ == "__main__":
    main()

"""The command that writes the schema of the config."""

from pathlib import Path

import click

from reco.options import FILE


@click.command()
@click.option("--schema", type=FILE, required=True, help="JSON schema to write.")
def schema(schema: Path) -> None:
    """Write the JSON schema of the config.

    \b
    reco schema --schema workflow/schemas/config.schema.json
    """
    from reco.config import Config
    from reco.files import write_json

    write_json(schema, Config.model_json_schema())

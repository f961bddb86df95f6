"""The command line: help that a person can read."""

import re

from click.testing import CliRunner

from reco.cli import SECTIONS, commands


def test_the_list_of_commands_fits_its_lines():
    said = CliRunner().invoke(commands, ["--help"], terminal_width=80).output
    lines = said[said.index("Options:") :].splitlines()
    assert not [line for line in lines if line.endswith("...") or len(line) > 80]
    first, second = (said.index(title) for title in SECTIONS)
    assert first < said.index("\n  segment ") < second < said.index("\n  weights ")


def test_every_command_is_listed_once():
    listed = [command.name for section in SECTIONS.values() for command in section]
    assert sorted(listed) == sorted(commands.commands)


def test_what_people_ask_for_has_an_example():
    for command in next(iter(SECTIONS.values())):
        said = CliRunner().invoke(commands, [command.name, "--help"]).output
        assert re.search(rf"^  reco {command.name} \S|^  reco {command.name}$", said, re.MULTILINE)

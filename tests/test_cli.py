"""The command line: help that a person can read."""

import re

import click
import pytest
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


@pytest.mark.parametrize("name", sorted(commands.commands))
def test_every_command_has_an_example(name):
    said = CliRunner().invoke(commands, [name, "--help"]).output
    assert re.search(rf"^  reco {name}( \S|$)", said, re.MULTILINE), said


SINGLE = [name for name, found in commands.commands.items() if not isinstance(found, click.Group)]


@pytest.mark.parametrize("name", SINGLE)
def test_the_options_of_an_example_are_those_of_the_command(name):
    said = CliRunner().invoke(commands, [name, "--help"]).output
    usage, options = said.split("Options:", 1)
    used = re.findall(r"(?<=\s)--[a-z-]+", "\n".join(re.findall(r"^  .*", usage, re.MULTILINE)))
    assert [option for option in used if option not in options] == []

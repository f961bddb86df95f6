"""Trace: walk back from a file to the jobs, code, config, seed, packages and data that made it.

Snakemake knows which job made a file from which others (`snakemake --detailed-summary`); run.json
and config.yaml, beside the results, know the rest. Both are read, neither is kept twice.
"""

import csv
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from reco.errors import RecoError
from reco.files import digest_folders, read_json

AS_IT_SHOULD_BE = {"ok", "removed temp file"}  # a state of Snakemake's: what was only in between


@dataclass(frozen=True)
class Made:
    """A file or folder that the workflow makes, as Snakemake sees it.

    Attributes:
        rule: the rule of the job that makes it.
        date: when it was made; "-" where it does not exist.
        log: log of the job.
        sources: files that the job reads.
        state: `ok`, or why it is not up to date.
    """

    rule: str
    date: str
    log: str
    sources: tuple[str, ...]
    state: str


def trace(file: str | Path) -> str:
    """What is known of where a file comes from, as a text for people.

    Args:
        file: below `results/<experiment>/` or `data/<experiment>/` of the current folder.

    Raises:
        RecoError: no file of an experiment that was run, or none that the workflow makes.
    """
    path = _inside(Path(file))
    results = Path("results", path.parts[1])
    if not (results / "run.json").exists() or not (results / "config.yaml").exists():
        raise RecoError(
            f"{results / 'run.json'}: no record of a run: run `snakemake --cores all` with the "
            "config of this experiment first (or `git checkout` and `make pull`)"
        )
    made = read_plan(results / "config.yaml")
    name = _known(path, made)
    run = read_json(results / "run.json")
    states = list(_compare(run["files"], made[(results / "run.json").as_posix()].sources))
    parts = [
        (f"{path.as_posix()}, {made[name].date}", []),
        ("made by, the last job first", list(_jobs(name, made))),
        ("code", list(_code(run))),
        ("settings", [f"{results}/config.yaml ({run['config_fingerprint']}), seed {run['seed']}"]),
        ("packages", [_packages(run)]),
        ("machine", list(_machine(run))),
        ("data, as this run left them", states),
    ]
    return "\n\n".join("\n  ".join([title, *lines]) for title, lines in parts)


def read_plan(config: Path) -> dict[str, Made]:
    """Every file that the workflow makes with a config, by path.

    Raises:
        RecoError: Snakemake refuses the config, or is not installed.
    """
    command = ["snakemake", "--cores", "1", "--nolock", "--configfile", str(config)]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--detailed-summary"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RecoError(f"{config}: Snakemake cannot plan it:\n{said}")
    rows = csv.DictReader(done.stdout.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {
        row["output_file"]: Made(
            rule=row["rule"],
            date=row["date"],
            log=row["log-file(s)"],
            sources=tuple(filter(None, row["input-file(s)"].split(","))),
            state=row["status"],
        )
        for row in rows
    }


def ancestors(name: str, made: dict[str, Made]) -> list[str]:
    """A file and all made files that it comes from; what is made last stands first."""
    sources: dict[str, list[str]] = {}
    queue = [name]
    while queue:
        current = queue.pop()
        if current not in sources:
            sources[current] = [source for source in made[current].sources if source in made]
            queue += sources[current]
    return list(TopologicalSorter(sources).static_order())[::-1]


def _inside(path: Path) -> Path:
    """`path` relative to the project."""
    try:
        inside = path.absolute().relative_to(Path.cwd())
    except ValueError:
        raise RecoError(f"{path}: not in this project: call reco trace where it lies") from None
    if not inside.exists():
        raise RecoError(f"{path}: no such file")
    if len(inside.parts) < 3 or inside.parts[0] not in ("results", "data"):
        raise RecoError(f"{path}: name a file below results/<experiment>/ or data/<experiment>/")
    return inside


def _known(path: Path, made: dict[str, Made]) -> str:
    """The file, or the folder around it, that a rule makes."""
    for candidate in (path, *path.parents):
        if candidate.as_posix() in made:
            return candidate.as_posix()
    raise RecoError(
        f"{path}: no rule makes this file with the settings in "
        f"results/{path.parts[1]}/config.yaml: of another config, or of an earlier run?"
    )


def _jobs(name: str, made: dict[str, Made]) -> Iterator[str]:
    """A line per rule: how many files it made, when, where the logs are."""
    rules: dict[str, list[Made]] = {}
    for file in ancestors(name, made):
        rules.setdefault(made[file].rule, []).append(made[file])
    width = max(map(len, rules))
    for rule, files in rules.items():
        wrong = sorted({file.state for file in files} - AS_IT_SHOULD_BE)
        count = f"{len(files)} file{'s' * (len(files) > 1)}"
        log = files[0].log if len({file.log for file in files}) == 1 else _folder(files[0].log)
        state = "" if not wrong else f"  NOT UP TO DATE: {', '.join(wrong)}"
        yield f"{rule:{width}}  {count:>9}  {files[0].date}  {log}{state}"


def _folder(log: str) -> str:
    return f"{Path(log).parent.as_posix()}/"


def _code(run: dict[str, Any]) -> Iterator[str]:
    git = run["git"]
    if git is None:
        yield "not from a git checkout"
    else:
        yield f"revision {git['revision']}, recorded {run['time']}"
        yield from (f"UNCOMMITTED: {path}" for path in git["changed"])
    yield "(the first lines of a job's log name the revision it ran with)"


def _machine(run: dict[str, Any]) -> Iterator[str]:
    """Where the run was recorded, and a line for each device that networks ran on."""
    yield f"{run['platform']}, {run['processors']} processors"
    stages: dict[str, list[str]] = {}
    for stage, found in run.get("devices", {}).items():  # a record of an earlier version has none
        for device, names in found.items():
            stages.setdefault(f"{device} ({', '.join(names)})", []).append(stage)
    for device, known in stages.items():
        yield f"networks on {device}: {', '.join(known)}"
    if not stages:
        yield f"networks on {run['device'] or 'a device that no log is left to tell'}"


def _packages(run: dict[str, Any]) -> str:
    names = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"Python {run['python']}; requirements.lock {run['requirements.lock']}; {names}"


def _compare(recorded: dict[str, Any], sources: tuple[str, ...]) -> Iterator[str]:
    """A line per folder: the digest on record, and whether that is still what is there."""
    present = digest_folders(source for source in sources if Path(source).exists())
    width = max(map(len, recorded), default=0)
    for folder, was in recorded.items():
        now = present.get(folder)
        if now is None:
            state = "not here (make pull)"
        else:
            state = "as recorded" if now == was else f"DIFFERS: now {now['sha256']}"
        yield f"{folder:{width}}  {was['files']:>5} files  sha256 {was['sha256']}  {state}"

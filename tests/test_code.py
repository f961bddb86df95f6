"""What a stage's results depend on is found in its imports."""

import re
import runpy
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from reco.cli import commands
from reco.code import closure, sources

PRINTED = """
from reco.code import code_fingerprint
from reco.experiment import (Experiment)
from reco.config import Config
experiment = Experiment(Config(concepts=["zebra"], recipe="seedbank"), "x")
print(*(code_fingerprint(module) for module in {modules}))
print(*(experiment.store(what, "packaged", "v", 320) for what in ("dense", "text-dense")))
print(experiment.text("zebra"), experiment.bank("zebra"), experiment.reference("zebra"))
"""


def printed(package, modules=("workflow.text",)):
    """What a copy of the package says of the code of modules, of the store and of names."""
    code = PRINTED.format(modules=list(modules))
    call = [sys.executable, "-c", code]
    done = subprocess.run(
        call, cwd=ROOT, env={"PYTHONPATH": str(package)}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


@pytest.fixture
def package(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "src"


def edit(package, module):
    with open(package / "reco" / f"{module.replace('.', '/')}.py", "a") as file:
        file.write("\nEDITED = True\n")


def test_a_stage_depends_on_what_its_module_imports():
    assert {"method.crf", "method.refine", "method.bank", "data.split", "data.geometry"} <= set(
        closure("workflow.segment")
    )
    assert closure("method.crf") == ("method.crf", "method.lattice")
    assert sources("method.lattice") == [ROOT / "src/reco/method/lattice.py"]
    with pytest.raises(ValueError, match=r"no such module: reco\.nothing"):
        closure("nothing")


@pytest.mark.parametrize("module", ["config.train", "config.config", "experiment.__init__"])
def test_a_name_or_a_setting_is_no_code(package, module):
    before = printed(package)
    edit(package, module)
    assert printed(package) == before
    assert not any(name.startswith(("config", "experiment")) for name in closure("workflow.train"))


def test_jobs_of_a_concept_depend_on_no_network():
    for job in ("retrieve", "cosegment", "bank"):
        names = closure(f"workflow.{job}")
        assert not any(name.startswith("models") for name in names), names
        assert "workflow.embed" not in names
    assert not {"data.folder", "data.images"} & set(closure("workflow.retrieve"))


def test_one_backend_is_no_dependency_of_another():
    assert "models.timm" not in closure("models.packaged")
    assert {"models.timm", "data.images", "models.preprocessing"} <= set(
        closure("models.open_clip")  # whose positions are resized by a function of timm's module
    )


@pytest.mark.parametrize(
    "module", ["models.packaged", "models.preprocessing", "data.images", "data.geometry"]
)
def test_an_edit_of_a_backend_or_of_decoding_empties_its_store(package, module):
    before = printed(package)
    edit(package, module)
    after = printed(package)
    assert not set(before[1].split()) & set(after[1].split())
    assert not set(before[2].split()) & set(after[2].split())  # and concepts are found anew


def test_another_backend_leaves_the_store_alone(package):
    before = printed(package)
    edit(package, "models.open_clip")
    assert printed(package) == before


def test_comments_docstrings_and_layout_change_nothing(package):
    modules = ("workflow.segment", "models.packaged")
    before = printed(package, modules)
    for path in [*package.rglob("crf.py"), *package.rglob("packaged.py")]:
        text = path.read_text()
        text = re.sub(r'\A"""[^"]*"""', '"""Other words."""', text).replace("\n\n\n", "\n\n\n\n")
        path.write_text(text + "\n\n# a comment\n")
    assert printed(package, modules) == before
    edit(package, "method.crf")
    assert printed(package, modules)[0].split()[0] != before[0].split()[0]
    assert printed(package, modules)[1:] == before[1:]


def test_every_module_that_reads_a_split_depends_on_what_a_split_does():
    """`Experiment.split` gives an object of `data.split`; names alone would not tell."""
    for path in sorted((ROOT / "src/reco").glob("*/**/*.py")):
        module = ".".join(path.relative_to(ROOT / "src/reco").with_suffix("").parts)
        if module == "workflow.plan":  # asks for a split's folders alone
            continue
        if re.search(r"experiment\.split\(", path.read_text()):
            assert {"data.split", "data.geometry", "data.benchmarks"} <= set(closure(module)), (
                module
            )


STAGES = runpy.run_path(str(ROOT / "workflow/scripts/stages.py"))["modules_of_rules"]()


@pytest.mark.parametrize("group", ["figure", "table"])
def test_a_figure_and_a_table_depend_on_their_command_with_its_title(group):
    group = commands.commands[group]
    for name in group.list_commands(None):
        module = group.get_command(None, name).callback.__module__.removeprefix("reco.")
        assert STAGES[f"{group.name}_{name.replace('-', '_')}"] == {module}


def test_an_edited_title_is_an_edited_dependency():
    words = {
        "components": "Parts of ReCo: language guidance",
        "methods": "Segmentation, in percent",
        "retrieval": "share of a concept's first k images",
    }
    for name, title in words.items():
        (module,) = STAGES[f"table_{name}"]
        assert [title in path.read_text() for path in sources(module)].count(True) == 1


def loaded(code):
    """What a process printed, and the large libraries that it has loaded at the end."""
    code += "; import sys; print({'matplotlib', 'pandas', 'torch'} & set(sys.modules))"
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    return done.stdout.rpartition("set()")


@pytest.mark.parametrize("words", [[], ["figure"], ["table"]])
def test_help_waits_for_no_library(words):
    code = f"from reco.cli import commands; commands({[*words, '--help']}, standalone_mode=False)"
    printed, none, _ = loaded(code)
    assert none and "Usage:" in printed
    if words:
        listed = printed.partition("Commands:\n")[2]
        assert "methods" in listed or "archive-size  mIoU against the number of images" in listed
        assert "..." not in listed


@pytest.mark.parametrize("job", ["retrieve", "cosegment", "bank"])
def test_jobs_of_a_concept_load_no_library_of_figures(job):
    assert loaded(f"import reco.cli, reco.workflow.{job}")[1]


@pytest.mark.parametrize(
    "module",
    [
        *("workflow.embed", "workflow.text", "workflow.whiten", "workflow.segment"),
        *("models.packaged", "photos.segmenter", "photos.specialists.use"),
    ],
)
def test_what_segments_waits_for_no_framework(module):
    """PyTorch is imported by the networks that need it, when they are loaded."""
    assert loaded(f"import reco.cli, reco.{module}")[1]

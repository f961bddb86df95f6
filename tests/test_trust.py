"""What must never appear in the code: pickles, shells that see a user's text, open ports."""

import ast
import json
import re

import pytest
from conftest import ROOT

SOURCES = {path: path.read_text() for path in (ROOT / "src").rglob("*.py")}
for path in (ROOT / "notebooks").glob("*.ipynb"):
    cells = json.loads(path.read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    SOURCES[path] = text.replace("%matplotlib inline\n", "")  # the one line that is not Python
PICKLES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# The one module that opens pickles, for its interpreter executes nothing: tests/test_unpickle.py.
UNPICKLE = ROOT / "src/reco/data/unpickle.py"
# Functions that can read a pickle, and what a call must say so that they do not.
GUARDS = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
FORBIDDEN = {"os.system", "os.popen", "eval", "exec", "pd.read_pickle", "yaml.load", "to_pickle"}
FORBIDDEN |= {"pickle.load", "pickle.loads", "pickle.Unpickler"}


def calls(tree):
    """Every call in a module: dotted name of what is called, keywords; ... = not a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {
                word.arg: word.value.value if isinstance(word.value, ast.Constant) else ...
                for word in node.keywords
            }
            yield ast.unparse(node.func), keywords


def find_dangers(text):
    """What a module does that it must not, in words."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"imports {name}" for name in names if name.split(".")[0] in PICKLES)
    for name, keywords in calls(tree):
        if name in FORBIDDEN or name.split(".")[-1] in ("read_pickle", "to_pickle"):
            yield f"calls {name}"
        if name == "Image.open" and not keywords.get("formats"):
            yield "Image.open without formats: of EPS, Pillow would start Ghostscript"
        if keywords.get("shell"):
            yield f"{name} goes through a shell"
        keyword, wanted = GUARDS.get(name, (None, None))
        if keyword and keywords.get(keyword) is not wanted:
            yield f"{name} without {keyword}={wanted}"
        if keywords.get("host") == "0.0.0.0" or keywords.get("server_name") == "0.0.0.0":
            yield f"{name} listens on all interfaces"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_pickle_no_shell(path):
    allowed = ["imports pickle"] if path == UNPICKLE else []
    assert list(find_dangers(SOURCES[path])) == allowed


def test_the_module_that_opens_pickles_knows_no_function_but_its_own():
    from reco.data import unpickle

    assert {made._make.__module__ for made in unpickle.GLOBALS.values()} == {"reco.data.unpickle"}
    uses = re.findall(r"\bpickle\.\w+", SOURCES[UNPICKLE])
    assert uses == ["pickle.Unpickler"]  # the class that is restricted, and no other way in


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "pickle.loads(b'')",
        "pickle.Unpickler(file).load()",
        "from joblib import load",
        "import pandas as pd\npd.read_pickle('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import torch\ntorch.load('x')",
        "import yaml\nyaml.load('x', yaml.Loader)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "app.launch(server_name='0.0.0.0')",
        "from PIL import Image\nImage.open('x.jpg')",
    ],
)
def test_the_scan_finds(text):
    assert list(find_dangers(text))


# Placeholders whose text a user writes; Snakemake's :q quotes it for the shell.
USERS = {"params.model", "params.source", "params.photos", "params.out", "params.work"}
# Placeholders that hold only names and numbers of ours: paths, slugs, fingerprints, counts.
OURS = {
    *("log", "threads", "input", "output"),
    *("wildcards.slug", "wildcards.split", "params.plus", "params.labels"),
    *("params.val", "params.curve", "params.masks", "params.logs", "params.stages"),
    *("params.command", "PLUS_OPTION"),  # of workflow/rules/figures.smk, where it is read, too
    "wildcards.scatteritem",  # 3-of-64
    "wildcards.name",  # of config/downloads.yaml, whose pattern allows letters, digits and -
    *(
        "params.scales",
        "params.size",
        "params.state",
        "params.variants",
        "params.temperature",
        "params.merge",
        "params.variant",
    ),
}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "workflow/rules").glob("*.smk")), ids=lambda p: p.stem
)
def test_what_users_write_is_quoted_for_the_shell(path):
    text = path.read_text()
    blocks = re.findall(r'shell:\s+("""|")(.*?)\1', text, re.DOTALL)
    commands = re.findall(r"^ {8}command=(.*\n(?: {12}.*\n)*)", text, re.MULTILINE)
    for block in [block for _, block in blocks] + commands:
        for name in re.findall(r"\{([^{}]+)\}", block):
            base = name.removesuffix(":q")
            if base in USERS:
                assert name.endswith(":q"), f"{path.name}: {{{name}}} is not quoted"
            else:
                assert base in OURS or base.startswith(("input.", "output.")), (
                    f"{path.name}: {{{name}}}: put it into OURS or USERS of this test"
                )

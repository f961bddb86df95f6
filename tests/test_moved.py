"""The names of docs/api.md, where they are and where they were."""

import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

NAMES = {
    "reco.cosegment": ("reco.method.cosegment", ["cosegment", "guidance"]),
    "reco.crf": ("reco.method.crf", ["dense_crf"]),
    "reco.folder": ("reco.data.folder", ["find_images"]),
    "reco.metrics": ("reco.method.metrics", ["ConfusionMatrix"]),
    "reco.retrieve": ("reco.method.retrieve", ["retrieve"]),
    "reco.segment": ("reco.method.segment", ["saliency"]),
}


@pytest.mark.parametrize("old", NAMES)
def test_the_old_place_is_the_new_one(old):
    new, names = NAMES[old]
    module = import_module(new)
    assert import_module(old) is module
    assert module.__name__ == module.__spec__.name == new
    page = (ROOT / "docs/api.md").read_text()
    for name in names:
        assert callable(getattr(module, name))
        if name not in ("ConfusionMatrix", "find_images"):
            assert f"`{new}.{name}`" in page


def test_the_old_place_imports_first():
    code = "from reco.crf import dense_crf; import reco; reco.crf.dense_crf; import reco.metrics"
    subprocess.run([sys.executable, "-c", code], check=True)

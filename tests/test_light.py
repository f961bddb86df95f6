"""What photographs need: no PyTorch, no project, no network of a hub; see pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, make_folder
from PIL import Image

HEAVY = ("torch", "timm", "torchvision", "transformers", "matplotlib", "pandas", "open_clip")

BLOCK = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))\n"  # as if not installed


def run(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, where none of HEAVY can be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "COLUMNS": "100",
        },
        capture_output=True,
        text=True,
        check=False,
    )


def reco(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "from reco.cli import main; main()", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, converted) -> Path:
    """An empty folder with photographs, and the user's cache with the converted weights."""
    found = tmp_path_factory.mktemp("light")
    make_folder(found)
    (found / "cache/reco").mkdir(parents=True)
    (found / "cache/reco/packaged").symlink_to(converted)
    return found


@pytest.fixture(scope="module")
def segmented(folder) -> subprocess.CompletedProcess[str]:
    given = ("bench/images/val", "--index", "photos", "--concepts", "orange, lemon")
    return reco(folder, "segment", *given, "--archive-size", "4", "--doubtful", "--out", "found")


def test_photographs_are_segmented_in_an_empty_folder(folder, segmented):
    assert segmented.returncode == 0, segmented.stderr
    masks = sorted((folder / "found/masks").glob("*.png"))
    assert len(masks) == 4
    for mask in masks:
        with Image.open(mask) as image:
            assert image.size == (96, 96) and set(np.unique(np.asarray(image))) <= {0, 1, 255}
    assert not (folder / "data/models").exists(), "weights are in the user's cache"
    assert (folder / "found/overview.png").stat().st_size > 1000


def test_the_same_in_python(folder, segmented):
    code = """
import sys, numpy as np, reco
from PIL import Image
found = reco.load(index="photos", archive_size=4).segment(
    "bench/images/val/0.jpg", "orange, lemon", doubtful=True
)
assert np.array_equal(found.labels, np.asarray(Image.open("found/masks/0.png")).astype(int))
"""
    done = run(folder, code)
    assert done.returncode == 0, done.stderr


def test_a_specialist_that_was_carried_here_is_used(folder, specialist):
    done = reco(folder, "specialist-segment", str(specialist), "bench/images/val", "--out", "one")
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "one/masks").glob("*.png"))) == 4


@pytest.fixture(scope="module")
def specialist(tmp_path_factory) -> Path:
    """A specialist that knows nothing, with its graph."""
    from test_specialist import untrained_network

    from reco.photos.specialists.export import export_onnx
    from reco.photos.specialists.trained import save_trained

    made = tmp_path_factory.mktemp("specialist") / "blob"
    trained = untrained_network()
    save_trained(trained, [], made)
    export_onnx(trained, made, [np.zeros((64, 96, 3), np.uint8)])
    return made


def test_a_missing_extra_is_one_line_that_names_it(folder):
    done = reco(folder, "specialist", "orange", "--index", "photos", "--out", "o")
    assert done.returncode == 1
    assert "error: the package torch is not installed: pip install 'reco[" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "spec, extra",
    [("timm:resnet18", "torch"), ("open_clip:RN50/openai", "open-clip")],
)
def test_a_network_of_another_library_names_its_extra(folder, spec, extra):
    code = f"""
from reco.errors import RecoError
from reco.models import load
try:
    load({spec!r})
except RecoError as error:
    print(error)
"""
    done = run(folder, code)
    assert f"pip install 'reco[{extra}]'" in done.stdout, done.stderr


def test_all_commands_say_what_they_do(folder):
    done = reco(folder, "--help")
    assert done.returncode == 0 and "segment" in done.stdout


def test_nothing_is_told_to_the_makers_of_onnx_runtime(folder, segmented):
    assert sorted(path.name for path in (folder / "cache").iterdir()) == ["reco"]

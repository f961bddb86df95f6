"""Tables and figures of miniature experiments: what they say, and that odd cases are drawn too."""

import io
import re
import shutil
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from nbclient import NotebookClient
from PIL import Image
from safetensors.numpy import save_file

from reco.cli import commands
from reco.config import Config
from reco.data.colours import PALETTE
from reco.data.embeddings import description_of
from reco.data.folder import write_labels
from reco.data.tables import write_table
from reco.experiment import Experiment
from reco.files import write_json
from reco.method.variants import Method
from reco.workflow.evaluate import METRICS, RETRIEVAL
from reco.workflow.figures.archive_size import archive_size_figure
from reco.workflow.figures.precision import precision_figure
from reco.workflow.figures.predictions import Prediction, overlay, predictions_figure, row_colours
from reco.workflow.figures.style import spread, write_figure
from reco.workflow.figures.training import training_figure
from reco.workflow.tables.components import components_table
from reco.workflow.tables.formats import HTML, LATEX, MARKDOWN, cells, to_latex, to_markdown
from reco.workflow.tables.methods import methods_table
from reco.workflow.tables.retrieval import retrieval_remarks, retrieval_table

ROOT = Path(__file__).parents[1]
METRICS_CSV = """method,recipe,lgc,ce,crf,archive_size,split,mean_iou,pixel_accuracy,mean_accuracy
denseclip,paper,False,False,False,0,val,0.196,0.322,nan
denseclip,paper,False,False,True,0,val,0.2,0.3,0.3
reference,paper,True,True,False,3,val,0.1,0.3,0.4
reco,paper,True,True,False,3,val,0.31049,0.5,0.4
reco,paper,True,False,False,3,val,0.3,0.5,0.4
reco,paper,True,True,False,2,val,0.25,0.5,0.4
reco,paper,True,True,True,3,val,0.3095,0.5,0.4
reco_plus,paper,True,True,False,3,val,0.4,0.5,0.4
reco_plus,paper,True,True,True,3,val,0.2,0.5,0.4
"""
BEST = Method("reco", True, True, True, 3)


@pytest.fixture
def metrics():
    return pd.read_csv(io.StringIO(METRICS_CSV))


def retrieval(**precisions):
    rows = [
        (name, k, value, 5)
        for name, values in precisions.items()
        for k, value in enumerate(values, 1)
    ]
    return pd.DataFrame(rows, columns=RETRIEVAL)


# ---- tables -----------------------------------------------------------------------------------


def test_components_are_in_percent_at_the_main_archive_size(metrics):
    table = components_table(metrics, BEST, BEST)
    assert list(table.Method) == [
        "DenseCLIP",
        "DenseCLIP",
        "Reference embeddings alone",
        *["ReCo"] * 3,
    ]
    written = cells(table, MARKDOWN)
    assert list(written["mIoU"]) == ["19.6", "20.0", "10.0", "**31.0**", "30.0", "30.9"]
    assert list(written["k"]) == ["–", "–", "3", "3", "3", "3"]
    assert list(written["LGC"]) == ["", "", *["✓"] * 4]
    assert written["Mean acc."][0] == "–"


def test_cells_that_are_equal_once_rounded_are_all_bold():
    table = pd.DataFrame({"Method": ["a", "b", "c"], "mIoU": [30.04, 29.96, 29.94]})
    assert list(cells(table, HTML)["mIoU"]) == ["<b>30.0</b>", "<b>30.0</b>", "29.9"]
    assert list(cells(table, HTML, bold=False)["mIoU"]) == ["30.0", "30.0", "29.9"]


def test_methods(metrics):
    table = methods_table(metrics, BEST, BEST)
    assert list(table.Method) == [
        *("DenseCLIP", "DenseCLIP with CRF", "ReCo", "ReCo with CRF", "ReCo+", "ReCo+ with CRF"),
    ]
    assert table["mIoU"].round(3).tolist() == [19.6, 20.0, 31.049, 30.95, 40.0, 20.0]


def test_retrieval_orders_concepts_and_names_those_that_are_not_found():
    known = retrieval(fox=[1, 0.5], cow=[0, 0], ant=[1, 1])
    table = retrieval_table(known, ["cow", "fox", "ant", "yak"], [1, 2])
    assert list(table.Concept) == ["ant", "fox", "cow", "yak"]
    assert list(cells(table, MARKDOWN, bold=False)["P@2"]) == ["100.0", "50.0", "0.0", "–"]
    first, second = retrieval_remarks(table)
    assert "first 2 images: cow." in first and "yak" in second
    nothing = retrieval_table(known.iloc[:0], ["cow", "fox"], [1, 2])
    assert retrieval_remarks(nothing) == [
        "Unknown, for no label of the index names them: cow, fox."
    ]


def test_names_are_escaped():
    table = pd.DataFrame({"Concept": ["a_b & 50% {x} ~ \\", "plain"], "P@5": [1.0, 0.0]})
    latex = to_latex(table, "50% of #1", ["R&D"], bold=True)
    assert r"a\_b \& 50\% \{x\} \textasciitilde{} \textbackslash{} & \textbf{1.0}" in latex
    assert r"\caption{50\% of \#1 R\&D}" in latex and r"\toprule" in latex
    assert r"| a\_b & 50% {x} \~ \\ | " in to_markdown(table, "t", [], bold=False)
    assert cells(pd.DataFrame({"a": ["x|y"]}), MARKDOWN)["a"][0] == r"x\|y"
    assert cells(pd.DataFrame({"a": ["<b>"]}), HTML)["a"][0] == "&lt;b&gt;"
    assert cells(pd.DataFrame({"a": [True]}), LATEX)["a"][0] == r"$\checkmark$"
    starred = cells(pd.DataFrame({"a": ["[1]", "*", "a*[b]"]}), LATEX)["a"]
    assert list(starred) == ["{[}1]", "{*}", "a*[b]"]  # after \\\\ these would be arguments


@given(
    st.text(st.sampled_from("ab1 *_`[]()<>!|~$&;#:/.\\-+=@{}^\"'"), min_size=1)
    .map(str.strip)
    .filter(bool)
    | st.sampled_from(
        ["[x](javascript:a)", "![x](y)", "<b>", "&lt;", "a|b", "https://a.b", "www.a.b"]
    )
)
def test_names_are_text_in_markdown(name):
    table = pd.DataFrame({"Concept": [name], "P@5": [1.0]})
    text = to_markdown(table, name, [f"Unknown: {name}"], bold=False)
    reader = MarkdownIt().enable(["table", "strikethrough"])
    shown = [block for block in reader.parse(text) if block.type == "inline"]
    assert {inner.type for block in shown for inner in block.children} <= {
        *("text", "text_special", "strong_open", "strong_close")
    }
    words = ["".join(inner.content for inner in block.children) for block in shown]
    assert [" ".join(word.split()) for word in words] == [
        " ".join(word.split()) for word in (name, "Concept", "P@5", name, "1.0", f"Unknown: {name}")
    ]


@pytest.mark.parametrize("name", ["fire truck", "P@5", "traffic light (red)", "R&D", "mountain!"])
def test_ordinary_names_stay_as_they_are(name):
    assert cells(pd.DataFrame({"a": [name]}), MARKDOWN)["a"][0] == name


# ---- choices and drawing ----------------------------------------------------------------------


def test_spread_is_even_and_deterministic():
    values = {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.5, "e": float("nan")}
    assert spread("abcde", values, 3) == ["b", "d", "a"]
    assert spread("abcde", values, 9) == ["b", "c", "d", "a"]
    assert spread("abcde", {}, 2) == ["a", "b"]
    assert spread("ab", values, 1) == ["b"]


def prediction(height, width, classes, ignore=True):
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, (height, width))
    if ignore:
        truth[: height // 2] = -1
    guesses = [generator.integers(0, classes + 1, (height, width)) for _ in range(4)]
    picture = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Prediction("x", picture, truth, guesses)


def test_colours_go_to_the_ground_truth_first_by_scored_area():
    truth = np.array([[3, 3, 1, -1]])
    guesses = [np.array([[2, 2, 1, 7]]), np.array([[2, 5, 3, 7]])]
    row = Prediction("x", np.zeros((1, 4, 3), np.uint8), truth, guesses)
    assert row_colours(row) == dict(zip([3, 1, 2, 5], PALETTE, strict=False))
    assert row.accuracies.tolist() == [1 / 3, 0]


def test_overlay_marks_what_is_scored():
    picture, labels = np.full((1, 4, 3), 100, np.uint8), np.array([[0, 0, -1, 1]])
    scored = np.array([[True, True, False, False]])
    painted = overlay(picture, labels, scored, {0: "#FF0000"})[0]
    assert painted[0].tolist() == [208, 30, 30]  # 30 % picture, 70 % red
    assert painted[2].tolist() == [0, 0, 0]  # the border
    assert painted[3].tolist() == [183, 183, 183]  # pale, 25 % grey: no colour of its own


def check_files(figure, folder, most=2_000_000):
    paths = [folder / "figure.png", folder / "figure.pdf"]
    write_figure(figure, *paths)
    for path in paths:
        assert 1000 < path.stat().st_size < most, path
    with Image.open(paths[0]) as image:
        image.load()
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
    assert (
        paths[1].read_bytes().startswith(b"%PDF") and b"CreationDate" not in paths[1].read_bytes()
    )
    assert len(list(folder.iterdir())) == 2  # no temporary file is left


@pytest.mark.parametrize(
    "predictions",
    [
        [prediction(40, 90, 3), prediction(90, 30, 3)],
        [prediction(33, 33, 1, ignore=False)],
        [
            Prediction(
                "x",
                *[np.zeros(s, np.uint8) for s in [(9, 9, 3)]],
                np.full((9, 9), -1),
                [np.zeros((9, 9), int)] * 4,
            )
        ],
    ],
    ids=["shapes", "one class", "nothing scored"],
)
def test_predictions_of_any_shape_are_drawn(tmp_path, predictions):
    names = ["DenseCLIP", "ReCo", "ReCo with CRF", "ReCo+ with CRF"]
    figure = predictions_figure(predictions, names, ["cat", "a $ sign", "c_$x", "extra"])
    check_files(figure, tmp_path)


def test_curves_are_drawn_with_little_data_too(tmp_path, metrics):
    one = metrics[metrics.archive_size != 2]
    known = retrieval(fox=[1, 0.5], cow=[0, 0])
    figures = {
        "sizes": archive_size_figure(metrics, BEST),
        "one-size": archive_size_figure(one, BEST),
        "sizes-compared": archive_size_figure(metrics, BEST, "mine", {"other": one}),
        "precision": precision_figure(known, 20),
        "precision-compared": precision_figure(
            known, 20, "mine", {"other": retrieval(fox=[0.5, 1])}
        ),
        "one-k": precision_figure(known[known.k == 1], 20),
        "no-labels": precision_figure(known.iloc[:0], 20),
        "training": training_figure(pd.DataFrame({"step": [1], "loss": [2.0], "lr": [0.1]})),
    }
    for name, figure in figures.items():
        (tmp_path / name).mkdir()
        check_files(figure, tmp_path / name)
    chance = figures["precision"].axes[0].lines[-1].get_ydata()
    assert np.allclose(chance, 25)  # 5 of 20 images show a concept


def test_equal_data_make_equal_files(tmp_path, metrics):
    for name in "ab":
        write_figure(
            archive_size_figure(metrics, BEST), tmp_path / f"{name}.png", tmp_path / f"{name}.pdf"
        )
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


# ---- a whole miniature experiment -------------------------------------------------------------


@pytest.fixture(params=["labels of the index", "no labels"])
def experiment(request, tmp_path, monkeypatch):
    """Two classes and one more concept, four index images, three val images; the current folder."""
    monkeypatch.chdir(tmp_path)
    index = {"kind": "folder", "root": "index"}
    if request.param == "labels of the index":
        index["labels"] = "labels.csv"
        shown = [("0.png", "cat"), ("1.png", "cat;fire truck"), ("2.png", ""), ("3.png", "cat")]
        write_table("labels.csv", ["path", "concepts"], shown)
    values = {
        "experiment": "mini",
        "index": index,
        "benchmark": {"kind": "folder", "root": "bench"},
        "concepts": ["cat", "fire truck", "a & b_%"],
        "recipe": "paper",
        "context": ["sky"],
        "archive_size": 3,
        "archive_sizes": [2],
        "sizes": {"archive": 32, "benchmark": 32},
    }
    Path("mini.yaml").write_text(yaml.safe_dump(values))
    made = Experiment(Config.model_validate(values), images="x")
    write_json(description_of(made.embeddings), made.index)
    generator = np.random.default_rng(0)

    def picture(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)

    Path("bench").mkdir()
    Path("bench/classes.txt").write_text("cat\nfire truck\n")
    for name in range(4):
        picture(Path(f"index/{name}.png"), (50, 40))
    rows = []
    for name, size in enumerate([(32, 32), (64, 32), (32, 48)]):
        picture(Path(f"bench/images/val/{name}.png"), (2 * size[0], 2 * size[1]))
        truth = generator.integers(-1, 2, (2 * size[1], 2 * size[0]))
        write_labels(f"bench/masks/val/{name}.png", truth)
        rows.append((f"images/val/{name}.png", f"masks/val/{name}.png", f"{name}.png", ""))
        for method in [*made.zero_shot, *made.plus]:
            guess = generator.integers(0, 3, (size[1], size[0]))
            write_labels(f"masks/{method.slug}/{name}.png", guess)
    write_table("val.csv", ["image", "mask", "prediction", "key"], rows)
    write_table("index.csv", ["path", "key"], [(f"{name}.png", "") for name in range(4)])
    for concept in made.targets:
        archive = [(k, f"{k}.png", "", 0.5) for k in (1, 2, 3)]
        write_table(made.archive(concept.slug), ["rank", "path", "key", "similarity"], archive)
        reference = Path(made.reference(concept.slug))
        reference.parent.mkdir(parents=True, exist_ok=True)
        arrays = {
            "support": generator.random((3, 2, 2), dtype=np.float32),
            "seeds": np.ones((3, 2), np.int32),
        }
        save_file({f"lgc-ce-k3.{key}": value for key, value in arrays.items()}, reference)
    known = [("cat", k, 1 / k, 3) for k in (1, 2, 3)] if made.index_labels else []
    write_table("retrieval.csv", RETRIEVAL, known)
    scores = [
        (m.kind, m.recipe, m.lgc, m.ce, m.crf, m.archive_size, "val", 0.1, 0.2, 0.3)
        for m in [*made.zero_shot, *made.plus]
    ]
    write_table("metrics.csv", METRICS, scores)
    write_json("run.json", {"git": {"changed": ["src/reco/x.py"]}})
    write_table("curve.csv", ["step", "loss", "lr"], [(1, 2.0, 0.1), (2, 1.0, 0.1)])
    return made


def reco(*arguments):
    commands(" ".join(arguments).split(), standalone_mode=False)


def test_of_several_archives_the_first_row_is_shown_and_all_of_one(experiment, monkeypatch):
    module, shown = import_module("reco.workflow.figures.archives"), []
    monkeypatch.setattr(module, "COLUMNS", 1)
    monkeypatch.setattr(module, "archives_figure", lambda found, columns: shown.append(found))
    monkeypatch.setattr(module, "write_figure", lambda *_, **__: None)
    given = "--config mini.yaml --retrieval retrieval.csv --run run.json a.png"
    reco("figure archives --count 2", given)
    reco("figure archives --concept fire-truck", given)
    several, one = ([len(archive.pictures) for archive in found] for found in shown)
    assert set(several) == {1} and one == [experiment.config.archive_size] and one > [1]


def test_commands_make_every_table_and_figure(experiment):
    config, run = "--config mini.yaml", "--run run.json"
    figure, tables = f"{run} {{0}}.png {{0}}.pdf", f"{run} {{0}}.md {{0}}.tex {{0}}.html"
    images, index = "--images val.csv", "--images index.csv"
    ranks, scores = "--retrieval retrieval.csv", "--metrics metrics.csv"
    masks = "--zero-shot masks --plus masks"
    reco("table components", config, scores, images, tables.format("components"))
    reco("table methods", config, scores, images, tables.format("methods"))
    reco("table retrieval", config, ranks, index, tables.format("retrieval"))
    reco("figure archives", config, ranks, figure.format("archives"))
    reco("figure archives", config, ranks, "--concept fire-truck", figure.format("archive"))
    reco("figure predictions", config, images, masks, figure.format("predictions"))
    reco("figure archive-size", config, scores, figure.format("archive_size"))
    reco("figure precision", config, ranks, index, figure.format("precision"))
    reco("figure training --curve curve.csv", figure.format("training"))
    for name in ("archives", "archive", "predictions", "archive_size", "precision", "training"):
        assert Path(f"{name}.png").stat().st_size > 1000 < Path(f"{name}.pdf").stat().st_size
    text = Path("methods.md").read_text()
    assert "Experiment mini, split val: 3 images, 3 classes; 3 concepts" in text
    assert "Made with uncommitted changes: " in text
    text = Path("retrieval.tex").read_text()
    assert r"a \& b\_\%" in text and "index of 4 images" in text


# ---- notebook and captions --------------------------------------------------------------------


def test_notebook_is_valid_and_without_outputs():
    notebook = nbformat.read(ROOT / "notebooks/paper_figures.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.language == "python"  # Snakemake asks for it
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_notebook_draws_what_the_tables_say(experiment):
    """As Snakemake runs it, which prepends `snakemake`; here without a run of anything else."""
    data, results = Path(experiment.data), Path(experiment.results)
    for name, place in {
        "mini.yaml": results / "config.yaml",
        "metrics.csv": results / "metrics.csv",
        "retrieval.csv": results / "retrieval.csv",
        "index.csv": Path(experiment.usable),
        "val.csv": data / "images/val.csv",
        "curve.csv": data / "reco_plus/curve.csv",
        ROOT / "workflow/resources/paper_numbers.csv": Path("workflow/resources/paper_numbers.csv"),
    }.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, place)
    for split in ("val", "plus"):
        shutil.copytree("masks", data / "masks" / split)
    notebook = nbformat.read(ROOT / "notebooks/paper_figures.ipynb", as_version=4)
    run = f"types.SimpleNamespace(run={str(results / 'run.json')!r})"
    given = f"import types; snakemake = types.SimpleNamespace(input={run})"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(given))
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()

    drawn = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            title = cell.source.splitlines()[0].strip("# ")
        elif any("image/png" in output.get("data", {}) for output in cell.outputs):
            drawn.append(title)
    assert drawn == [*("Predictions", "Archives", "Archive size", "Retrieval", "Training of ReCo+")]
    said = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    for name in ("paper-pascal-context/metrics.csv", "paper-rare/rare.csv"):
        assert f"results/{name}`: not run" in said


def test_every_caption_is_there():
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    captions = {path.name for path in (ROOT / "workflow/report").glob("*.rst")}
    used = {f"{name}.rst" for name in re.findall(r"\.\./report/(\w+)\.rst", rules)}
    used |= {f"{name}.rst" for name in re.findall(r'as_(?:figure|table)\(\s*"(\w+)', rules)}
    assert used <= captions and captions - used == {"workflow.rst"}

"""Tables that people read: Markdown, LaTeX and HTML, in percent, the best of a column in bold.

A table is a DataFrame of three kinds of columns: text, bool (a tick or nothing) and numbers; what
does not apply is nan. The functions at the end write one table in the three formats.
"""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reco.config import config_fingerprint
from reco.data.tables import read_table
from reco.experiment import Experiment
from reco.files import write_text
from reco.method.variants import Method
from reco.workflow.evaluate import WAY

NAMES = {
    "denseclip": "DenseCLIP",
    "reference": "Reference embeddings alone",
    "reco": "ReCo",
    "reco_plus": "ReCo+",
}
SCORES = {"mean_iou": "mIoU", "pixel_accuracy": "Pixel acc.", "mean_accuracy": "Mean acc."}


RECIPES = {
    "paper": "paper",
    "whitened": "+ whitened features",
    "summed": "+ sum of cosines",
    "kept": "+ all seeds kept",
    "seedbank": "+ all scales = seedbank",
}
"""Steps from the paper's recipe to `seedbank`, as tables name them."""


def method_name(method: str, crf: bool, recipe: str = "") -> str:
    """What people call a method: `ReCo with CRF`, `ReCo (seedbank) with CRF`."""
    return NAMES[method] + (f" ({recipe})" if recipe else "") + (" with CRF" if crf else "")


# ---- what is in them --------------------------------------------------------------------------


def components_table(metrics: pd.DataFrame, paper: Method, best: Method) -> pd.DataFrame:
    """The parts of ReCo switched on and off, at the archive size of the recipe.

    Where there is a bank of seeds, its parts are added one by one: `RECIPES`.

    Args:
        metrics: metrics.csv of `reco evaluate`, scores in 0..1.
        paper, best: ReCo with all its parts, by the paper's recipe and by the experiment's.
    """
    sizes = {0, paper.archive_size}
    rows = metrics[
        (metrics.archive_size.isin(sizes) | (metrics.recipe != "paper"))
        & (metrics.method != "reco_plus")
    ]
    parts = {"Method": rows.method.map(NAMES)}
    if best.recipe != paper.recipe:
        parts["Recipe"] = rows.recipe.map(RECIPES).where(rows.method != "denseclip")
    parts |= {
        "LGC": rows.lgc.astype(bool),
        "CE": rows.ce.astype(bool),
        "CRF": rows.crf.astype(bool),
        "k": rows.archive_size.where(rows.archive_size > 0).astype("Int64").astype("string"),
    }
    return pd.DataFrame(parts | _percent(rows, SCORES))


def methods_table(metrics: pd.DataFrame, paper: Method, best: Method) -> pd.DataFrame:
    """DenseCLIP, ReCo with all its parts and ReCo+, each without and with the CRF.

    Args:
        paper, best: as in `components_table`; where they differ, both are rows, and named.
    """
    several = best.recipe != paper.recipe
    rows = metrics[
        (metrics.method == "denseclip")
        | (_of(metrics, paper) & (metrics.method == "reco"))
        | (_of(metrics, best) & metrics.method.isin(["reco", "reco_plus"]))
    ]
    names = [
        method_name(row.method, row.crf, row.recipe if several and row.method == "reco" else "")
        for row in rows.itertuples()
    ]
    return pd.DataFrame({"Method": names} | _percent(rows, SCORES))


def _of(metrics: pd.DataFrame, method: Method) -> pd.Series:
    """Which rows are of a method's recipe and parts, with or without a CRF."""
    return (metrics[list(WAY)] == [getattr(method, name) for name in WAY]).all(axis=1)


def best_on_val(curve: pd.DataFrame) -> str:
    """What choosing a checkpoint of ReCo+ on val would have given; "" where val was not looked at.

    The released code reports that choice, which reads the labels that are scored.
    """
    looks = curve.dropna(subset="val_mean_iou")
    if looks.empty:
        return ""
    best, last = looks.loc[looks.val_mean_iou.idxmax()], looks.iloc[-1]
    return (
        f"Of {len(looks)} checkpoints of ReCo+ the best on val, without CRF, has "
        f"{100 * best.val_mean_iou:.1f} mIoU (step {best.step:.0f}), the last "
        f"{100 * last.val_mean_iou:.1f}. To choose it takes the labels that are scored: no result."
    )


def retrieval_table(
    retrieval: pd.DataFrame, concepts: Sequence[str], sizes: Sequence[int]
) -> pd.DataFrame:
    """Precision of every concept's archive, the worst concept last.

    Args:
        retrieval: retrieval.csv of `reco precision`; concepts that the labels of the index do not
            name are missing there and have nan here.
        concepts: names of all target concepts.
        sizes: values of k, ascending; the largest one orders the concepts.
    """
    wide = retrieval.pivot(index="concept", columns="k", values="precision")
    wide = 100 * wide.reindex(index=list(concepts), columns=list(sizes)).astype(float)
    known = retrieval.drop_duplicates("concept").set_index("concept").in_index
    wide.columns = [f"P@{k}" for k in sizes]
    wide.insert(0, "In index", known.reindex(wide.index).astype("Int64").astype("string"))
    wide = wide.rename_axis("Concept").reset_index()
    return wide.sort_values(
        [f"P@{sizes[-1]}", "Concept"], ascending=[False, True], ignore_index=True
    )


def retrieval_remarks(table: pd.DataFrame) -> list[str]:
    """Sentences on the concepts that retrieval cannot find, or that nobody can tell of."""
    last = table.columns[-1]
    unknown, never = table.Concept[table[last].isna()], table.Concept[table[last] == 0]
    remarks = []
    if len(never):
        remarks.append(f"Never found in the first {last[2:]} images: {', '.join(never)}.")
    if len(unknown):
        remarks.append(f"Unknown, for no label of the index names them: {', '.join(unknown)}.")
    return remarks


def provenance(experiment: Experiment, what: str) -> str:
    """How a table was made, in a line.

    Args:
        what: the images it is about, such as `split val: 120 images, 73 classes`.
    """
    config = experiment.config
    return (
        f"Experiment {config.experiment}, {what}; {len(experiment.targets)} concepts, "
        f"archives of k = {config.archive_size}, seed {config.seed}, "
        f"config {config_fingerprint(config)}."
    )


def provenance_of_split(experiment: Experiment, images: Path) -> str:
    """The same for a table of scores; `images` is the list of the val split."""
    name, count = experiment.split("val").name, len(read_table(images))
    return provenance(experiment, f"split {name}: {count} images, {len(experiment.scored)} classes")


def _percent(rows: pd.DataFrame, columns: dict[str, str]) -> dict[str, pd.Series]:
    return {name: 100 * rows[column].astype(float) for column, name in columns.items()}


# ---- how they are written ---------------------------------------------------------------------


def _escape_latex(text: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    text = re.sub(r"[\\~^&%$#_{}]", lambda m: words.get(m[0], "\\" + m[0]), text)
    return re.sub(r"^[\[*]", r"{\g<0>}", text)  # else a part of the \\ that ends the row before


def _escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no link, not even of a bare address, picture or formula.

    Parentheses do nothing without brackets before them.
    """
    return re.sub(r"[\\`*_|<>\[\]~$]|:(?=//)|(?<=www)\.|&(?=#?\w+;)", r"\\\g<0>", text)


@dataclass(frozen=True)
class Dialect:
    """How a format writes text, bold text, a tick and what does not apply."""

    escape: Callable[[str], str]
    bold: str
    tick: str
    none: str


MARKDOWN = Dialect(_escape_markdown, "**{}**", "✓", "–")
LATEX = Dialect(_escape_latex, r"\textbf{{{}}}", r"$\checkmark$", "--")
HTML = Dialect(html.escape, "<b>{}</b>", "✓", "–")


def cells(table: pd.DataFrame, dialect: Dialect, *, bold: bool = True) -> pd.DataFrame:
    """Every cell as text: numbers with one decimal, with `bold` the best of a column in bold.

    Cells that are equal once rounded are equally the best.
    """

    def column(values: pd.Series) -> pd.Series:
        if pd.api.types.is_bool_dtype(values):
            return values.map({True: dialect.tick, False: ""})
        if pd.api.types.is_float_dtype(values):
            texts = values.map("{:.1f}".format)
            if bold and len(values) > 1:
                best = texts == f"{values.max():.1f}"
                texts = texts.mask(best, texts.map(dialect.bold.format))
        else:
            texts = values.map(dialect.escape, na_action="ignore")
        return texts.astype(object).mask(values.isna(), dialect.none)

    written = table.apply(column).astype(object)
    return written.set_axis([dialect.escape(str(name)) for name in table.columns], axis=1)


def to_markdown(table: pd.DataFrame, title: str, notes: Sequence[str], *, bold: bool) -> str:
    """The table as GitHub Markdown, with a title and notes below."""
    body = cells(table, MARKDOWN, bold=bold).to_markdown(
        index=False, disable_numparse=True, colalign=_align(table, "left", "center", "right")
    )
    return (
        "\n\n".join([f"**{_escape_markdown(title)}**", body, *map(_escape_markdown, notes)]) + "\n"
    )


def to_latex(table: pd.DataFrame, title: str, notes: Sequence[str], *, bold: bool) -> str:
    """The table as a LaTeX float in booktabs style; the notes are part of the caption."""
    body = cells(table, LATEX, bold=bold).to_latex(
        index=False,
        escape=False,
        column_format="".join(_align(table, "l", "c", "r")),
        caption=_escape_latex(" ".join([title, *notes])),
        position="t",
    )
    return "% needs \\usepackage{booktabs,amssymb}\n" + body


def to_html(table: pd.DataFrame, title: str, notes: Sequence[str], *, bold: bool) -> str:
    """The table as an HTML page of its own, for the report."""
    body = cells(table, HTML, bold=bold).to_html(index=False, escape=False, border=0)
    below = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    return PAGE.format(title=html.escape(title), body=body, below=below)


def write_tables(
    table: pd.DataFrame, title: str, notes: Sequence[str], *paths: Path, bold: bool = True
) -> None:
    """Write a table to every path, in the format of its suffix: .md, .tex or .html."""
    notes = [note for note in notes if note]
    writers = {".md": to_markdown, ".tex": to_latex, ".html": to_html}
    for path in paths:
        write_text(path, writers[path.suffix](table, title, notes, bold=bold))


def _align(table: pd.DataFrame, text: str, tick: str, number: str) -> list[str]:
    first = table.columns[0]
    return [
        text if name == first else tick if pd.api.types.is_bool_dtype(table[name]) else number
        for name in table.columns
    ]


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em; color: #222; max-width: 60em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
table {{ border-top: 2px solid #222; border-bottom: 2px solid #222; }}
th, td {{ padding: .25em .9em; text-align: right; }}
th {{ border-bottom: 1px solid #222; }}
th:first-child, td:first-child {{ text-align: left; }}
tbody tr:hover {{ background: #f2f2f2; }}
p {{ color: #555; }}
</style>
</head>
<body>
<h1 style="font-size: 1.1em">{title}</h1>
{body}
{below}</body>
</html>
"""

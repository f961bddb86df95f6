"""How a table is written: Markdown, LaTeX and HTML, the best of a column in bold."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reco.files import write_text


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

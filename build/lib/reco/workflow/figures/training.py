"""Training: the loss of ReCo+ by step."""

from pathlib import Path

import click
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from reco.data.colours import BLUE, SKY
from reco.options import FILE, FILES, RUN
from reco.revision import uncommitted
from reco.workflow.figures.style import STYLE, new_plot, write_figure


@rc_context(STYLE)
def training_figure(curve: pd.DataFrame) -> Figure:
    """Loss of ReCo+ at every step, and its running mean.

    Args:
        curve: step, loss, lr.
    """
    figure, ax = new_plot("step", "cross-entropy to ReCo's masks")
    window = max(1, len(curve) // 15)
    smooth = curve.loss.rolling(window, min_periods=1, center=True).mean()
    ax.plot(curve.step, curve.loss, color=SKY, linewidth=0.7, label="a step")
    ax.plot(curve.step, smooth, color=BLUE, linewidth=2, label=f"mean of {window} steps")
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure


@click.command()
@click.option("--curve", type=FILE, required=True, help="curve.csv of `reco train`.")
@RUN
@FILES
def training(curve: Path, run: Path, files: tuple[Path, ...]) -> None:
    """Loss of ReCo+ by step."""
    write_figure(training_figure(pd.read_csv(curve)), *files, remark=uncommitted(run))

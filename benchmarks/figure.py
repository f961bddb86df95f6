"""Draw what the benchmarks of `results/benchmarks/` say: how many times as fast, of what limit."""

import matplotlib.pyplot as plt
from measure import RESULTS, Row, read_rows

from reco.files import atomic


def compared(rows: list[Row]) -> list[tuple[Row, Row]]:
    """The first way of each case, and each of the others beside it."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.case, row)
    return [(first[row.case], row) for row in rows if row is not first[row.case]]


if __name__ == "__main__":
    pairs = [
        (path.stem, *pair)
        for path in sorted(RESULTS.glob("*.json"))
        if "rows" in path.read_text(encoding="utf-8")
        for pair in compared(read_rows(path))
    ]
    names = [f"{name}: {new.case}\n{new.way} against {old.way}" for name, old, new in pairs]
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(pairs) + 1), layout="constrained")
    bars = axes.barh(names, [new.ratio for _, _, new in pairs])
    limits = ["" if new.limit is None else f", {new.limit:.0%} of the limit" for *_, new in pairs]
    labels = [f"{new.ratio:.1f}{limit}" for (*_, new), limit in zip(pairs, limits, strict=True)]
    axes.bar_label(bars, labels, padding=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="times as fast, medians in one run")
    axes.set_xlim(right=8 * max(new.ratio for *_, new in pairs))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    with atomic(RESULTS / "benchmarks.png") as temporary:
        figure.savefig(temporary, dpi=150)

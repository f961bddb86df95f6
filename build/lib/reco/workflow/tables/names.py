"""What people call methods, recipes and scores."""

import pandas as pd

METHOD_NAMES = {
    "denseclip": "DenseCLIP",
    "reference": "Reference embeddings alone",
    "reco": "ReCo",
    "reco_plus": "ReCo+",
}
SCORE_NAMES = {"mean_iou": "mIoU", "pixel_accuracy": "Pixel acc.", "mean_accuracy": "Mean acc."}
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
    return METHOD_NAMES[method] + (f" ({recipe})" if recipe else "") + (" with CRF" if crf else "")


def percent(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """The scores of rows of metrics.csv in percent, by the names that people know."""
    return {name: 100 * rows[column].astype(float) for column, name in SCORE_NAMES.items()}

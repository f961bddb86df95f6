"""Embedding the index, with ONNX Runtime and with PyTorch, beside the bare network.

Real photographs through the packaged model, from files to the store. The limit is the bare forward
pass in ONNX Runtime, the fastest engine of those tried, over the same batches, already decoded.
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
from measure import compare, report

from reco.data.folder import find_images
from reco.data.images import read_image
from reco.data.store import Store
from reco.errors import RecoError
from reco.models import Backend, packaged
from reco.workflow.embed import BATCH, compute_missing

IMAGES, SIZE = 128, 320
INDEX = Path("data/stamps/scenes/index")


def main() -> None:
    """Measure and report."""
    if not INDEX.is_dir():
        raise RecoError(f"{INDEX}: missing: run 'snakemake --cores all compose weights' first")
    logging.getLogger("reco").setLevel(logging.WARNING)
    paths = [INDEX / name for name in find_images(INDEX)[:IMAGES]]
    items = [(path.name, path) for path in paths]
    model, by_torch = packaged.load(), packaged.load(engine="torch")
    pictures = np.stack([model.preprocess(read_image(path), SIZE) for path in paths])

    def bare() -> None:
        for start in range(0, len(pictures), BATCH):
            model.encode(pictures[start : start + BATCH], {"global"})

    def in_turn() -> None:
        for start in range(0, len(paths), BATCH):
            batch = [model.preprocess(read_image(path), SIZE) for path in paths[start:][:BATCH]]
            model.encode(np.stack(batch), {"global"})

    def embed(model: Backend) -> None:
        with tempfile.TemporaryDirectory() as folder:
            compute_missing(model, {"global": Store(folder)}, items, SIZE, "embed")

    ways = {
        "PyTorch": lambda: embed(by_torch),
        "onnxruntime, in turn": in_turn,
        "onnxruntime": lambda: embed(model),
    }
    rows = compare(f"{IMAGES} scenes at {SIZE} pixels", ways, limit=bare, repeats=3)
    notes = [
        "onnxruntime: what `reco embed` does on a CPU, into a fresh store.",
        "PyTorch: the same with the engine of accelerators, in channels-last memory.",
        "in turn: a batch is decoded, then embedded, then the next; nothing is stored.",
        "limit: the forward pass alone over batches of "
        f"{BATCH} that are decoded already: {IMAGES / (rows[0].limit or 1) / rows[0].seconds:.1f} "
        "images a second.",
    ]
    report("embed", "Embedding of index images with the packaged model", rows, notes)


if __name__ == "__main__":
    main()

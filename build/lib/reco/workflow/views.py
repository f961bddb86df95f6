"""Views: what the networks see in a benchmark's pictures, at every size that a method looks at.

They know no concept, so they are computed once and kept in the store, by the digest of the image.
Where they are not kept (`keep_features`), the networks look again. Either way pictures go through a
network one by one and values through the store's float16, so that nothing but time depends on what
was kept.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from reco.data.batches import ahead
from reco.data.features import place_columns, place_in
from reco.data.geometry import Geometry
from reco.data.split import Row, Split
from reco.data.store import Store, as_stored, read_places
from reco.data.tables import read_table, write_table
from reco.device import resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment, side_name
from reco.files import MAKE_AGAIN
from reco.models import Loader, Output, keeping_loader, load
from reco.progress import LOG, track
from reco.workflow.embed import chunks, load_model, roles_by_model

BOTH: tuple[Output, ...] = ("encoder", "dense")
HELD = 32  # pictures whose features are held, and which a killed run computes again at most
Encoded = TypeVar("Encoded")


# ---- networks ---------------------------------------------------------------------------------


def load_encoder(
    experiment: Experiment, device: str, load: Loader = load
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Load the networks of the encoder and of dense saliency.

    Returns:
        a function of an (H, W, 3) uint8 RGB picture that gives encoder features (1, c, h, w) and
        dense features (1, d, h', w').
    """
    encode = load_networks(experiment, device, set(BOTH), load)

    def both(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = encode(picture)
        return outputs["encoder"], outputs["dense"]

    return both


def load_networks(
    experiment: Experiment, device: str, wanted: Set[Output], load: Loader = load
) -> Callable[[np.ndarray], dict[Output, np.ndarray]]:
    """Load what gives some outputs of an (H, W, 3) uint8 RGB picture, each (1, channels, h, w)."""
    roles = {
        spec: kinds & wanted for spec, kinds in roles_by_model(experiment).items() if kinds & wanted
    }
    models = {spec: load_model(experiment, spec, device, load) for spec in roles}

    def encode(picture: np.ndarray) -> dict[Output, np.ndarray]:
        image = Image.fromarray(picture)
        outputs: dict[Output, np.ndarray] = {}
        for spec, kinds in roles.items():
            outputs |= models[spec].encode(models[spec].preprocess(image, crop=False)[None], kinds)
        return outputs

    return encode


def look(
    picture: np.ndarray, encode: Callable[[np.ndarray], Encoded], sides: Iterable[int | None]
) -> dict[int, Encoded]:
    """Encode a picture (H, W, 3) at several lengths of its shorter side; None = its own."""
    found = {}
    own = min(picture.shape[:2])
    for side in dict.fromkeys(own if side is None else side for side in sides):
        scaled = picture
        if side != own:
            scaled = np.array(Geometry(side).picture(Image.fromarray(picture)))
        found[side] = encode(scaled)
    return found


def read_pictures(split: Split, rows: Sequence[Row]) -> Iterator[tuple[str, np.ndarray]]:
    """Name of the mask and picture of images of a split, decoded ahead in threads.

    Args:
        rows: of the list of the split.

    Raises:
        RecoError: an image cannot be read: a benchmark is whole or it is no benchmark.
    """

    def read(row: Row) -> tuple[str, np.ndarray]:
        return row["prediction"], np.array(split.picture(row))

    return ahead(rows, read, workers=2, most=8)


# ---- the store --------------------------------------------------------------------------------


def embed_split(
    experiment: Experiment, role: str, images: Path, table: Path, load: Loader | None = None
) -> None:
    """Bring the features of a split's pictures into the store; write where they are.

    Args:
        role: train or val.
        images: CSV of `reco catalog-split` (image, prediction, key).
        table: CSV to write: prediction, and for each output and side its shard and row.

    Raises:
        RecoError: an image cannot be read, or a network gives what the store cannot hold.
    """
    load = load or keeping_loader()
    rows, split = read_table(images), experiment.split(role)
    device, sides = resolve_device(experiment.config.device), experiment.sides(role)
    encode = load_networks(experiment, device, set(BOTH), load)
    stores: dict[tuple[Output, int | None], Store] = {}
    for spec, kinds in roles_by_model(experiment).items():
        version = load_model(experiment, spec, device, load).version
        for kind in kinds:
            for side in sides:
                folder = experiment.split_store(role, kind, spec, version, side_name(side))
                stores[kind, side] = Store(folder)
    known = {what: store.places().keys() for what, store in stores.items()}
    wanted = {row["key"]: row for row in rows}
    todo = {
        row["prediction"]: key
        for key, row in wanted.items()
        if any(key not in keys for keys in known.values())
    }
    what = f"features of {role}"
    LOG.info("%s: %d of %d images to compute", what, len(todo), len(wanted))
    pictures = read_pictures(split, [wanted[key] for key in todo.values()])
    seen = track(
        (
            (todo[name], _stored(look(picture, encode, sides), sides, min(picture.shape[:2])))
            for name, picture in pictures
        ),
        what,
        total=len(todo),
    )
    for shard in chunks(seen, HELD):
        for view, store in stores.items():
            new = [(key, arrays[view]) for key, arrays in shard if key not in known[view]]
            _append(store, new)
    places = {view: store.places() for view, store in stores.items()}
    order = [(kind, side) for side in sides for kind in BOTH]
    write_table(
        table,
        ["prediction", *place_columns(_column(*view) for view in order)],
        [
            (
                row["prediction"],
                *(value for view in order for value in places[view][row["key"]]),
            )
            for row in rows
        ],
    )


def _stored(
    found: Mapping[int, Mapping[Output, np.ndarray]], sides: Sequence[int | None], own: int
) -> dict[tuple[Output, int | None], np.ndarray]:
    """Arrays (c, h, w) of one picture as the store has them, for each output and side."""
    return {
        (kind, side): as_stored(values[0])
        for side in sides
        for kind, values in found[own if side is None else side].items()
    }


def _append(store: Store, new: Sequence[tuple[str, np.ndarray]]) -> None:
    """Add arrays to a store, those of one shape in one shard: pictures differ in aspect."""
    shapes: dict[tuple[int, ...], list[tuple[str, np.ndarray]]] = {}
    for key, array in new:
        shapes.setdefault(array.shape, []).append((key, array))
    for alike in shapes.values():
        store.append([key for key, _ in alike], np.stack([array for _, array in alike]))


def _column(kind: Output, side: int | None) -> str:
    return f"{kind}_{side_name(side)}"


def see(
    experiment: Experiment,
    role: str,
    rows: Sequence[Row],
    sides: Sequence[int | None],
    features: Path | None,
    *,
    wanted: Sequence[Output] = BOTH,
    load: Loader | None = None,
) -> Iterator[tuple[str, np.ndarray, dict[int, tuple[np.ndarray, ...]]]]:
    """Name of the mask, picture (H, W, 3) uint8 RGB and views of images of a split.

    A view is a batch of one of each output that is wanted, (1, c, h, w), by the shorter side.

    Args:
        rows: of the list of the split.
        sides: that are looked at, some of `Experiment.sides`.
        features: CSV of `embed_split`; None = no features were kept, and the networks look now.

    Raises:
        RecoError: an image cannot be read, or kept features are missing or damaged.
    """
    split = experiment.split(role)
    if features is None:
        device = resolve_device(experiment.config.device)
        encode = load_networks(experiment, device, set(wanted), load or keeping_loader())

        def rounded(picture: np.ndarray) -> tuple[np.ndarray, ...]:
            found = encode(picture)
            return tuple(as_stored(found[kind]).astype(np.float32) for kind in wanted)

        for name, picture in read_pictures(split, rows):
            yield name, picture, look(picture, rounded, sides)
        return
    kept = {row["prediction"]: row for row in read_table(features)}
    for name, picture in read_pictures(split, rows):
        own = min(picture.shape[:2])
        try:
            places = {
                own if side is None else side: [
                    place_in(kept[name], _column(kind, side)) for kind in wanted
                ]
                for side in sides
            }
        except KeyError as error:
            raise RecoError(f"{features}: has no {error}: {MAKE_AGAIN}") from None
        yield (
            name,
            picture,
            {
                side: tuple(read_places([place]) for place in found)
                for side, found in places.items()
            },
        )

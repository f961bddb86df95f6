"""Embed: the index images, in parts, and the features of the archives' images.

Both compute only what their stores lack, with each model loaded once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from reco.data.batches import ahead, batches
from reco.data.embeddings import Description, description_of
from reco.data.features import place_columns
from reco.data.geometry import Geometry, archive_geometry
from reco.data.images import read_image
from reco.data.store import Place, Store, read_places
from reco.data.tables import read_table, write_table
from reco.device import cpu_threads, resolve_device
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import write_array, write_digest, write_json
from reco.models import Backend, Loader, Output, load
from reco.progress import LOG, track
from reco.workflow.retrieve import read_archive

Item = TypeVar("Item")
BATCH = 16
BLOCK = 4096  # embeddings that are held at a time on their way into one matrix
SHARD = 256  # images in a file of the store: what a killed run computes again at most


def embed_part(
    experiment: Experiment,
    images: Path,
    spec: str,
    size: int,
    part: str,
    table: Path,
    load: Loader = load,
) -> None:
    """Bring the embeddings of one part of the index into the store; write where they are.

    Args:
        images: CSV of `reco catalog` (path, key).
        spec, size: the model, and the side of its input in pixels.
        part: `3-of-64`, the third of 64 slices of equal length.
        table: CSV to write (path, key, shard, row, reason): where an image's embedding is, or why
            there is none.
    """
    rows = slice_of([(row["path"], row["key"]) for row in read_table(images)], part)
    items = [(key, experiment.index_root / path) for path, key in rows if key]
    device, models = resolve_device(experiment.config.device), experiment.config.models
    model = load(spec, device=device, precision=models.precision)
    store = Store(experiment.store("global", spec, model.version, size))
    bad = compute_missing(model, {"global": store}, items, size, "embed index")
    places = store.places()
    write_table(
        table,
        ["path", "key", "shard", "row", "reason"],
        [
            (path, key, places[key].shard, places[key].row, "")
            if key in places
            else (path, key, "", "", bad.get(key, "cannot be opened"))
            for path, key in rows
        ],
    )


def slice_of(rows: Sequence[Item], part: str) -> Sequence[Item]:
    """The rows of one part: of `3-of-64`, the third of 64 slices of equal length."""
    number, parts = (int(text) for text in part.split("-of-"))
    return rows[len(rows) * (number - 1) // parts : len(rows) * number // parts]


def gather(
    parts: Sequence[Path],
    embeddings: Path,
    usable: Path,
    skipped: Path,
    described: Description,
) -> None:
    """Gather the embeddings of all parts of the index into one matrix, in index order.

    Of files with the same content the first counts: an archive of copies would tell nothing.

    Args:
        parts: tables of `embed_part`, in order.
        embeddings: .npy to write, (n, d) float16, L2-normalised rows, one per usable image; its
            SHA-256 is written beside it.
        usable: CSV to write (path, key), row i for row i of the embeddings.
        skipped: CSV to write (path, reason): files that are no readable images, and copies.
        described: what the parts were made of; written last, beside the embeddings.

    Raises:
        RecoError: no image is usable, or a shard is damaged.
    """
    rows = [row for part in parts for row in read_table(part)]
    first: dict[str, str] = {}
    kept, lost = [], []
    for row in rows:
        if row["shard"] and first.setdefault(row["key"], row["path"]) == row["path"]:
            kept.append(row)
        else:
            lost.append((row["path"], row["reason"] or f"the same file as {first[row['key']]}"))
    if not kept:
        raise RecoError(f"not one readable image in the index, such as {lost[0][1]}")
    if lost:
        LOG.warning("%d of %d index images skipped, listed in %s", len(lost), len(rows), skipped)
    places = [Place(row["shard"], int(row["row"])) for row in kept]
    length = read_places(places[:1]).shape[1]
    blocks = (read_places(chunk) for chunk in chunks(places, BLOCK))
    write_array(embeddings, (len(places), length), np.dtype("<f2"), blocks)
    write_digest(embeddings)
    write_table(usable, ["path", "key"], [(row["path"], row["key"]) for row in kept])
    write_table(skipped, ["path", "reason"], lost)
    write_json(description_of(embeddings), described)


def embed_archives(experiment: Experiment, load: Loader = load) -> None:
    """Bring the features of all archives' images into the store; write where they are.

    Writes, as far as the recipe needs them, `Experiment.features` (dense and encoder features at
    `sizes.archive`) and `Experiment.bank_features` (encoder features at every scale of the bank,
    and dense ones at its first): rank, path, key, and shard and row of each.

    Raises:
        RecoError: an archive is damaged or empty, or an image cannot be read any more.
    """
    config = experiment.config
    if config.referenced:
        slugs = experiment.sources
        tables = {slug: experiment.features(slug) for slug in slugs}
        _embed_tables(experiment, tables, config.all_archive_sizes[-1], {"": None}, load)
    if config.banked:
        tables = {slug: experiment.bank_features(slug) for slug in experiment.banked}
        scales = {f"_{scale}": scale for scale in config.bank.scales}
        _embed_tables(experiment, tables, config.bank.size, scales, load)


def _embed_tables(
    experiment: Experiment,
    tables: Mapping[str, str],
    count: int,
    scales: Mapping[str, int | None],
    load: Loader,
) -> None:
    """Embed the first `count` images of some concepts' archives; write a table for each.

    Args:
        tables: slug -> CSV to write.
        scales: end of a column's name -> scale of `embed_features`.
    """
    archives = {slug: read_archive(experiment.archive(slug))[:count] for slug in tables}
    items = {
        row["key"]: experiment.index_root / row["path"]
        for rows in archives.values()
        for row in rows
    }
    places: dict[str, dict[str, Place]] = {}
    for end, scale in scales.items():
        found = embed_features(experiment, items, load, scale)
        places |= {f"{kind}{end}": found[kind] for kind in sorted(found)}
    for slug, rows in archives.items():
        write_table(
            tables[slug],
            ["rank", "path", "key", *place_columns(places)],
            [
                (
                    *(row[name] for name in ("rank", "path", "key")),
                    *(value for known in places.values() for value in known[row["key"]]),
                )
                for row in rows
            ],
        )


def embed_features(
    experiment: Experiment, items: Mapping[str, Path], load: Loader = load, scale: int | None = None
) -> dict[Output, dict[str, Place]]:
    """Bring the dense and encoder features of index images into the store.

    Args:
        items: key -> path of the images.
        scale: of the bank; None = `sizes.archive`, which the paper's recipe looks at.

    Returns:
        for `encoder`, and for `dense` but at the further scales of a bank, which need none: key ->
        where its features are.

    Raises:
        RecoError: an image cannot be read any more.
    """
    config = experiment.config
    geometry = archive_geometry(config) if scale is None else None
    size = scale or config.sizes.archive
    only_encoder = scale is not None and scale != config.bank.scales[0]
    places: dict[Output, dict[str, Place]] = {}
    for spec, roles in roles_by_model(experiment).items():
        kinds = roles & {"encoder"} if only_encoder else roles
        if not kinds:
            continue
        model = load_model(experiment, spec, resolve_device(config.device), load)
        version = model.version + ("-released" if geometry else "")
        stores = {kind: Store(experiment.store(kind, spec, version, size)) for kind in kinds}
        what = f"features of archives at {size} pixels"
        bad = compute_missing(model, stores, list(items.items()), size, what, geometry)
        if bad:
            raise RecoError(
                f"{next(iter(bad.values()))}: it was readable when the index was embedded: "
                "restore it, or run again so that the index is listed anew"
            )
        places |= {kind: store.places() for kind, store in stores.items()}
    return places


def load_model(experiment: Experiment, spec: str, device: str, load: Loader) -> Backend:
    """The dense model or the encoder as the config has its pixels and its numbers."""
    models = experiment.config.models
    return load(spec, device=device, statistics=models.statistics, precision=models.precision)


def roles_by_model(experiment: Experiment) -> dict[str, set[Output]]:
    """What of `dense` and `encoder` each model, by its spec, has to give in one forward pass."""
    models = experiment.config.models
    roles: dict[str, set[Output]] = {}
    roles.setdefault(models.dense, set()).add("dense")
    roles.setdefault(models.encoder, set()).add("encoder")
    return roles


def compute_missing(
    model: Backend,
    stores: dict[Output, Store],
    items: Sequence[tuple[str, Path]],
    size: int,
    what: str,
    geometry: Geometry | None = None,
) -> dict[str, str]:
    """Encode the images that any store lacks, resized and cropped to `size` pixels.

    Args:
        stores: what the model gives -> where it is kept.
        items: (key, path) of every image that is needed.
        what: name of the stage in its progress.
        geometry: how pictures are resized and cropped instead of the model's own way.

    Returns:
        key -> reason, for images that cannot be read.
    """
    known = {kind: store.places().keys() for kind, store in stores.items()}
    todo = {key: path for key, path in items if any(key not in keys for keys in known.values())}
    LOG.info("%s: %d of %d images to compute", what, len(todo), len({key for key, _ in items}))
    bad: dict[str, str] = {}
    encoded = track(
        encode(model, load_images(todo.items(), model, size, bad, geometry), set(stores)),
        what,
        total=len(todo),
    )
    for shard in chunks(encoded, SHARD):
        for kind, store in stores.items():
            new = [(key, maps[kind]) for key, maps in shard if key not in known[kind]]
            if new:
                store.append([key for key, _ in new], np.stack([value for _, value in new]))
    return bad


def load_images(
    items: Iterable[tuple[str, Path]],
    model: Backend,
    size: int,
    bad: dict[str, str],
    geometry: Geometry | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Decode and preprocess (key, path) pairs in threads, ahead of the network.

    A file that cannot be read is left out; its key and the reason go into `bad`.
    """

    def prepare(item: tuple[str, Path]) -> tuple[str, np.ndarray | RecoError]:
        key, path = item
        try:
            image = read_image(path)
            if geometry:
                return key, model.preprocess(geometry.picture(image), crop=False)
            return key, model.preprocess(image, size)
        except RecoError as error:
            return key, error

    # As many as the network has threads: beside an accelerator they have nothing else to do, and
    # beside a CPU decoding is a small part of the work.
    workers = max(2, cpu_threads())
    for key, result in ahead(items, prepare, workers=workers, most=2 * BATCH):
        if isinstance(result, RecoError):
            bad[key] = str(result)
            LOG.warning("skipped: %s", result)
        else:
            yield key, result


def encode(
    model: Backend, loaded: Iterable[tuple[str, np.ndarray]], wanted: set[Output]
) -> Iterator[tuple[str, dict[Output, np.ndarray]]]:
    """Run the network over batches; yield the arrays that are wanted of each image."""
    for keys, pixels in batches(loaded, BATCH):
        outputs = model.encode(pixels, wanted)
        for i, key in enumerate(keys):
            yield key, {kind: values[i] for kind, values in outputs.items()}


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """Lists of `size` items, in order; the last may be shorter."""
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk

"""Model backends: a text says which network, one small protocol says what it gives.

A spec is `packaged`, `open_clip:<model>/<tag or checkpoint>`, `open_clip:local-dir:<folder>`,
`timm:<model>` or `timm:<model>/<checkpoint>`. Importing this module is cheap; `load` imports
torch and the one library that the spec needs.
"""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from reco.errors import RecoError, not_installed

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Output = Literal["global", "dense", "encoder"]
"""What a network can give for an image; see `Backend.encode`."""

Role = Literal["retrieval", "dense"]
"""Which space a text is embedded in: that of "global" or that of "dense"."""

Statistics = Literal["own", "imagenet"]
"""Which mean and standard deviation `Backend.preprocess` normalises pixels with."""

BACKENDS = ("packaged", "open_clip", "timm")
"""What a spec begins with: the names of the modules beside this one that hold a backend."""

LOCAL = "local-dir:"
SPECS = (
    "packaged, open_clip:<model>/<tag or checkpoint file>, open_clip:local-dir:<folder>, "
    "timm:<model> or timm:<model>/<checkpoint file>"
)


Precision = Literal["full", "half"]
"""Numbers that an image's forward pass multiplies: float32, or 16 bits on an accelerator."""


class Backend(Protocol):
    """A network (or a pair of an image and a text network) behind the roles of the method.

    Attributes:
        name: the spec it was loaded from.
        version: digest of the weights, the architecture and the preprocessing: what an embedding
            on disk depends on besides its image or sentence.
        outputs: what `encode` can give.
        templates: the sentences that suit the text network, with one `{}` each; empty where there
            is no text network.
    """

    name: str
    version: str
    outputs: frozenset[Output]
    templates: tuple[str, ...]

    def preprocess(
        self, image: "Image.Image", size: int | None = None, *, crop: bool = True
    ) -> "np.ndarray":
        """The network's input for one image: (3, H, W) float32, normalised.

        Args:
            image: any mode; it is converted to RGB.
            size: length of the shorter side after resizing; None = the network's own size when
                cropping, the image's own size when not.
            crop: cut the centre square of `size` (retrieval and archive images), or keep the
                whole picture (benchmark images, already cut by their `Geometry`).
        """
        ...

    def encode(self, images: "np.ndarray", wanted: Iterable[Output]) -> "dict[Output, np.ndarray]":
        """One forward pass for everything that is wanted.

        Args:
            images: (b, 3, H, W) stacked results of `preprocess`.
            wanted: a subset of `outputs`.

        Returns:
            float32, each image's values independent of the others:
            `global` (b, d) L2-normalised image embeddings; `dense` (b, d', h, w) features that
            align with text, not normalised; `encoder` (b, c, h, w) features to co-segment, not
            normalised.

        Raises:
            RecoError: something is wanted that the network cannot give.
        """
        ...

    def embed_texts(self, sentences: Sequence[str], role: Role) -> "np.ndarray":
        """(n, d) float32 L2-normalised embeddings, in the space of `global` or of `dense`.

        Raises:
            RecoError: there is no text network.
        """
        ...


Loader = Callable[..., Backend]
"""`load`, or a function like it that keeps what it has loaded."""


def load(
    spec: str,
    *,
    device: str = "cpu",
    folder: str | Path | None = None,
    statistics: Statistics = "own",
    precision: Precision = "full",
) -> Backend:
    """Load the model that `spec` names.

    Args:
        spec: see the module's docstring.
        device: where it runs.
        folder: where the packaged weights are kept; None = see `packaged.choose_folder`.
        statistics: what `preprocess` normalises pixels with: the network's `own` mean and standard
            deviation, or `imagenet`, which the released code gives to the encoder and to DenseCLIP
            alike. Where the two differ, so do the versions, and embeddings on disk do not mix.
        precision: `half` runs the forward pass of images in 16 bits (see `reco.models.half`), which
            accelerators are made for; it has a version of its own, too.

    Raises:
        RecoError: an unknown spec, model, tag or file; a checkpoint that does not fit; weights
            that could not be fetched.
    """
    if statistics not in get_args(Statistics):
        raise ValueError(f"statistics must be of {get_args(Statistics)}, not {statistics!r}")
    if precision == "half":
        from reco.models.half import Half

        return Half(_load(spec, device, folder, statistics, "torch"), device)
    if precision != "full":
        raise ValueError(f"precision must be of {get_args(Precision)}, not {precision!r}")
    return _load(spec, device, folder, statistics)


def _load(
    spec: str,
    device: str,
    folder: str | Path | None,
    statistics: Statistics,
    engine: str | None = None,
) -> Backend:
    """Args: engine: of the packaged model; see `packaged.load`."""
    kind, _, rest = spec.partition(":")
    if kind not in BACKENDS or (kind == "packaged") == bool(rest):
        raise RecoError(f"unknown model {spec!r}: write {SPECS}")
    # By name, so that the code of one backend is no dependency of what another one gives.
    try:
        module = import_module(f"reco.{backend(spec)}")
    except ModuleNotFoundError as error:
        raise not_installed(error) from None
    if kind == "packaged":
        return module.load(device=device, folder=folder, statistics=statistics, engine=engine)
    return module.load(rest, device=device, statistics=statistics)


def backend(spec: str) -> str:
    """Name of the module, below `reco`, of the network that a spec names; see `reco.code`."""
    kind = spec.partition(":")[0]
    return f"models.{kind}" if kind in BACKENDS else "models"


def keeping_loader() -> Loader:
    """`load` that loads each model once, however its options are written."""

    @cache
    def kept(spec: str, device: str, statistics: Statistics, precision: Precision) -> Backend:
        return load(spec, device=device, statistics=statistics, precision=precision)

    def loader(
        spec: str,
        *,
        device: str,
        statistics: Statistics = "own",
        precision: Precision = "full",
    ) -> Backend:
        return kept(spec, device, statistics, precision)

    return loader


def checkpoint_of(spec: str) -> Path | None:
    """The file or folder of a spec's weights; None where it names none.

    A tag of open_clip has the form of a file's name: only files that exist tell them apart.
    """
    kind, _, rest = spec.partition(":")
    if kind == "open_clip" and rest.startswith(LOCAL):
        return Path(rest.removeprefix(LOCAL))
    source = rest.partition("/")[2]
    return Path(source) if source and kind in ("open_clip", "timm") else None


def is_checkpoint(weights: str) -> bool:
    """Whether a text names a file of weights, be it there or not, rather than weights of a library,
    none of whose names has a dot or a slash."""
    return "/" in weights or "." in weights or Path(weights).is_file()


def check_wanted(name: str, wanted: Iterable[Output], outputs: frozenset[Output]) -> set[Output]:
    """`wanted` as a set, or RecoError naming what the model `name` cannot give."""
    wanted = set(wanted)
    if unknown := wanted - set(get_args(Output)):
        raise ValueError(f"wanted must be of {get_args(Output)}, not {sorted(unknown)}")
    if missing := wanted - outputs:
        raise RecoError(
            f"{name} has no {', '.join(sorted(missing))} output, only {', '.join(sorted(outputs))}:"
            " use another model in this role"
        )
    return wanted


def unknown_name(spec: str, what: str, given: str, known: Iterable[str]) -> RecoError:
    """The error for a name that a library does not know, with the nearest names it does."""
    known = sorted(known)
    near = get_close_matches(given, known, 3, 0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return RecoError(f"{spec}: unknown {what} {given!r}: {hint}")

"""`timm:<model>[/<checkpoint>]`: image encoders for co-segmentation, from timm.

A vision transformer gives the patch tokens of its last block after the final normalisation, a
convolutional network its last feature map. Without a checkpoint timm fetches its weights.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import interpolate

from reco.errors import RecoError
from reco.models import Output, Role, Statistics, check_wanted, unknown_name
from reco.models.checkpoints import digest, load_weights, place, read_checkpoint, to_arrays
from reco.models.preprocessing import Normalised, pixel_statistics
from reco.progress import LOG

WRAPPERS = {
    "module.encoder_q.": ("module.encoder_k.", "module.queue"),  # MoCo
    "teacher.backbone.": ("teacher.head.", "student."),  # DINO, all in one
    "module.backbone.": ("module.head.",),  # DINO's student, or its teacher on several machines
    "backbone.": ("head.",),  # DINO's teacher
    "module._orig_mod.": (),  # trained on several machines and compiled
    "module.": (),
    "_orig_mod.": (),
}
"""Prefix of a network within what it was trained in, and prefixes of what is left out beside it."""


def load(model: str, *, device: str = "cpu", statistics: Statistics = "own") -> "Encoder":
    """Load `<model>` or `<model>/<checkpoint>`.

    Raises:
        RecoError: an unknown model, weights that could not be fetched, or a checkpoint that does
            not fit.
    """
    spec = f"timm:{model}"
    name, _, checkpoint = model.partition("/")
    if not timm.is_model(name):
        raise unknown_name(spec, "timm model", name.partition(".")[0], timm.list_models())
    network: Any = _fetch(spec, name) if not checkpoint else timm.create_model(name, num_classes=0)
    if checkpoint:
        config = network.pretrained_cfg
        _warn_of_statistics(spec, name, config)
        state = backbone_weights(spec, read_checkpoint(checkpoint), config["classifier"])
        load_weights(network, state, spec)
    return Encoder(spec, place(network, device), statistics)


def backbone_weights(
    spec: str, state: Mapping[str, Tensor], classifier: str | Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of a checkpoint that belong to the network below its classifier.

    Of MoCo's two encoders the query encoder is taken, of DINO's two networks the teacher's
    backbone. The classifier's own layers, and what MoCo puts in their place (`fc.0`, `fc.2`), are
    left out. What is left out is logged by name; any other name stays, and `load_weights` refuses
    it. Prefixes that training on several machines or compilation put before all names go.
    """
    heads = [classifier] if isinstance(classifier, str) else classifier
    dropped = [f"{head}." for head in heads]
    for prefix, beside in WRAPPERS.items():
        if any(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            dropped += [other for other in beside if other not in dropped]
            break
    kept = {key: value for key, value in state.items() if not key.startswith(tuple(dropped))}
    for prefix in dropped:
        if names := [key for key in state if key.startswith(prefix)]:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            LOG.info("%s: left out of the checkpoint: %s%s", spec, ", ".join(names[:8]), more)
    return kept


def _warn_of_statistics(spec: str, name: str, config: Mapping[str, Any]) -> None:
    """Say what a local checkpoint's pixels are normalised with, where timm itself knows two ways.

    timm's `vit_small_patch16_224` stands for weights with mean 0.5; DINO's had ImageNet's.
    """
    if "." in name:
        return  # the tag says which
    own = config["mean"], config["std"]
    others = [
        other
        for other in timm.list_pretrained(f"{name}.*")
        if (known := timm.get_pretrained_cfg(other)) and (known.mean, known.std) != own
    ]
    if others:
        LOG.warning(
            "%s: pixels are normalised with mean %s and standard deviation %s, as for timm's %s.%s;"
            " if the checkpoint is of another kind, name it: timm:%s/<checkpoint>",
            spec,
            *own,
            name,
            config["tag"],
            "/<checkpoint> or timm:".join(others),
        )


class Encoder(Normalised):
    """A timm network as a `reco.models.Backend` that gives `encoder` features only."""

    outputs: frozenset[Output] = frozenset({"encoder"})
    templates: tuple[str, ...] = ()

    # Any: to nn.Module's own types, all that a network adds is `Tensor | Module`.
    def __init__(self, spec: str, network: Any, statistics: Statistics = "own") -> None:
        self.name, self.network = spec, network
        config = network.pretrained_cfg
        self.mean, self.std = pixel_statistics(statistics, config["mean"], config["std"])
        self.size = config["input_size"][-1]
        self.features: Callable[[Tensor], Tensor] = (
            VitFeatures(network) if _is_plain(network) else network
        )
        self.version = digest(
            network, architecture=config["architecture"], mean=self.mean, std=self.std
        )

    @torch.inference_mode()
    def encode(self, images: np.ndarray, wanted: Iterable[Output]) -> dict[Output, np.ndarray]:
        """See `reco.models.Backend.encode`.

        Raises:
            RecoError: also where the network knows one size of image only, and gets another.
        """
        check_wanted(self.name, wanted, self.outputs)
        pixels = torch.as_tensor(images).to(next(self.network.parameters()).device)
        if isinstance(self.features, VitFeatures):
            return to_arrays({"encoder": self.features(pixels)})
        maps = self._forward(pixels.to(memory_format=torch.channels_last))
        channels = self.network.num_features
        if not isinstance(maps, Tensor):  # of several branches
            raise self._no_map()
        if maps.ndim == 4 and maps.shape[1] != channels and maps.shape[3] == channels:
            maps = maps.permute(0, 3, 1, 2)  # Swin and its kin keep channels last
        if maps.ndim != 4 or maps.shape[1] != channels:
            raise self._no_map()
        return to_arrays({"encoder": maps})

    def _forward(self, images: Tensor) -> Any:
        """What the network gives; timm says which take one size only, of which some take more."""
        try:
            return self.network.forward_features(images)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:
            config, given = self.network.pretrained_cfg, tuple(images.shape[2:])
            own = tuple(config["input_size"][1:])
            if not config["fixed_input_size"] or given == own:
                raise
            raise RecoError(
                f"{self.name}: takes images of {own[0]} x {own[1]} pixels only, not {given[0]} x "
                f"{given[1]}: set sizes.archive and sizes.benchmark to {own[0]} and bank.scales "
                f"to [{own[0]}] where images are square, or use another encoder"
            ) from error

    def _no_map(self) -> RecoError:
        return RecoError(
            f"{self.name}: gives no (channels, height, width) map: use a convolutional network "
            "or a plain vision transformer"
        )

    def embed_texts(self, sentences: Sequence[str], role: Role) -> np.ndarray:
        """Raise RecoError: there is no text network."""
        raise RecoError(
            f"{self.name} is an image encoder and cannot embed text: use packaged or an open_clip "
            f"model for {role}"
        )


class VitFeatures:
    """Patch tokens of a vision transformer as a map, for any input size.

    The positional grid is resized as DINO and the released code do: bicubic, `align_corners=False`
    and no antialias, which timm's own resizing has. Rows and columns of pixels that fill no patch
    are cut off, as the released DeiT does (its DINO fills the patch up with zeros). The grid is
    left alone only where its shape fits; the released code leaves it wherever the *number* of
    patches does.
    """

    def __init__(self, network: VisionTransformer) -> None:
        network.patch_embed.strict_img_size = False
        self.network = _Tokens(network)

    def __call__(self, images: Tensor) -> Tensor:
        """(b, 3, H, W) -> (b, c, H // patch, W // patch)."""
        vit = self.network.vit
        patch = vit.patch_embed.patch_size
        rows, columns = images.shape[2] // patch[0], images.shape[3] // patch[1]
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        assert vit.pos_embed is not None
        grid = resize_positions(vit.pos_embed, vit.patch_embed.grid_size, (rows, columns), prefix)
        images = images[:, :, : rows * patch[0], : columns * patch[1]]
        tokens = functional_call(self.network, {"vit.pos_embed": grid}, (images,))
        patches = tokens[:, vit.num_prefix_tokens :]
        return patches.transpose(1, 2).unflatten(2, (rows, columns))


def _is_plain(network: nn.Module) -> bool:
    """Whether a network is a vision transformer over patches (ViTamin, say, begins otherwise)."""
    return (
        isinstance(network, VisionTransformer)
        and isinstance(network.patch_embed, PatchEmbed)
        and network.pos_embed is not None
    )


class _Tokens(nn.Module):
    """A transformer whose forward pass ends before the head, for `functional_call`."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        return self.vit.forward_features(images)


def resize_positions(
    embedding: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int
) -> Tensor:
    """Resize the grid of a positional embedding, bicubically and without antialias.

    Args:
        embedding: (1, prefix + old rows * old columns, c).
        old, new: (rows, columns).
        prefix: leading tokens without a place in the grid (class, distillation, registers).
    """
    if tuple(old) == tuple(new):
        return embedding
    grid = embedding[:, prefix:].transpose(1, 2).unflatten(2, tuple(old))
    grid = interpolate(grid, size=new, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([embedding[:, :prefix], grid.flatten(2).transpose(1, 2)], dim=1)


def _fetch(spec: str, name: str) -> nn.Module:
    """The network with the weights that timm has for it, fetched where they are not cached."""
    config = timm.get_pretrained_cfg(name)
    hub = f"huggingface.co/{config.hf_hub_id}" if config and config.hf_hub_id else None
    source = hub or (config.url if config else None)
    if not source:
        raise RecoError(f"{spec}: timm has no weights for it: write timm:{name}/<checkpoint>")
    LOG.warning("%s: weights from %s (or the cache of an earlier download)", spec, source)
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # whatever the hub's client, the network or the disk may raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecoError(
            f"{spec}: could not fetch the weights from {source} ({reason}): give a local file as "
            f"timm:{name}/<checkpoint>, or use packaged, which needs no download"
        ) from None

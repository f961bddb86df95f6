"""`open_clip:<model>/<tag or checkpoint>` and `open_clip:local-dir:<folder>`: CLIP and its kin.

The dense path is DenseCLIP, that is MaskCLIP (Zhou et al., 2022): the last layer that pools the
image into one vector is applied to every position instead, by its value and output projections
alone.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from reco.errors import RecoError
from reco.method.prompts import TEMPLATES
from reco.models import Output, Role, Statistics, check_wanted, unknown_name
from reco.models.checkpoints import (
    check_keys,
    check_state,
    digest,
    place,
    read_checkpoint,
    to_arrays,
)
from reco.models.preprocessing import Normalised, pixel_statistics
from reco.models.timm import resize_positions
from reco.progress import LOG

LOCAL = "local-dir:"
QUICK = "-quickgelu"
TEXT_BATCH = 256

OPENAI_SETTINGS = {"input_resolution", "context_length", "vocab_size"}
"""Numbers among the tensors of OpenAI's own archives; no other weights have them."""


def load(model: str, *, device: str = "cpu", statistics: Statistics = "own") -> "Clip":
    """Load `<model>/<tag>`, `<model>/<checkpoint file>` or `local-dir:<folder>`.

    A tag of weights that were trained with QuickGELU gets it; for a local file the model's name
    says so (`RN50x16-quickgelu`), and in a folder its config. A file of OpenAI's weights under a
    name that means GELU is refused where that can be told, and warned of where it may be.

    Raises:
        RecoError: an unknown model, tag or file, a checkpoint that does not fit, the wrong
            activation for OpenAI's weights, or a download that failed.
    """
    spec = f"open_clip:{model}"
    if model.startswith(LOCAL):
        name, checkpoint = model, _checkpoint_in(spec, Path(model.removeprefix(LOCAL)))
        settings: dict[str, object] = {}
    else:
        name, _, source = model.partition("/")
        if name not in open_clip.list_models():
            raise unknown_name(spec, "open_clip model", name, open_clip.list_models())
        settings = open_clip.get_pretrained_cfg(name, source) or {}
        checkpoint = _fetch(spec, name, source, settings) if settings else Path(source)
        if not checkpoint.is_file():
            tags = open_clip.list_pretrained_tags_by_model(name)
            raise unknown_name(spec, "tag or checkpoint file", source, tags)
        if not settings:
            _check_activation(spec, name, source)
    try:
        network = open_clip.create_model(
            name,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=bool(settings.get("quick_gelu")),
            force_preprocess_cfg={
                key: settings[key] for key in ("mean", "std") if settings.get(key)
            },
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # json and the hub's client raise
        raise _unusable(spec, checkpoint, error) from None
    _fill(spec, network, checkpoint)
    return Clip(spec, place(network, device), tokenizer, statistics)


def _check_activation(spec: str, name: str, source: str) -> None:
    """Refuse, or warn of, a local file under a name that means GELU whose weights want QuickGELU.

    Raises:
        RecoError: QuickGELU is what all weights have that open_clip knows of this model.
    """
    if name.endswith(QUICK) or name + QUICK not in open_clip.list_models():
        return
    tags = open_clip.list_pretrained_tags_by_model(name)
    quick = [tag for tag in tags if open_clip.get_pretrained_cfg(name, tag).get("quick_gelu")]
    if not quick:
        return
    twin = f"open_clip:{name}{QUICK}/{source}"
    if quick == tags:
        raise RecoError(
            f"{spec}: {name} means GELU, but the weights known of it ({', '.join(tags)}) were "
            f"trained with QuickGELU: write {twin}; or, for weights of your own that were not, "
            "open_clip:local-dir:<folder>, whose config says so"
        )
    LOG.warning(
        "%s: run with GELU; if these are the weights %s, which were trained with QuickGELU, "
        "write %s",
        spec,
        " or ".join(quick),
        twin,
    )


def _fill(spec: str, network: Any, checkpoint: Path) -> None:
    """Copy a checkpoint into a network: all of it, and nothing else.

    Raises:
        RecoError: it is unreadable, or of another architecture or activation.
    """
    try:
        keys = open_clip.load_checkpoint(network, str(checkpoint), strict=False, weights_only=True)
    except Exception as error:  # pickle, safetensors and torch all raise
        if isinstance(error, RuntimeError) and "size mismatch" in str(error):
            # torch names shapes only; say which names are missing and unexpected, too
            state = read_checkpoint(checkpoint)
            tensors = {key: state[key] for key in state.keys() - OPENAI_SETTINGS}
            check_state(network, tensors, spec)
        raise _unusable(spec, checkpoint, error) from None
    if not keys:  # open_clip returns {} for the one format whose loader checks by itself
        return
    found = OPENAI_SETTINGS & set(keys.unexpected_keys)
    check_keys(spec, keys.missing_keys, set(keys.unexpected_keys) - found)
    if found and not any(isinstance(module, QuickGELU) for module in network.modules()):
        raise RecoError(
            f"{spec}: {checkpoint} holds OpenAI's weights, which were trained with QuickGELU: "
            f"write the model's name with {QUICK} (in a folder's config: quick_gelu: true)"
        )
    # open_clip resizes positional embeddings that do not fit, which makes ViT-L-14 pass for
    # ViT-L-14-336 and a text network pass for one of another length.
    state = read_checkpoint(checkpoint)
    positions = {
        key: value
        for key, value in network.state_dict().items()
        if key.endswith("positional_embedding")
    }
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in positions.items()
        if key in state and state[key].shape != value.shape
    ]
    check_keys(spec, (), (), shapes)


class Clip(Normalised):
    """An open_clip model as a `reco.models.Backend`.

    `encoder` is the last feature map of a ResNet, before its attention pooling, and the patch
    tokens of a vision transformer after its last normalisation, as the paper has it of an image
    encoder. The released code, asked for the encoder `RN50`, gives what is `dense` here. Other
    image towers give `global` only.
    """

    templates = TEMPLATES

    # Any: to nn.Module's own types, all that a network adds is `Tensor | Module`.
    def __init__(
        self,
        spec: str,
        network: Any,
        tokenizer: Callable[[list[str]], Tensor],
        statistics: Statistics = "own",
    ) -> None:
        self.name, self.network, self.tokenizer = spec, network, tokenizer
        config = open_clip.get_model_preprocess_cfg(network)
        self.mean, self.std = pixel_statistics(statistics, config["mean"], config["std"])
        size = network.visual.image_size
        self.size = size[0] if isinstance(size, Sequence) else size
        dense = isinstance(network.visual, ModifiedResNet) or _is_plain_vit(network.visual)
        self.outputs: frozenset[Output] = frozenset(
            ("global", "dense", "encoder") if dense else ("global",)
        )
        # The repr names every layer with its settings, the activation (QuickGELU or not) included.
        self.version = digest(network, layers=repr(network), mean=self.mean, std=self.std)

    @torch.inference_mode()
    def encode(self, images: np.ndarray, wanted: Iterable[Output]) -> dict[Output, np.ndarray]:
        """See `reco.models.Backend.encode`.

        Raises:
            RecoError: also where `global` is wanted of a ResNet at another size than its own: its
                attention pooling knows no other.
        """
        wanted = check_wanted(self.name, wanted, self.outputs)
        visual = self.network.visual
        pixels = torch.as_tensor(images).to(next(visual.parameters()).device)
        if "global" in wanted and not _is_plain_vit(visual):
            if images.shape[2:] != (self.size, self.size):
                raise RecoError(
                    f"{self.name}: embeds images of {self.size} pixels only, not "
                    f"{tuple(images.shape[2:])}: set sizes.retrieval: {self.size}"
                )
        if isinstance(visual, ModifiedResNet):
            return to_arrays(_encode_resnet(visual, pixels, wanted))
        if _is_plain_vit(visual):
            return to_arrays(_encode_vit(visual, pixels, wanted))
        return to_arrays({"global": F.normalize(self.network.encode_image(pixels), dim=-1)})

    @torch.inference_mode()
    def embed_texts(self, sentences: Sequence[str], role: Role) -> np.ndarray:
        """See `reco.models.Backend.embed_texts`; both roles share one space."""
        device = next(self.network.parameters()).device
        found = [np.empty((0, self.network.visual.output_dim), np.float32)]
        for start in range(0, len(sentences), TEXT_BATCH):
            tokens = self.tokenizer(list(sentences[start : start + TEXT_BATCH])).to(device)
            found.append(self.network.encode_text(tokens, normalize=True).cpu().numpy())
        return np.concatenate(found)


def _encode_resnet(
    visual: ModifiedResNet, images: Tensor, wanted: set[Output]
) -> dict[Output, Tensor]:
    images = images.to(memory_format=torch.channels_last)
    last = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    found: dict[Output, Tensor] = {}
    if "encoder" in wanted:
        found["encoder"] = last
    if "dense" in wanted:
        found["dense"] = dense_resnet(visual, last)
    if "global" in wanted:
        found["global"] = F.normalize(visual.attnpool(last), dim=-1)
    return found


def dense_resnet(visual: ModifiedResNet, last: Tensor) -> Tensor:
    """DenseCLIP: c_proj(v_proj(feature)) at every position, no pooling, no positional embedding.

    Args:
        last: (b, c, h, w) last feature map.

    Returns:
        (b, d, h, w).
    """
    pool = visual.attnpool
    return pool.c_proj(pool.v_proj(last.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def _encode_vit(
    visual: VisionTransformer, images: Tensor, wanted: set[Output]
) -> dict[Output, Tensor]:
    patch = visual.patch_size
    grid = images.shape[2] // patch[0], images.shape[3] // patch[1]
    tokens = _embed_patches(visual, images, grid)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    found: dict[Output, Tensor] = {}
    if "dense" in wanted:
        found["dense"] = _as_map(dense_vit(visual, last, tokens), grid)
    if wanted & {"encoder", "global"}:
        tokens = last(tokens)
        if "encoder" in wanted:
            found["encoder"] = _as_map(visual.ln_post(tokens), grid)
        if "global" in wanted:
            pooled, _ = visual._pool(tokens)
            found["global"] = F.normalize(_project(visual, pooled), dim=-1)
    return found


def dense_vit(visual: VisionTransformer, block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """MaskCLIP for a vision transformer: the last block without attention between positions.

    Value and output projection of the last attention, the final normalisation and the projection
    into the space of text; the block's residual connection and perceptron are left out.

    Args:
        block: the last block.
        tokens: (b, 1 + patches, c) input of the last block.

    Returns:
        (b, 1 + patches, d).
    """
    attention = block.attn
    width = tokens.shape[-1]
    bias = None if attention.in_proj_bias is None else attention.in_proj_bias[2 * width :]
    value = F.linear(block.ln_1(tokens), attention.in_proj_weight[2 * width :], bias)
    return _project(visual, visual.ln_post(attention.out_proj(value)))


def _embed_patches(visual: VisionTransformer, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens before the first block, for any input size; see `resize_positions`."""
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(patches), 1, -1)
    positions = resize_positions(
        visual.positional_embedding[None], visual.grid_size, grid, len(first[0])
    )
    return visual.ln_pre(torch.cat([first, patches], dim=1) + positions)


def _project(visual: VisionTransformer, tokens: Tensor) -> Tensor:
    return tokens if visual.proj is None else tokens @ visual.proj


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(b, 1 + rows * columns, c) -> (b, c, rows, columns), the class token dropped."""
    return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)


def _is_plain_vit(visual: nn.Module) -> bool:
    """Whether it is CLIP's vision transformer: no attention pooling, ordinary last attention."""
    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and isinstance(visual.transformer.resblocks[-1].attn, nn.MultiheadAttention)
    )


def _checkpoint_in(spec: str, folder: Path) -> Path:
    """The weights in an exported folder (open_clip_config.json and a checkpoint)."""
    if not (folder / "open_clip_config.json").is_file():
        raise RecoError(f"{spec}: no open_clip_config.json in {folder}")
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise RecoError(f"{spec}: several checkpoints in {folder} ({names}): leave one")
        if found:
            return found[0]
    raise RecoError(f"{spec}: no checkpoint (.safetensors, .bin, .pt) in {folder}")


def _fetch(spec: str, name: str, tag: str, settings: dict) -> Path:
    """The file of a tag's weights, downloaded where it is not cached."""
    hub = settings.get("hf_hub")
    source = f"huggingface.co/{hub.rstrip('/')}" if hub else settings.get("url")
    LOG.warning("%s: weights from %s (or the cache of an earlier download)", spec, source)
    try:
        return Path(open_clip.download_pretrained(settings))
    except Exception as error:  # whatever the hub's client, the network or the disk may raise
        raise RecoError(
            f"{spec}: could not fetch the weights {tag!r} from {source} ({_first_line(error)}): "
            f"give a local file as open_clip:{name}/<checkpoint>, a folder as "
            "open_clip:local-dir:<folder>, or use packaged, which needs no download"
        ) from None


def _unusable(spec: str, checkpoint: Path, error: Exception) -> RecoError:
    return RecoError(
        f"{spec}: {checkpoint} cannot be used ({_first_line(error)}): give the safetensors or "
        "state dict of this very model; a TorchScript archive must be exported to one first"
    )


def _first_line(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip()
    return text[:200] if text else type(error).__name__

"""Checkpoints: weights as files hold them, and networks of PyTorch that are filled with them."""

import hashlib
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reco.errors import RecoError
from reco.files import check_digest, fingerprint, has_digest
from reco.models import Output
from reco.progress import LOG

Network = TypeVar("Network", bound=nn.Module)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name: safetensors, or a pickle that holds nothing but data.

    Pickles go through `torch.load(weights_only=True)`, so no code in them can run. A checkpoint
    that keeps its weights under `model` or `state_dict` is unwrapped; of one that holds a student
    and a `teacher` (DINO), the teacher is taken.

    A digest that lies beside it, as `write_digest` writes it, is compared first: a flipped bit
    would pass for another model, whose results mix with the right ones.

    Raises:
        RecoError: no such file, damaged, another format, or a pickle with more than tensors and
            plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise RecoError(f"{path}: no such checkpoint")
    if has_digest(path):
        check_digest(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # DeiT's and DINO's checkpoints carry their command line, a Namespace: data, as it happens.
        with torch.serialization.safe_globals([Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or refused pickle brings up nearly anything
        raise _unreadable(path, error) from None
    for key in ("model", "state_dict", "teacher"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            if key == "teacher":
                LOG.info("%s: the teacher's weights are taken", path)
            loaded = loaded[key]
    named = loaded.items() if isinstance(loaded, Mapping) else ()
    tensors = {key: value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise RecoError(f"{path}: holds no tensors by name")
    return tensors


def load_weights(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copy `state` into `model`; every tensor must have its place, and every place its tensor.

    Raises:
        RecoError: naming the missing and the unexpected keys and the shapes that differ.
    """
    check_state(model, state, what)
    model.load_state_dict(state)


def check_state(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Raise RecoError unless `state` has the names and shapes of the model's tensors."""
    wanted = model.state_dict()
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    check_keys(what, wanted.keys() - state.keys(), state.keys() - wanted.keys(), shapes)


def check_keys(what: str, missing: Any, unexpected: Any, shapes: Any = ()) -> None:
    """Raise RecoError if any of the three lists of keys holds something."""
    problems = [
        f"{len(keys)} {name} ({', '.join(sorted(keys)[:8])}{', ...' if len(keys) > 8 else ''})"
        for name, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if keys
    ]
    if problems:
        raise RecoError(f"{what}: the checkpoint does not fit the model: {'; '.join(problems)}")


def digest(model: nn.Module, **settings: Any) -> str:
    """Fingerprint of a network's weights and of the settings that shape its outputs."""
    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        weights.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        weights.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return fingerprint({"weights": weights.hexdigest(), **settings})


def place(model: Network, device: str | torch.device) -> Network:
    """The network ready for inference: evaluation mode, no gradients, channels last, float32."""
    model = model.eval().requires_grad_(False).float()
    return model.to(device).to(memory_format=torch.channels_last)


def to_arrays(outputs: Mapping[Output, Tensor]) -> dict[Output, np.ndarray]:
    """What a network gave, as float32 in main memory."""
    return {name: values.float().cpu().numpy() for name, values in outputs.items()}


def _unreadable(path: Path, error: Exception) -> RecoError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RecoError(
        f"{path}: not readable as a checkpoint ({reason}): give a safetensors file, or a .pt of "
        "tensors and plain data (a TorchScript archive must be exported to one first)"
    )

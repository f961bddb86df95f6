"""Checkpoint: all that a training needs to go on after it was killed."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from reco.files import atomic
from reco.progress import LOG

CHECKPOINT = 60  # seconds of training that a job that is killed loses at most, and a step


def write_checkpoint(
    path: Path, model: nn.Module, optimiser: torch.optim.Adam, rows: Sequence[Sequence[object]]
) -> None:
    """Write all that a training needs to go on: weights, moments, generators, rows of the curve.

    One safetensors file, so that it is whole or as it was; the rows are JSON in its header.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, values in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in values.items()}
    tensors["generator.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["generator.cuda"] = torch.cuda.get_rng_state()
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic(path) as temporary:
        temporary.write_bytes(save(kept, {"rows": json.dumps(rows)}))


def read_checkpoint_into(
    path: Path, model: nn.Module, optimiser: torch.optim.Adam
) -> list[list[object]]:
    """Bring a model, its optimiser and PyTorch's generators to where a checkpoint was written.

    Returns:
        the rows of the curve, one for each step that was taken; none where there is no checkpoint
        or it is damaged, and nothing was changed.
    """
    try:
        with safe_open(path, "pt") as file:
            rows = json.loads((file.metadata() or {})["rows"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        return []
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        LOG.warning("%s: damaged (%s): training starts anew", path, error)
        return []
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "generator": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    model.load_state_dict(parts["model"])
    parameters = [value for group in optimiser.param_groups for value in group["params"]]
    for name, value in parts["optimiser"].items():
        number, _, what = name.partition(".")
        parameter = parameters[int(number)]
        if value.dim():  # a moment lies in memory as its parameter does, as if never written
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        optimiser.state[parameter][what] = value
    torch.set_rng_state(parts["generator"]["cpu"])
    if torch.cuda.is_available() and "cuda" in parts["generator"]:
        torch.cuda.set_rng_state(parts["generator"]["cuda"])
    return rows

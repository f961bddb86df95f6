"""Where networks run."""

import torch

from reco.errors import RecoError


def resolve_device(wanted: str) -> str:
    """The device that `auto` stands for: cuda, else mps, else cpu; others are checked.

    Raises:
        RecoError: the device does not exist on this machine.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind = wanted.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise RecoError(f"device {wanted!r}: write auto, cpu, cuda, cuda:<number> or mps")
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise RecoError(f"device {wanted!r}: not on this machine: write auto or cpu")
    return wanted

"""Where networks run."""

import re

from reco.errors import RecoError

DEVICES = "auto, cpu, cuda, cuda:<number> or mps"


def check_device(wanted: str) -> str:
    """A device's name as it is; whether this machine has it, only `resolve_device` knows.

    Raises:
        RecoError: there is no such device.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", wanted, re.ASCII):
        raise RecoError(f"device {wanted!r}: write {DEVICES}")
    return wanted


def resolve_device(wanted: str) -> str:
    """The device that `auto` stands for: cuda, else mps, else cpu; others are checked.

    Raises:
        RecoError: the device does not exist on this machine.
    """
    import torch  # here, for configs are checked without it

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, number = check_device(wanted).partition(":")
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise RecoError(f"device {wanted!r}: not on this machine: write auto or cpu")
    if number and int(number) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RecoError(f"device {wanted!r}: this machine has {count}, from cuda:0 on: write cuda")
    return wanted

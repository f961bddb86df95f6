"""Where networks run, and where they ran: every job says so in its log."""

import os
import platform
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path

from reco.errors import RecoError, not_installed
from reco.progress import LOG

DEVICES = "auto, cpu, cuda, cuda:<number> or mps"
ONE_THREAD = {"limits": 1, "user_api": "blas"}
"""For `threadpool_limits`, around many small products: threads that share one wait for each other
longer than they work, ten times as long where other processes want the cores, too."""

GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA, NVIDIA in WSL, AMD
SAID = "networks run on %s (%s)"  # device, its name; `read_devices` looks for it


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

    The log is told, so that `read_devices` finds it.

    Raises:
        RecoError: the device does not exist on this machine.
    """
    device = _resolve(wanted)
    LOG.debug(SAID, device, _name(device))
    return device


def read_devices(logs: Iterable[Path]) -> dict[str, list[str]]:
    """Where networks ran, as jobs say in their logs: device -> its names, both in order."""
    said = re.compile(" " + re.escape(SAID).replace("%s", r"(\S+)", 1).replace("%s", "(.*)"))
    found: dict[str, set[str]] = {}
    for log in logs:
        with log.open(encoding="utf-8", errors="replace") as lines:
            for match in filter(None, map(said.search, lines)):
                found.setdefault(match[1], set()).add(match[2])
    return {device: sorted(found[device]) for device in sorted(found)}


def cpu_threads() -> int:
    """Threads that this job was given: OMP_NUM_THREADS, as Snakemake sets it, or every processor
    that it may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def user_cache() -> Path:
    """Where this user keeps what can be made again, outside any project."""
    return user_cache_path("reco")


def _resolve(wanted: str) -> str:
    kind, _, number = check_device(wanted).partition(":")
    if wanted == "cpu" or (wanted == "auto" and not _may_have_accelerator()):
        return "cpu"
    try:
        import torch  # here, for it takes seconds, and who has no accelerator needs none of it
    except ModuleNotFoundError as error:
        raise not_installed(error) from None

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise RecoError(f"device {wanted!r}: not on this machine: write auto or cpu")
    if number and int(number) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RecoError(f"device {wanted!r}: this machine has {count}, from cuda:0 on: write cuda")
    return wanted


def _may_have_accelerator() -> bool:
    """Whether it is worth to ask PyTorch: it is installed, and the system shows a GPU."""
    if find_spec("torch") is None:
        return False
    return sys.platform == "darwin" or any(map(os.path.exists, GPU_DEVICES))


def _name(device: str) -> str:
    """The model of a GPU, or the kind of processor."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()

"""Runtime: ONNX Runtime, which runs networks on CPUs faster than PyTorch and starts at once."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from reco.device import cpu_threads
from reco.errors import RecoError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def has_runtime() -> bool:
    """Whether ONNX Runtime is installed: for some Pythons and processors there are no wheels."""
    return find_spec("onnxruntime") is not None


def open_session(path: Path) -> "InferenceSession":
    """A network's graph, ready to run on as many threads as the job was given.

    Raises:
        RecoError: this ONNX Runtime or processor cannot run it.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpu_threads()
    options.log_severity_level = 3  # its warnings are for developers
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has a dozen exceptions of its own
        raise RecoError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot run it "
            f"({str(error).splitlines()[0]}): install a newer onnxruntime, or delete the file"
        ) from None

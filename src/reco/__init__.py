"""ReCo: retrieve and co-segment for zero-shot transfer (Shin, Xie, Albanie, NeurIPS 2022).

`reco.load("stamps").segment("photo.jpg", ["zebra", "bus"])`; see docs/api.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reco.segmenter import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # A job per concept imports this package, and must not wait for torch.
    if name == "load":
        from reco.segmenter import load

        return load
    raise AttributeError(f"module 'reco' has no attribute {name!r}")

"""ReCo: retrieve and co-segment for zero-shot transfer (Shin, Xie, Albanie, NeurIPS 2022).

`reco.load("stamps").segment("photo.jpg", ["zebra", "bus"])`; see docs/api.md.
"""

from typing import TYPE_CHECKING, Any

from reco import moved

if TYPE_CHECKING:
    from reco.photos.segmenter import load as load

__all__ = ["load"]

moved.install()


def __getattr__(name: str) -> Any:
    # A job per concept imports this package, and must not wait for torch.
    if name == "load":
        from reco.photos.segmenter import load

        return load
    raise AttributeError(f"module 'reco' has no attribute {name!r}")

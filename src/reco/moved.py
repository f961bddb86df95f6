"""Where public functions were before modules had rooms: `from reco.crf import dense_crf` works."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "reco.cosegment": "reco.method.cosegment",
    "reco.crf": "reco.method.crf",
    "reco.folder": "reco.data.folder",
    "reco.metrics": "reco.method.metrics",
    "reco.retrieve": "reco.method.retrieve",
    "reco.segment": "reco.method.segment",
}


class _Same(Loader):
    """Gives a module that has another name: one module, two names."""

    def __init__(self, module: str) -> None:
        self.module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        found = import_module(self.module)
        self.own = found.__spec__
        return found

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own  # which importlib has just replaced


class _Moved(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, _Same(MOVED[name])) if name in MOVED else None


def install() -> None:
    """Make the old names importable."""
    sys.meta_path.append(_Moved())

"""The config of an experiment: its keys in sections, their checks, and loading; see `config.py`."""

from reco.config.concepts import lists, read_concepts
from reco.config.config import Config
from reco.config.images import FolderBenchmark, FolderIndex, StampsBenchmark
from reco.config.loading import check_config, config_fingerprint, load
from reco.config.method import CRF
from reco.config.section import Section
from reco.config.train import Train

__all__ = [
    "CRF",
    "Config",
    "FolderBenchmark",
    "FolderIndex",
    "Section",
    "StampsBenchmark",
    "Train",
    "check_config",
    "config_fingerprint",
    "lists",
    "load",
    "read_concepts",
]

"""The config: defaults that agree everywhere, errors that say the remedy."""

import json
import re
from pathlib import Path

import pytest
import yaml

from reco.config import Config, check_config, load
from reco.errors import RecoError

ROOT = Path(__file__).parents[1]


def test_a_second_root_is_for_coco_stuff_alone():
    benchmark = {"kind": "cityscapes", "root": "/a", "train_root": "/b"}
    with pytest.raises(RecoError, match="train_root goes with kind: coco_stuff alone"):
        check_config({"benchmark": benchmark})


def test_experiments_do_not_take_shared_folders():
    with pytest.raises(RecoError, match="data/store is shared by all experiments"):
        check_config({"experiment": "store"})


def test_default_file_states_every_key_and_no_other():
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = check_config(values)
    stated = Config.model_validate(values).model_dump(mode="json")

    def keys(node):
        return {key: keys(value) for key, value in node.items()} if isinstance(node, dict) else None

    assert keys(values) == keys(stated) and config.experiment == "stamps"


def test_defaults_of_file_and_model_agree():
    """Only what suits small scenes on a laptop differs."""
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    ours, model = check_config(values).model_dump(), Config().model_dump()
    assert {key for key in model if ours[key] != model[key]} <= {"context", "crf", "sizes", "train"}


def test_schema_in_the_repository_is_the_model_s():
    schema = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    assert schema == Config.model_json_schema(), "run: reco schema"


def test_every_key_is_explained_to_people():
    text = (ROOT / "config/README.md").read_text()
    explained = set(re.findall(r"`([a-z_.]+)`", text))

    def paths(node, prefix=""):
        for key, value in node.items():
            yield f"{prefix}{key}"
            if isinstance(value, dict):
                yield from paths(value, f"{prefix}{key}.")

    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert set(paths(values)) <= explained


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"archive_siz": 5}, "unknown key 'archive_siz': did you mean 'archive_size'"),
        ({"crf": {"iteration": 5}}, "unknown key 'crf.iteration': did you mean 'iterations'"),
        ({"index": {"kind": "folder", "rot": "x"}}, "did you mean 'root'"),
        ({"archive_size": "many"}, "archive_size: "),
        ({"experiment": "../x"}, "experiment: "),
        ({"index": {"kind": "zip"}}, "index: "),
        ({"concepts": ["fire truck", "Fire Truck"]}, "fire-truck"),
        ({"archive_sizes": [0]}, "archive sizes are at least 1"),
        ({"qqq": 1}, "known keys here: archive_size"),
    ],
)
def test_mistakes_are_explained(values, message):
    with pytest.raises(RecoError) as error:
        check_config(values)
    assert message in str(error.value)


def test_files_are_layered(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "experiment: mine\ncrf: {iterations: 3}\nconcepts: [zebra, {name: bus, aliases: [coach]}]"
    )
    config = load(ROOT / "config/config.yaml", mine)
    assert (config.experiment, config.crf.iterations, config.crf.gaussian_compat) == ("mine", 3, 3)
    assert [concept.name for concept in config.concepts] == ["zebra", "bus"]


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\xff"])
def test_files_that_are_no_config(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecoError, match=r"bad\.yaml"):
        load(file)

"""The config: defaults that agree everywhere, errors that say the remedy."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Project, make_folder
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

import reco
from reco.config import Config, check_config, config_fingerprint, load, read_concepts
from reco.data.embeddings import description_of
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.files import read_yaml, write_json

ROOT = Path(__file__).parents[1]


def test_a_second_root_is_for_coco_stuff_alone():
    benchmark = {"kind": "cityscapes", "root": "/a", "train_root": "/b"}
    with pytest.raises(RecoError, match="train_root goes with kind: coco_stuff alone"):
        check_config({"benchmark": benchmark})


@pytest.mark.parametrize("folder", ["data/store", "results/benchmarks", "results/recorded"])
def test_experiments_do_not_take_shared_folders(folder):
    with pytest.raises(RecoError, match=f"{folder} is shared by all experiments"):
        check_config({"experiment": folder.partition("/")[2]})


def test_default_file_states_every_key_and_no_other():
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = check_config(values)
    stated = Config.model_validate(values).model_dump(mode="json")

    def keys(node):
        return {key: keys(value) for key, value in node.items()} if isinstance(node, dict) else None

    assert keys(values) == keys(stated) and config.experiment == "stamps"


def test_defaults_of_file_and_model_are_the_same():
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert check_config(values).model_dump() == Config().model_dump()


def test_photographs_are_not_scored():
    values = {"photos": "x", "concepts": ["zebra"], "train": {"iterations": 7}}
    config = check_config({**values, "benchmark": {"kind": "folder", "root": "x"}})
    assert config.benchmark is None and config.student is None and config.train.iterations == 7


MINE = """
experiment: mine
index: {kind: folder, root: photos, labels: null}
benchmark: null
concepts: [zebra, {name: phone, aliases: [mobile phone]}]
models: {precision: half}
bank: {size: 4}
crf: {iterations: 3}
train: {student: deeplab, lr: 1e-3}
"""


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Dumps of the config that one file makes, by the way that it comes in."""
    folder = tmp_path_factory.mktemp("ways")
    project = Project(folder / "checkout", data=folder)
    make_folder(folder, index=8, train=1, val=1)
    params = project.folder / "config/config.yaml"  # a copy of a checkout has no link
    values = yaml.safe_load(params.read_text())
    found = {}

    def run(name, command, cwd, read, **environment):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (file,) = cwd.glob(read)
        found[name] = read_yaml(file)
        file.unlink()

    merged = "data/mine/config/" + "[0-9a-f]" * 12 + ".json"
    plan = ["snakemake", "catalog", "--cores", "1", "--forceall", "--configfile", "mine.yaml"]
    record = ["reco.cli", "record", "--run", "run.json", "--merged", "merged.yaml"]
    with_file = [*record, "--config", "mine.yaml"]
    outside = folder / "outside"
    outside.mkdir()
    for place in (project.folder, outside):
        (place / "mine.yaml").write_text(MINE)
        (place / "photos").symlink_to(folder / "photos")
    run("snakemake", plan, project.folder, merged)
    # one who has changed the default experiment in place has not changed this one
    params.write_text(yaml.safe_dump({**values, "temperature": 3.0, "archive_size": 7}))
    run("snakemake beside other defaults", plan, project.folder, merged)
    run("reco in a checkout", with_file, project.folder, "merged.yaml")
    run("reco --config", with_file, outside, "merged.yaml")
    run("RECO_CONFIG", record, outside, "merged.yaml", RECO_CONFIG="mine.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(outside)
        embeddings = Path("data/mine/embeddings/index.npy")
        embeddings.parent.mkdir(parents=True)
        np.save(embeddings, np.zeros((60, 3), np.float16))
        write_json(description_of(embeddings), Experiment(load("mine.yaml"), "x").index)
        found["reco.load"] = reco.load(config="mine.yaml").config.model_dump(mode="json")
    return found


def test_a_config_file_is_one_experiment_whichever_way_it_comes_in(ways):
    assert len(ways) == 6
    first = ways["snakemake"]
    assert first["archive_size"] == 20 and first["recipe"] == "seedbank"
    assert first["crf"]["iterations"] == 3 and first["train"]["lr"] == 0.001
    assert {name: dump for name, dump in ways.items() if dump != first} == {}


@pytest.mark.parametrize("name", ["cityscapes", "encoders/clip_rn50", "retrieval/vit_b_32", "rare"])
def test_files_of_the_paper_mean_the_same_over_the_default_file(name):
    """As Snakemake had them when it laid a file over config.yaml, and has them now."""
    over = {"encoders": "pascal_context", "retrieval": "retrieval"}.get(name.partition("/")[0])
    paths = [ROOT / f"config/paper/{part}.yaml" for part in (over, name) if part]
    merged = {}
    for path in paths:
        update_config(merged, load_configfile(path))
    assert check_config(merged) == load(*paths) == load(ROOT / "config/config.yaml", *paths)


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
        ({"index": {"kind": "folder", "rot": "x"}}, "unknown key 'index.rot': did you mean 'root'"),
        ({"benchmark": {"kind": "folder", "rot": 1}}, "unknown key 'benchmark.rot': did you mean"),
        ({"crf": {"iteration": 5}}, "unknown key 'crf.iteration': did you mean 'iterations'"),
        ({"archive_size": "many"}, "archive_size: "),
        ({"experiment": "../x"}, "experiment: "),
        ({"index": {"kind": "zip"}}, "index: kind 'zip': write one of stamps, folder, imagenet"),
        ({"index": "/photos"}, "index: keys with values are wanted here, not '/photos'"),
        ({"concepts": ["fire truck", "Fire Truck"]}, "fire-truck"),
        ({"archive_sizes": [0]}, "archive sizes are at least 1"),
        ({"archive_sizes": 5}, "archive_sizes: a list is wanted here"),
        ({"archive_sizes": [10**9]}, "at most 10000"),
        ({"qqq": 1}, "known keys here: archive_size"),
        # words that YAML or Snakemake take for something else
        ({"concepts": [False, 42]}, "concepts: concept 1: False is no text, but what YAML makes"),
        ({"concepts": ["zebra", 42]}, "concepts: concept 2: 42 is no text, but a number"),
        ({"concepts": 7}, "in quotes in a file; on the command line write concepts='[...]'"),
        ({"concepts": "null"}, "concepts="),
        ({"concepts": {"zebra": 1}}, "concepts: a list of names is wanted"),
        ({"concepts": [{"name": "bus", "alias": "coach"}]}, "concept 1: unknown key 'alias': did"),
        ({"concepts": [{"name": "bus", "aliases": "coach"}]}, "concept 1: aliases: a list"),
        ({"context": [False]}, "context: concept 1: False is no text"),
        ({"photos": 20240501}, "in quotes in a file; on the command line write photos=./..."),
        ({"experiment": 2024}, "experiment: 2024 is no text, but a number or a date: put it in q"),
        ({"train": False}, "train: keys with values are wanted here, not False"),
        ({"seed": True}, "seed: True is no number"),
        # what no stage could use
        ({"context": [{"name": "bush", "reference": "tree"}]}, "context: 'bush': "),
        ({"photos": " "}, "photos: blank"),
        ({"device": "gpu"}, "device: 'gpu'"),
        ({"device": "cuda:x"}, "device: 'cuda:x'"),
        ({"seed": 2**70}, "seed: "),
        ({"temperature": float("inf")}, "temperature: "),
        ({"crf": {"tolerance": float("nan")}}, "crf.tolerance: "),
        ({"train": {"scale": [2, 1]}}, "train.scale: the least comes first: write [1, 2]"),
        ({"train": {"scale": [0, 1]}}, "train.scale.0: "),
        ({"train": {"size": 10**9}}, "train.size: "),
        ({"train": {"batch": 10**9}}, "train.batch: "),
        ({"train": {"iterations": 10**9}}, "train.iterations: "),
        ({"sizes": {"archive": 10**9}}, "sizes.archive: "),
        ({"stamps": {"index": 10**9}}, "stamps.index: "),
        ({"archive_size": 10**9}, "archive_size: "),
        ({"models": {"dense": ""}}, "models.dense: "),
        ({"compare": {"../x": "a"}}, "compare: '../x' is no name"),
    ],
)
def test_mistakes_are_explained(values, message):
    with pytest.raises(RecoError) as error:
        check_config(values)
    assert message in str(error.value)
    lines = str(error.value).splitlines()
    assert all(line.startswith("config: ") for line in lines) and "lax" not in str(error.value)


@pytest.mark.parametrize("split", ["", " ", "../x", "/x", "a\\b", "a//b", "a/../b", "x/", "\n"])
def test_a_split_is_a_folder_below_images(split):
    benchmark = {"kind": "folder", "root": "x", "train": split}
    with pytest.raises(RecoError, match=r"^config: benchmark\.train: .*\Z"):
        check_config({"benchmark": benchmark})


@pytest.mark.parametrize(("train", "val"), [("val", "val"), ("a", "a/b"), ("a/b", "a")])
def test_splits_share_nothing(train, val):
    benchmark = {"kind": "folder", "root": "x", "train": train, "val": val}
    with pytest.raises(RecoError, match=r"benchmark: train .* share images"):
        check_config({"benchmark": benchmark})
    check_config({"benchmark": benchmark, "train": None})  # nothing is learned from either


def test_ordinary_values_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").mkdir()
    benchmark = {"kind": "folder", "root": "x", "train": "a/train", "val": "été 2024"}
    config = check_config({"device": "cuda:1", "seed": 2**63 - 1, "benchmark": benchmark})
    assert config.benchmark.val == "été 2024"
    assert check_config({"photos": 2024}).photos == Path("2024")
    assert [concept.name for concept in check_config({"context": "sky, sea"}).context] == [
        "sky",
        "sea",
    ]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(Config.model_fields)), PLAIN)
def test_any_value_of_any_key_is_taken_or_explained(key, value):
    try:
        check_config({key: value})
    except RecoError as error:
        assert key in str(error)
        assert all(line.startswith("config: ") for line in str(error).splitlines())


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": [2, 0.5]}, r"config: train\.scale: the least comes first: write \[0\.5, 2\]"),
        ({"scale": [0, 1]}, r"config: train\.scale\.0: .*greater than 0"),
        ({"jitter": 9}, r"config: train\.jitter: .*less than or equal to 2"),
    ],
)
def test_augmentation_that_nothing_can_draw_is_refused(values, message):
    with pytest.raises(RecoError, match=f"^{message}$"):
        check_config({"train": values})


# ---- files of concepts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", "- zebra\n- {name: bus, aliases: [coach]}\n"),
        ("C.YML", "[zebra, bus]"),
        ("names.txt", "\ufeffzebra\r\n\r\n  bus \r\n"),
        ("Names.TXT", "zebra\nbus"),
    ],
)
def test_files_of_concepts(tmp_path, name, text):
    file = tmp_path / name
    file.write_bytes(text.encode())
    assert [concept.name for concept in read_concepts(file)] == ["zebra", "bus"]
    assert check_config({"concepts": str(file)}).concepts == read_concepts(file)
    assert Config(concepts=file).concepts == read_concepts(file)


def test_a_config_holds_what_its_file_of_concepts_lists(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("zebra\nbus")
    config = check_config({"concepts": f" {file} "})
    first = config_fingerprint(config)
    assert first == config_fingerprint(check_config({"concepts": ["zebra", "bus"]}))
    written = config.model_dump(mode="json")
    file.write_text("zebra\ntram")  # as somebody may during a run
    assert [concept["name"] for concept in written["concepts"]] == ["zebra", "bus"]
    assert check_config(written) == config and config_fingerprint(config) == first
    assert config_fingerprint(check_config({"concepts": str(file)})) != first


def test_a_file_of_concepts_that_fails_is_named_with_its_key(tmp_path):
    with pytest.raises(RecoError, match=r"^config: concepts: .*names\.txt: no such file$"):
        check_config({"concepts": str(tmp_path / "names.txt")})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("c.yaml", b"- zebra\n- {name: bus, alias: coach}", "concept 2: unknown key 'alias': did "),
        ("c.yaml", b"- zebra\n- no", "concept 2: False is no text"),
        ("c.yaml", b"[42]", "concept 1: 42 is no text"),
        ("c.yaml", b"- ", "concept 1: text is wanted here, not null"),
        ("c.yaml", b"zebra: 1", "a list of names is wanted, as in [zebra, bus], not a mapping"),
        ("c.yaml", b"zebra", "a list of names is wanted"),
        ("c.yaml", b"", "names no concept"),
        ("c.yaml", b"# nothing", "names no concept"),
        ("c.yaml", b"- zebra\n- [", "not valid YAML: line 2: "),
        ("c.yaml", b"- 2024-13-45", "not valid YAML: "),
        ("c.yaml", b"[" * 5000, "not valid YAML: "),
        ("c.yaml", b"\x89PNG\r\n\x1a\n\0\xff", "UTF-8"),
        ("c.txt", b"\n \n", "names no concept"),
        ("c.txt", b"zebra\nZebra", "both shorten to 'zebra'"),
        ("c.txt", "zébra".encode("latin-1"), "UTF-8"),
    ],
)
def test_files_that_list_no_concepts(tmp_path, name, data, message):
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(RecoError) as error:
        read_concepts(file)
    assert str(error.value).startswith(f"{file}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_of_concepts_that_are_not_there(tmp_path):
    with pytest.raises(RecoError, match=r"names\.txt: no such file"):
        read_concepts(tmp_path / "names.txt")
    with pytest.raises(RecoError, match="a folder, not a file"):
        read_concepts(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.text("-[]{}:&*! \n#'\"0x.~?")
)
@example("- &a [*a]")
@example("- !!bool x")
@example("? [a]")
def test_any_text_is_read_as_yaml_or_explained(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(text, newline="")
    for read in (read_yaml, read_concepts, load):
        try:
            read(file)
        except RecoError as error:
            assert "\nconfig" in str(error) or len(str(error).splitlines()) == 1

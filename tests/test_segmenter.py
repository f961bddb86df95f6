"""Segmenter, doubt, background, photographs: words in, masks out, with a model of colours."""

import errno
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from colours import Colours
from conftest import SHAPES, draw_scene, make_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from torchvision import datasets

import reco
import reco.photos.folder
from reco import cli, models
from reco.concepts import parse_concepts
from reco.config import check_config
from reco.data.folder import survey
from reco.data.imagenet import vocabulary
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.experiment import Experiment
from reco.method.background import threshold
from reco.method.doubt import doubt
from reco.method.refine import largest
from reco.photos.folder import choose_out, find_photos, prepare_out, segment_photos
from reco.photos.picture import as_picture, fit
from reco.photos.result import Segmentation
from reco.photos.segmenter import Segmenter, load

CONFIG = {
    "experiment": "colours",
    "device": "cpu",
    "benchmark": None,
    "recipe": "paper",
    "context": ["ground"],
    "sizes": {"retrieval": 96, "archive": 96, "benchmark": 96},
    "archive_size": 3,
    "archive_sizes": [],
    "models": {role: "colours:discs" for role in ("retrieval", "dense", "encoder")},
    "crf": {"iterations": 2},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    make_folder(folder, index=16)
    return folder


@pytest.fixture
def model(monkeypatch, tmp_path) -> Colours:
    """Loaded instead of any network, in an empty project."""
    colours = Colours()
    monkeypatch.setattr(models, "load", lambda spec, **options: colours)
    monkeypatch.chdir(tmp_path)
    return colours


@pytest.fixture
def segmenter(model, photos) -> Segmenter:
    return load(index=photos / "photos", config=check_config(CONFIG))


def scene(photos: Path, number: int = 0) -> tuple[Path, np.ndarray]:
    """A photograph and its label ids, 255 = ground."""
    mask = photos / f"bench/masks/val/{number}.png"
    return photos / f"bench/images/val/{number}.jpg", np.array(Image.open(mask))


# ---- words to masks ---------------------------------------------------------------------------


def test_words_are_found_where_they_are(segmenter, photos):
    for number in range(4):
        path, truth = scene(photos, number)
        found = segmenter.segment(path, list(SHAPES), background=True, crf=False)
        truth = np.where(truth == 255, -1, truth.astype(int))
        assert found.labels.shape == truth.shape
        assert (found.labels == truth).mean() > 0.9
        assert not found.remarks


def test_without_background_every_pixel_is_one_of_the_words(segmenter, photos):
    path, _ = scene(photos)
    found = segmenter.segment(path, "orange, lemon, broccoli")
    assert found.labels.min() >= 0
    assert sum(found.shares.values()) == pytest.approx(1)


def test_one_word_alone_does_not_take_all(segmenter, photos):
    path, truth = scene(photos)
    name = list(SHAPES)[int(truth[truth < 255][0])]
    share = segmenter.segment(path, name).shares[name]
    assert 0 < share < 0.5
    assert segmenter.segment(path, name, background=False).shares[name] == 1


def test_a_second_word_does_not_compute_the_index_again(segmenter, model, photos):
    path, _ = scene(photos)
    segmenter.segment(path, "orange")
    before = model.images
    segmenter.segment(path, "orange")
    assert model.images == before + 1, "nothing but the photograph"
    segmenter.segment(path, "lemon")
    # its archive, at most, and the photograph
    assert model.images <= before + 2 + CONFIG["archive_size"]


def test_another_process_reuses_what_was_learned(segmenter, model, photos):
    segmenter.learn("orange")
    images = model.images
    again = load(index=photos / "photos", config=check_config(CONFIG))
    again.learn("orange")
    assert model.images == images


def test_a_new_word_leaves_the_files_of_others_alone(segmenter):
    segmenter.learn("orange")
    files = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*.*") if path.is_file()}
    segmenter.learn("orange, lemon")
    changed = [path for path, time in files.items() if path.stat().st_mtime_ns != time]
    assert changed == []


def test_the_index_is_embedded_again_when_its_files_change(model, tmp_path):
    make_folder(tmp_path / "mine", index=8)
    index, config = tmp_path / "mine/photos", check_config(CONFIG)
    old = load(index=index, config=config).learn("orange")[0]
    before = model.images
    load(index=index, config=config)
    assert model.images == before
    picture = Image.new("RGB", (96, 96), SHAPES["orange"])
    picture.save(index / "new.png")
    new = load(index=index, config=config).learn("orange")[0]
    assert "new.png" not in [image.path.name for image in old.archive]
    assert new.archive[0].path.name == "new.png", "what was learned from the old index is not kept"


def test_what_is_up_to_date_is_told_by_content_not_by_time(segmenter, model, photos):
    """An index from a machine whose clock is ahead; an archive that was emptied, and put back."""
    (old,) = segmenter.learn("orange")

    def learn():
        return load(index=photos / "photos", config=check_config(CONFIG)).learn("orange")[0]

    (index,) = Path("data").glob("*/embeddings/index.npy")
    os.utime(index, (4e9, 4e9))
    times = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*.*") if path.is_file()}
    assert learn().mark == old.mark
    assert [path for path, time in times.items() if path.stat().st_mtime_ns != time] == []

    (archive,) = Path("data").glob("*/archives/orange.*.csv")
    whole = archive.read_bytes()
    for content in (b"", b"rank,path,key,similarity,index\n", whole.splitlines()[0]):
        archive.write_bytes(content)
        new = learn()
        assert new.mark == old.mark and archive.read_bytes() == whole
        assert [image.path for image in new.archive] == [image.path for image in old.archive]


@pytest.mark.parametrize("part", ["text", "archives", "features", "references"])
def test_a_file_of_a_word_that_was_emptied_is_made_again(segmenter, photos, part):
    (old,) = segmenter.learn("orange")
    for file in Path("data").glob(f"*/{part}/*.*"):
        file.write_bytes(b"")
    (new,) = load(index=photos / "photos", config=check_config(CONFIG)).learn("orange")
    assert new.mark == old.mark
    np.testing.assert_array_equal(new.references[0], old.references[0])


def test_masks_of_another_index_are_not_kept(model, photos, tmp_path):
    make_folder(tmp_path / "mine", index=8)
    index, folder = tmp_path / "mine/photos", photos / "bench/images/val"

    def segment():
        segmenter = load(index=index, config=check_config(CONFIG))
        before = model.images
        segment_photos(segmenter, find_photos([folder]), "orange, lemon", tmp_path / "out")
        return model.images - before

    assert segment() >= 4 and segment() == 0
    for number in range(3):
        Image.new("RGB", (96, 96), SHAPES["orange"]).save(index / f"new {number}.png")
    assert segment() >= 4, "another index, other masks"


def test_masks_say_which_index_they_are_of(model, photos, tmp_path, monkeypatch):
    """Also where the archives, the references and the thresholds are the same by chance."""
    monkeypatch.setattr("reco.photos.learned.bounds", lambda own, other: (0.1, 0.3))
    make_folder(tmp_path / "mine", index=8)
    index, folder = tmp_path / "mine/photos", photos / "bench/images/val"

    def segment():
        segmenter = load(index=index, config=check_config(CONFIG))
        (learned,) = segmenter.learn("orange")
        segmenter.segment(folder / "0.jpg", "orange")  # computes what is drawn from the index
        before = model.images
        segment_photos(segmenter, find_photos([folder]), "orange", tmp_path / "out")
        return [image.path for image in learned.archive], model.images - before

    first = segment()
    assert first[1] == 4 and segment() == (first[0], 0)
    Image.new("RGB", (96, 96), (120, 120, 120)).save(index / "grey.png")
    assert segment() == first, "another index, other masks, though nothing of it is in the archive"


RECIPES = ({}, {"recipe": "seedbank", "bank": {"size": 3, "scales": [96, 128]}})


@pytest.mark.parametrize("recipe", RECIPES, ids=["paper", "seedbank"])
def test_a_concept_that_takes_over_a_reference_is_learned_as_any_other(model, photos, recipe):
    concepts = [{"name": "soil", "reference": "ground"}, "orange"]
    config = check_config({**CONFIG, **recipe, "concepts": concepts})

    def learn():
        return load(index=photos / "photos", config=config).learn("soil, ground, orange")

    soil, ground, orange = learn()
    for side, reference in soil.references.items():
        np.testing.assert_array_equal(reference, ground.references[side])
        assert not np.array_equal(reference, orange.references[side])
    (text,) = Path("data").glob("*/text/soil.*")
    whole = text.read_bytes()
    text.unlink()
    times = {path: path.stat().st_mtime_ns for path in Path("data").rglob("*.*") if path.is_file()}
    assert [item.mark for item in learn()] == [soil.mark, ground.mark, orange.mark]
    assert text.read_bytes() == whole
    assert [path for path, time in times.items() if path.stat().st_mtime_ns != time] == []


def test_copies_in_an_index_count_once(model, tmp_path):
    make_folder(tmp_path / "mine", index=8)
    index = tmp_path / "mine/photos"
    Image.new("RGB", (96, 96), SHAPES["orange"]).save(index / "a.png")
    for number in range(20):
        (index / f"z {number}.png").write_bytes((index / "a.png").read_bytes())
    (learned,) = load(index=index, config=check_config(CONFIG)).learn("orange")
    contents = [image.path.read_bytes() for image in learned.archive]
    assert len(set(contents)) == len(contents) == CONFIG["archive_size"]
    assert learned.archive[0].path.name == "a.png"
    (skipped,) = Path("data").glob("*/embeddings/skipped.csv")
    rows = read_table(skipped)
    assert len(rows) == 20 and {row["reason"] for row in rows} == {"the same file as a.png"}


def test_a_small_index_makes_small_archives(model, tmp_path):
    make_folder(tmp_path / "mine", index=2)
    segmenter = load(index=tmp_path / "mine/photos", config=check_config(CONFIG))
    assert len(segmenter.learn("orange")[0].archive) == 2


def test_aliases_of_the_config_hold_for_its_names(model, photos):
    concepts = [{"name": "Satsuma", "aliases": ["orange"], "prompts": ["orange"]}]
    config = check_config({**CONFIG, "concepts": concepts})
    segmenter = load(index=photos / "photos", config=config)
    assert segmenter.concepts("satsuma, lemon")[0].prompts == ("orange",)
    assert segmenter.learn("satsuma")[0].doubt == ""


def test_an_archive_shows_seeds_on_the_thing(segmenter):
    for image in segmenter.learn("lemon")[0].archive:
        pixels = np.array(Image.open(image.path).convert("RGB"), float)
        row, column = (
            int(share * side) for share, side in zip(image.seed, pixels.shape, strict=False)
        )
        assert np.abs(pixels[row, column] - SHAPES["lemon"]).max() < 40


def test_an_experiment_without_an_index_says_what_to_run(model):
    Path("results/mine").mkdir(parents=True)
    Path("results/mine/config.yaml").write_text("experiment: mine\n")
    with pytest.raises(RecoError, match="snakemake --cores all data/mine/embeddings/index"):
        load("mine")
    with pytest.raises(RecoError, match=r"no experiment 'other' here; known: mine"):
        reco.load("other")
    with pytest.raises(RecoError, match="no such folder"):
        load(index="nowhere", config=check_config(CONFIG))
    Path("empty").mkdir()
    with pytest.raises(RecoError, match="holds no photographs"):
        load(index="empty", config=check_config(CONFIG))


@pytest.mark.parametrize(
    "changes",
    [{"models": {**CONFIG["models"], "retrieval": "colours:rings"}}, {"sizes": {"retrieval": 128}}],
    ids=["model", "size"],
)
def test_an_index_of_another_model_or_size_is_refused(model, photos, changes):
    config = load(index=photos / "photos", config=check_config(CONFIG)).config
    assert load(config=config).config == config
    values = {**config.model_dump(mode="json", exclude_none=True), "benchmark": None}
    values |= {key: {**values[key], **change} for key, change in changes.items()}
    found, wanted = config, check_config(values)
    with pytest.raises(RecoError) as error:
        load(config=wanted)
    said = str(error.value)
    for known in (found, wanted):
        assert f"{known.models.retrieval} at {known.sizes.retrieval}" in said
    made = Experiment(wanted).embeddings
    assert said.startswith(f"{made}: ") and f"snakemake --cores all {made}" in said
    assert "\n" not in said


# ---- doubt ------------------------------------------------------------------------------------


def test_a_word_in_doubt_gets_no_pixel_and_a_sentence(segmenter, photos):
    path, _ = scene(photos)
    found = segmenter.segment(path, "orange, xqzt")
    assert found.shares["xqzt"] == 0 and "'xqzt' fits all images" in found.remarks["xqzt"]
    assert found.maps.shape[0] == 2
    with pytest.raises(RecoError, match="xqzt"):
        segmenter.segment(path, "xqzt")
    assert segmenter.segment(path, "xqzt", doubtful=True, background=False).shares["xqzt"] == 1


def test_doubt_names_what_fits_better():
    images = np.eye(8, dtype=np.float32)[[0, 0, 1, 1, 2]]
    text = np.full(8, 0.1, np.float32)
    others = np.concatenate([np.tile(np.eye(8, dtype=np.float32)[:3], (6, 1)), np.eye(8)[5:]])
    names = [f"name {i}" for i in range(len(others))]
    sample = np.zeros(10, np.float32)
    said = doubt("teapot", images, images @ text, others, names, sample)
    assert said.startswith("no image of this index looks like 'teapot'") and "'name 0'" in said
    # four other names for the same thing are no reason to doubt
    assert doubt("bus", images, np.full(5, 0.9), others[:12], names[:12], sample) == ""


def test_the_vocabulary_is_of_short_different_names():
    names = vocabulary()
    assert len(names) == len(set(names)) > 900 and {"zebra", "teapot"} <= set(names)


# ---- background -------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.floats(0.05, 0.4))
def test_the_threshold_parts_what_is_apart(seed, gap):
    rng = np.random.default_rng(seed)
    others = rng.uniform(0.2, 0.3, (20, 49))
    archive = rng.uniform(0.2, 0.3, (8, 49))
    archive[:, 5] = 0.3 + gap
    assert 0.3 - 0.02 < threshold(archive, others) < 0.3 + gap


# ---- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("zebra", ["zebra"]),
        ("fire truck,zebra , ,teapot", ["fire truck", "zebra", "teapot"]),
        (["zebra", "Zebra", "zebra"], ["zebra"]),
        (["a,b", "c"], ["a", "b", "c"]),
        ("😀", ["😀"]),
        ("naïve, 斑马", ["naïve", "斑马"]),
    ],
)
def test_words_that_people_type(words, names):
    concepts = parse_concepts(words)
    assert [concept.name for concept in concepts] == names
    assert len({concept.slug for concept in concepts}) == len(names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no concept was given"),
        (" , ", "no concept was given"),
        ([], "no concept was given"),
        ("x" * 500, "at most 200 characters"),
        ("two\nlines", "one line"),
        ("fire truck, fire-truck", "both shorten to"),
    ],
)
def test_words_that_are_none(words, message):
    with pytest.raises(RecoError, match=message):
        parse_concepts(words)


# ---- pictures of every kind -------------------------------------------------------------------


@pytest.mark.parametrize(
    "array",
    [
        np.full((40, 30), 200, np.uint8),
        np.full((40, 30), 200 * 256, np.uint16),
        np.full((40, 30, 3), 200, np.uint8),
        np.dstack([np.full((40, 30, 3), 200, np.uint8), np.full((40, 30), 255, np.uint8)]),
    ],
)
def test_arrays_become_pictures(array):
    picture = as_picture(array)
    assert picture.mode == "RGB" and picture.size == (30, 40)
    assert np.asarray(picture)[0, 0].tolist() == [200] * 3


@pytest.mark.parametrize(
    "array",
    [
        *(np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))),
        *(np.ones(3), np.ones((4, 4), bool), None, b"photo.jpg", 7, ["photo.jpg"]),
        *(np.full((4, 4), 200, dtype) for dtype in ("i2", "i4", "i8", "u4", "u8")),
    ],
)
def test_arrays_that_are_no_pictures(array):
    """Of whole numbers of other types nobody knows the range: read as 16 bits, 200 was black."""
    with pytest.raises(RecoError, match="is no picture"):
        as_picture(array)


def test_a_picture_of_pillow_without_a_range_is_refused_in_a_line():
    with pytest.raises(RecoError, match=r"^this picture: values from 300"):
        as_picture(Image.fromarray(np.full((4, 4), 300, np.float32)))


@pytest.mark.parametrize("size", [(3000, 20), (20, 3000), (1, 1), (5000, 1), (640, 480)])
def test_long_strips_stay_small(size):
    width, height = fit(Image.new("RGB", size), 96).size
    assert width * height <= 96 * 96 * 4.5 and min(width, height) >= 32


def test_odd_photographs_get_masks_of_their_size(segmenter):
    rng = np.random.default_rng(3)
    picture = draw_scene(rng)[0]
    for odd in (picture.resize((401, 97)), picture.resize((33, 500)), Image.new("RGB", (1, 1))):
        found = segmenter.segment(odd, "orange, lemon")
        assert found.labels.shape == odd.size[::-1]


def make_odd_files(folder: Path) -> None:
    picture = draw_scene(np.random.default_rng(5))[0]
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.quantize(16).save(folder / "palette.png")
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(
        folder / "deep.png"
    )
    turned = picture.resize((120, 60))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "turned.jpg", exif=exif)
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is no photograph")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.new("1", (30000, 20000)).save(folder / "bomb.png")
    (folder / "gone.png").symlink_to("nowhere.png")


def test_a_folder_of_odd_files_goes_on_past_the_bad_ones(segmenter, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    make_odd_files(folder)
    out = tmp_path / "out"
    failed = dict(segment_photos(segmenter, find_photos([folder]), "orange, lemon", out))
    assert failed.keys() == {"empty.jpg", "text.jpg", "bomb.png", "gone.png"}
    assert all("\n" not in reason for reason in failed.values())
    masks = {path.name: Image.open(path) for path in (out / "masks").glob("*.png")}
    assert masks.keys() == {"cmyk.png", "palette.png", "deep.png", "turned.png", "moving.png"}
    assert masks["turned.png"].size == (60, 120), "upright"


# ---- what is written --------------------------------------------------------------------------


def test_masks_overlays_and_run_lengths_agree(segmenter, photos, tmp_path):
    folder = photos / "bench/images/val"
    words = list(SHAPES)
    assert (
        segment_photos(segmenter, find_photos([folder]), words, tmp_path / "out", crf=False) == []
    )
    assert (tmp_path / "out/overview.png").exists() and (tmp_path / "out/archives.png").exists()
    for number in range(4):
        mask = np.array(Image.open(tmp_path / f"out/masks/{number}.png"))
        file = tmp_path / f"out/coco/{number}.json"
        loaded = COCO(str(file))
        seen = np.full(mask.shape, 255, np.uint8)
        assert loaded.getAnnIds() == loaded.getAnnIds(iscrowd=False)
        for entry in loaded.loadAnns(loaded.getAnnIds()):
            assert np.array_equal(loaded.annToMask(entry), mask == entry["category_id"] - 1)
            run = {**entry["segmentation"], "counts": entry["segmentation"]["counts"].encode()}
            seen[coco.decode(run) == 1] = entry["category_id"] - 1
            assert entry["area"] == coco.decode(run).sum()
        assert np.array_equal(seen, mask)
        with Image.open(tmp_path / f"out/overlays/{number}.jpg") as overlay:
            assert overlay.width == mask.shape[1] and overlay.height > mask.shape[0]


def test_a_loader_of_training_data_takes_the_run_lengths(segmenter, photos, tmp_path):
    """As torchvision wraps COCO's format: masks and boxes of all that is no crowd."""
    folder = photos / "bench/images/val"
    segment_photos(segmenter, find_photos([folder]), list(SHAPES), tmp_path, background=True)
    for number in range(4):
        mask = np.array(Image.open(tmp_path / f"masks/{number}.png"))
        loaded = datasets.CocoDetection(str(folder), str(tmp_path / f"coco/{number}.json"))
        assert all(entry["iscrowd"] == 0 for entry in loaded[0][1])  # what detectors ask
        keys = ("masks", "labels", "boxes")
        ((_, target),) = datasets.wrap_dataset_for_transforms_v2(loaded, target_keys=keys)
        assert len(target["labels"]) == len(np.unique(mask[mask < 255])) > 0
        for found, label, box in zip(*(target[key].numpy() for key in keys), strict=True):
            assert np.array_equal(found, mask == label - 1)
            rows, columns = np.nonzero(found)
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == corners


def test_a_second_run_does_only_what_is_new(segmenter, model, photos, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        path, _ = scene(photos, number)
        (folder / path.name).write_bytes(path.read_bytes())
    segment_photos(segmenter, find_photos([folder]), "orange, lemon", out)
    before = model.images
    (folder / "new.jpg").write_bytes(scene(photos, 3)[0].read_bytes())
    segment_photos(segmenter, find_photos([folder]), "orange, lemon", out)
    assert model.images == before + 1
    assert len((out / "summary.csv").read_text().splitlines()) == 1 + 2 * 4
    segment_photos(segmenter, find_photos([folder]), "orange, lemon", out, background=True)
    assert model.images == before + 5, "other settings, other masks"


@pytest.mark.parametrize("torn", [b"", b'{"info": {"made_from', b"[]", b"{}", b"\xff"])
def test_torn_results_are_made_again(segmenter, photos, tmp_path, torn):
    folder, out = photos / "bench/images/val", tmp_path / "out"
    segment_photos(segmenter, find_photos([folder]), "orange, lemon", out)
    whole = (out / "coco/0.json").read_bytes()
    (out / "coco/0.json").write_bytes(torn)
    (out / "masks/1.png").write_bytes(b"")
    assert segment_photos(segmenter, find_photos([folder]), "orange, lemon", out) == []
    assert (out / "coco/0.json").read_bytes() == whole
    assert (out / "masks/1.png").stat().st_size


def test_names_of_any_bytes_and_length_get_results(segmenter, photos, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    content = scene(photos)[0].read_bytes()
    names = [
        b"caf\xe9.jpg",
        b"two\nlines.jpg",
        b"w" * 251 + b".jpg",
        b"w" * 250 + b"v.jpg",
        b"a.jpg",
    ]
    names.append("é".encode() * 125 + b".jpg")
    for name in names:
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    failed = segment_photos(segmenter, find_photos([folder]), "orange, lemon", out)
    assert failed == [("pipe.jpg", f"{folder}/pipe.jpg: not a file")]
    made = {path.stem for path in (out / "masks").iterdir()}
    assert len(made) == len(names) and {"a", "caf\\xe9", "two\\nlines"} <= made
    assert all(len(f"{name}.json".encode()) <= 255 for name in made)
    assert len(read_table(out / "summary.csv")) == 2 * len(names)


def test_results_that_cannot_be_written_are_listed(segmenter, photos, tmp_path, monkeypatch):
    write = reco.photos.folder.write_labels

    def refuse(path, labels):
        if path.stem == "1":
            raise OSError(errno.EIO, "Input/output error")
        write(path, labels)

    monkeypatch.setattr(reco.photos.folder, "write_labels", refuse)
    folder, out = photos / "bench/images/val", tmp_path / "out"
    failed = segment_photos(segmenter, find_photos([folder]), "orange, lemon", out)
    assert [name for name, _ in failed] == ["1.jpg"]
    assert {path.stem for path in (out / "masks").iterdir()} == {"0", "2", "3"}


# ---- where results go -------------------------------------------------------------------------


def test_results_among_photographs_are_no_photographs(segmenter, photos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(scene(photos)[0].read_bytes())
    for _ in range(2):
        found = find_photos([folder])
        assert [photo.name for photo in found] == ["a.jpg"]
        prepare_out(folder / "found", [folder])
        segment_photos(segmenter, found, "orange, lemon", folder / "found")
    assert survey(folder).left_out["folders of reco's own results"] == 1


def test_results_never_go_where_something_else_is(tmp_path):
    for name in ("trip.2024-05/1.jpg", "trip.2024-06/1.jpg", "b/trip.2024-05/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    may, june = tmp_path / "trip.2024-05", tmp_path / "trip.2024-06"
    for place in (may, tmp_path / "x/../trip.2024-05"):
        with pytest.raises(RecoError, match="holds the photographs"):
            prepare_out(place, [may])
    with pytest.raises(RecoError, match=r"holds other files: name another folder with --out"):
        prepare_out(june, [may])
    with pytest.raises(RecoError, match="is a file"):
        prepare_out(may / "1.jpg", [june])
    out = tmp_path / "out"
    prepare_out(out, [may])
    prepare_out(out, [may])  # again, of the same
    with pytest.raises(RecoError, match=r"out: holds results of .*trip\.2024-05: name another"):
        prepare_out(out, [june])
    assert sorted(path.name for path in may.iterdir()) == ["1.jpg"]


def test_folders_of_one_name_have_results_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [Path(name) for name in ("trip.2024-05", "trip.2024-06", "b/trip.2024-05")]
    places = []
    for folder in given:
        folder.mkdir(parents=True)
        places.append(choose_out("mine", [folder]))
        prepare_out(places[-1], [folder])
        assert choose_out("mine", [folder]) == places[-1], "a second run goes to the same place"
    assert places[:2] == [Path(f"results/mine/photos/trip-2024-0{month}") for month in (5, 6)]
    assert len(set(places)) == 3 and places[2].name.startswith("trip-2024-05-")


def test_a_place_that_cannot_be_written_to_is_found_before_learning(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(
        RecoError, match="out: cannot be written to: Permission denied: name another"
    ):
        prepare_out(tmp_path / "out", [tmp_path])


def test_photos_of_one_stem_keep_their_endings(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    found = {photo.name: photo.stem for photo in find_photos([tmp_path])}
    assert found == {"a.jpg": "a.jpg", "a.png": "a.png", "b.jpg": "b"}
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "sub/a.jpg")
    with pytest.raises(RecoError, match="results of the same name"):
        find_photos([tmp_path / "a.jpg", tmp_path / "sub/a.jpg"])
    with pytest.raises(RecoError, match="no such file"):
        find_photos([tmp_path / "c.jpg"])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
def test_the_largest_map_is_that_of_resizing_all(monkeypatch, count, side, wanted, seed):
    import torch
    from torch.nn.functional import interpolate

    maps = np.random.default_rng(seed).random((count, side, side), np.float32)
    size = (wanted, 2 * wanted)
    whole = interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)
    labels = np.arange(count) * 3 - 1
    with monkeypatch.context() as patch:
        patch.setattr("reco.method.refine.BAND", 7 * wanted)  # three rows at a time
        found = largest(maps, size, labels.tolist())
    assert found.shape == size and found.dtype == np.int32
    taken = np.take_along_axis(whole[0].numpy(), (found[None] + 1) // 3, 0)[0]
    # Where two maps are as large but for rounding, either may be taken.
    np.testing.assert_allclose(taken, whole[0].amax(0).numpy(), rtol=0, atol=1e-5)
    assert np.isin(found, labels).all()


def test_of_equal_maps_the_first_is_the_largest():
    maps = np.zeros((3, 4, 4), np.float32)
    maps[2, 1] = 1
    found = largest(maps, (4, 4), [5, 7, 9])
    assert found.tolist() == [[5] * 4, [9] * 4, [5] * 4, [5] * 4]


def test_what_a_segmentation_shows():
    labels = np.full((50, 80), -1, np.int32)
    labels[:10] = 1
    found = Segmentation(
        np.full((50, 80, 3), 200, np.uint8),
        ("<b>zebra</b>", "bus"),
        labels,
        np.zeros((2, 5, 8), np.float32),
        {"<b>zebra</b>": "no image looks like '<b>zebra</b>'"},
    )
    assert found.shares == {"<b>zebra</b>": 0, "bus": 0.2}
    assert found.mask("bus").sum() == 800
    with pytest.raises(KeyError, match="cat"):
        found.mask("cat")
    assert found.map_picture("bus").size == (8, 5)
    shown = found._repr_html_()
    assert "<img" in shown and "<b>" not in shown and "&lt;b&gt;" in shown
    top = np.asarray(found.overlay())[:10, :80].mean((0, 1))
    assert np.abs(top - 200).max() > 20 and (np.asarray(found.overlay())[20, 20] == 200).all()


# ---- the command ------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, str, Exception | None]:
    done = CliRunner().invoke(cli.commands, ["segment", *map(str, arguments)])
    return done.exit_code, done.output, done.exception


def test_the_command_segments_and_tells(segmenter, photos, tmp_path):
    Path("mine.yaml").write_text(json.dumps(CONFIG))
    index, folder = photos / "photos", photos / "bench/images/val"
    common = [
        "--index",
        index,
        "--config",
        "mine.yaml",
        "--concepts",
        "orange, xqzt",
        "--background",
    ]
    code, output, error = run(folder, *common, "--out", tmp_path / "out")
    assert code == 0, error
    assert "orange" in output and "in doubt" in output and "of 4" in output
    Path("names.txt").write_bytes(b"\xef\xbb\xbforange\r\nxqzt\r\n")
    listed = ["names.txt" if word == "orange, xqzt" else word for word in common]
    code, again, _ = run(folder, *listed, "--out", tmp_path / "out")
    assert code == 0 and again.split("found in")[1] == output.split("found in")[1]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.jpg").write_bytes(b"no")
    (tmp_path / "broken/b.jpg").write_bytes((folder / "0.jpg").read_bytes())
    code, _, error = run(tmp_path / "broken", *common, "--out", tmp_path / "out")
    assert code == 1 and f"holds results of {folder}: name another folder" in str(error)
    code, _, error = run(tmp_path / "broken", *common, "--out", tmp_path / "other")
    assert code == 1 and "1 of 2 photographs could not be read" in str(error)
    assert (tmp_path / "other/masks/b.png").exists()
    code, _, _ = run(tmp_path / "broken", *common, "--out", tmp_path / "other", "--skip")
    assert code == 0


def test_the_plan_of_photos_asks_for_nothing_else(tmp_path):
    values = {**CONFIG, "photos": str(tmp_path), "concepts": "zebra, fire truck"}
    config = check_config(values)
    assert [concept.name for concept in Experiment(config).targets] == ["zebra", "fire truck"]

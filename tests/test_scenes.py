"""Composed scenes: the committed lists, determinism, and masks that agree with what is drawn."""

import csv
import filecmp
import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from reco.data import imagenet
from reco.data.collage import IN_SIGHT, arrange
from reco.data.downloads.debian import fetch, unpack
from reco.data.downloads.listing import read_packages
from reco.data.folder import pair_masks, read_classes, read_mask
from reco.data.scenes import (
    SPLITS,
    USES,
    Photograph,
    compose,
    plan,
    read_photographs,
)
from reco.errors import RecoError
from reco.files import read_json

STAMPS = Path(__file__).parents[1] / "config/stamps"
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "yellow": (220, 220, 20)}


def rows(name: str) -> list[dict[str, str]]:
    with open(STAMPS / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- the committed lists ----------------------------------------------------------------------


def test_lists_name_each_photograph_once_and_only_known_packages() -> None:
    packages = {package.name for package in read_packages(STAMPS / "packages.yaml")}
    listed = [
        (row["package"], row["path"])
        for t in ("cutouts", "backgrounds")
        for row in rows(f"{t}.csv")
    ]
    assert len(set(listed)) == len(listed)
    assert {package for package, _ in listed} == packages  # none is fetched for nothing
    for _, path in listed:
        assert not path.startswith("/") and ".." not in path.split("/")


def test_every_concept_can_be_shown_in_every_split() -> None:
    uses: dict[str, list[str]] = {}
    for row in rows("cutouts.csv"):
        uses.setdefault(row["concept"], []).append(row["split"])
    assert 64 <= len(uses) <= 75
    for concept, splits in uses.items():
        # One photograph serves both; several are told apart, so that val shows unseen ones.
        assert splits == ["both"] or set(splits) == {"index", "benchmark"}, concept


def test_backgrounds_of_the_splits_are_disjoint() -> None:
    pictures = Counter()
    for row in rows("backgrounds.csv"):
        assert row["split"] in SPLITS
        parts = Path(row["path"]).parts
        # A wallpaper's folder holds the same picture in several sizes.
        pictures[parts[3] if parts[2] == "wallpapers" else row["path"]] += 1
    assert set(pictures.values()) == {1}
    assert {row["split"] for row in rows("backgrounds.csv")} == set(SPLITS)


def test_the_choice_of_concepts_follows_the_class_list() -> None:
    known = {entry.names[0] for entry in imagenet.read_classes()}
    notes = {row["concept"]: row["note"] for row in rows("cutouts.csv")}
    hard = [concept for concept, note in notes.items() if note.startswith("hard: ")]
    assert len(hard) <= 6
    for concept in notes.keys() - set(hard):
        kind, _, classes = notes[concept].partition(": ")
        assert kind == "ImageNet"
        assert set(classes.split("; ")) <= known, concept


# ---- composing --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ellipses of three colours on grey-blue backgrounds, and the lists of them."""
    root = tmp_path_factory.mktemp("material")
    (root / "photographs/fake").mkdir(parents=True)
    lines = ["concept,package,path,split"]
    for concept, colour in COLOURS.items():
        for split, shape in (("index", (120, 90)), ("benchmark", (80, 120))):
            # Transparent magenta: it must bleed nowhere.
            image = Image.new("RGBA", (shape[0] * 2, shape[1] * 2), (255, 0, 255, 0))
            box = (8, 8, 2 * shape[0] - 8, 2 * shape[1] - 8)
            ImageDraw.Draw(image).ellipse(box, fill=(*colour, 255))
            image.resize(shape, Image.Resampling.BOX).save(
                root / f"photographs/fake/{concept}-{split}.png"
            )
            lines.append(f"{concept},fake,{concept}-{split}.png,{split}")
    (root / "cutouts.csv").write_text("\n".join(lines) + "\n")
    lines = ["package,path,split"]
    for i, split in enumerate(SPLITS):
        noise = np.random.default_rng(i).integers(90, 110, (150, 200, 3), dtype=np.uint8)
        noise[..., 2] += 40
        Image.fromarray(noise).save(root / f"photographs/fake/{split}.jpg")
        lines.append(f"fake,{split}.jpg,{split}")
    (root / "backgrounds.csv").write_text("\n".join(lines) + "\n")
    return root


def make(material: Path, out: Path, **kwargs: int) -> Path:
    options = {"seed": 0, "size": 96, "index": 12, "train": 6, "val": 4} | kwargs
    lists = material / "cutouts.csv", material / "backgrounds.csv"
    compose(*lists, material / "photographs", out, **options)
    return out


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_whatever_the_workers(material: Path, tmp_path: Path) -> None:
    one = contents(make(material, tmp_path / "one", workers=1))
    assert one == contents(make(material, tmp_path / "two", workers=2))
    other = contents(make(material, tmp_path / "other", seed=1))
    assert one.keys() == other.keys()
    assert one["index/00000.jpg"] != other["index/00000.jpg"]


def test_more_scenes_leave_the_first_ones_as_they_are(material: Path, tmp_path: Path) -> None:
    few, more = (
        make(material, tmp_path / "few", index=5),
        make(material, tmp_path / "more", index=9),
    )
    names = [f"{i:05d}.jpg" for i in range(5)]
    assert filecmp.cmpfiles(few / "index", more / "index", names, shallow=False)[0] == names


def test_layout_is_that_of_a_folder_benchmark(material: Path, tmp_path: Path) -> None:
    out = make(material, tmp_path / "out")
    assert read_classes(out / "benchmark") == list(COLOURS)
    assert len(pair_masks(out / "benchmark", "train", need_masks=True)) == 6
    assert len(pair_masks(out / "benchmark", "val", need_masks=True)) == 4
    with open(out / "index_labels.csv", newline="") as file:
        labels = list(csv.DictReader(file))
    assert [row["path"] for row in labels] == sorted(p.name for p in (out / "index").iterdir())
    assert set(";".join(row["concepts"] for row in labels).split(";")) == set(COLOURS)
    record = read_json(out / "composed.json")
    assert record["scenes"] == {"index": 12, "train": 6, "val": 4}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_masks_mark_the_pixels_of_the_colour_and_no_others(material: Path, tmp_path: Path) -> None:
    out = make(material, tmp_path / "out", size=160, train=20) / "benchmark"
    colours = np.array([*COLOURS.values(), (100, 100, 140)])
    for image, mask in pair_masks(out, "train", need_masks=True):
        pixels = np.asarray(Image.open(out / image)).astype(int)
        labels = read_mask(out / mask, len(COLOURS))
        assert (labels >= 0).any()
        nearest = ((pixels[:, :, None] - colours) ** 2).sum(-1).argmin(-1)
        nearest[nearest == len(COLOURS)] = -1
        edge = np.zeros_like(labels, dtype=bool)  # where a pixel and its neighbours disagree
        for axis, step in itertools.product((0, 1), (-1, 1, -2, 2)):
            edge |= np.roll(labels, step, axis) != labels
        assert (nearest == labels)[~edge].mean() > 0.999


def test_no_old_background_bleeds_in(material: Path, tmp_path: Path) -> None:
    out = make(material, tmp_path / "out", size=160)
    for path in (out / "index").iterdir():
        red, green, blue = np.moveaxis(np.asarray(Image.open(path)).astype(int), -1, 0)
        assert not ((red > 150) & (blue > 150) & (green < 90)).any()


def photographs(root: str = "x") -> tuple[list[Photograph], list[Photograph]]:
    cutouts = [Photograph(Path(root, f"{i}"), SPLITS, f"c{i // 2}") for i in range(14)]
    return cutouts, [Photograph(Path(root, f"b{i}"), SPLITS) for i in range(3)]


def test_plan_is_balanced() -> None:
    scenes = list(itertools.islice(plan(*photographs(), "index", seed=3), 700))
    shown = Counter(cutout.file for scene in scenes for cutout in scene.cutouts)
    assert len(shown) == 14 and max(shown.values()) - min(shown.values()) <= 1
    assert all(len({c.concept for c in s.cutouts}) == len(s.cutouts) for s in scenes)
    assert {len(scene.cutouts) for scene in scenes} == {1, 2, 3}
    places = Counter(scene.background.file for scene in scenes)
    assert max(places.values()) - min(places.values()) <= 1


def test_objects_stay_in_sight() -> None:
    rng = np.random.default_rng(0)
    sprites = [np.ones((40, 60, 4), np.float32), np.ones((70, 20, 4), np.float32)] * 2
    placed = 0
    for _ in range(50):
        front = np.full((100, 100), -1)
        layers = arrange(sprites, 100, rng)
        for i, layer in enumerate(layers):
            if layer is not None:
                front[layer.windows(*sprites[i].shape[:2])[0]] = i
        for i, layer in enumerate(layers):
            if layer is not None:
                placed += 1
                assert (front == i).sum() >= IN_SIGHT * sprites[i][..., 0].size
    assert placed > 150


# ---- what people get wrong --------------------------------------------------------------------


def test_lists_with_mistakes(material: Path, tmp_path: Path) -> None:
    for line, message in (
        ("red,fake,red-index.png,both\nred,fake,red-index.png,both", "line 3: .* listed twice"),
        ("red,fake,red-index.png,test", "line 2: .*index, train, val.*'test'"),
        ("red,fake,nothing.png,both", r"nothing\.png: missing: unpack fake again"),
        ("red,fake", "line 2"),
    ):
        (tmp_path / "x.csv").write_text(f"concept,package,path,split\n{line}\n")
        with pytest.raises(RecoError, match=message):
            read_photographs(tmp_path / "x.csv", material / "photographs")


def test_concept_without_a_photograph_for_a_split() -> None:
    cutouts, backgrounds = photographs()
    cutouts[0] = Photograph(Path("y"), USES["index"], "lonely")
    with pytest.raises(RecoError, match="no cut-out of lonely for the split 'val'"):
        next(plan(cutouts, backgrounds, "val", seed=0))


@pytest.mark.parametrize("content", [b"", b"no picture", "truncated", "opaque"])
@pytest.mark.parametrize("workers", [1, 2])
def test_broken_cutout_is_named_and_nothing_is_left(
    material: Path, tmp_path: Path, content: bytes | str, workers: int
) -> None:
    broken = tmp_path / "material"
    (broken / "photographs/fake").mkdir(parents=True)
    for path in material.rglob("*.*"):
        target = broken / path.relative_to(material)
        os.link(path, target)
    victim = broken / "photographs/fake/red-index.png"
    whole = victim.read_bytes()
    victim.unlink()
    if content == "opaque":
        Image.new("RGB", (50, 50)).save(victim)
    else:
        victim.write_bytes(whole[: len(whole) // 2] if content == "truncated" else content)
    with pytest.raises(RecoError, match=r"red-index\.png: not a"):
        make(broken, tmp_path / "out", workers=workers)
    assert [p.name for p in tmp_path.iterdir()] == ["material"]


def test_only_composed_scenes_are_replaced(material: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    make(material, out)
    make(material, out, index=3)
    assert len(list((out / "index").iterdir())) == 3
    (out / "composed.json").unlink()
    with pytest.raises(RecoError, match="holds something else"):
        make(material, out)
    assert len(list((out / "index").iterdir())) == 3


# ---- the true packages ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_default_experiment(tmp_path: Path) -> None:
    debs = fetch(STAMPS / "packages.yaml", tmp_path / "debs", source=os.environ.get("RECO_DEBS"))
    lists = STAMPS / "cutouts.csv", STAMPS / "backgrounds.csv"
    listed = rows("cutouts.csv") + rows("backgrounds.csv")
    for name, deb in debs.items():
        wanted = [row["path"] for row in listed if row["package"] == name]
        unpack(deb, tmp_path / "photographs" / name, wanted)
    out = tmp_path / "scenes"
    counts = {"index": 1200, "train": 20, "val": 120}
    compose(*lists, tmp_path / "photographs", out, seed=0, size=320, workers=2, **counts)
    visible = read_json(out / "composed.json")["visible"]
    assert min(visible["index"].values()) >= 25
    assert min(visible["val"].values()) >= 2

"""Readers of the published datasets, on miniatures in the true layouts."""

import shutil
from pathlib import Path

import miniatures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reco.concepts import Concept, check_slugs
from reco.data.benchmarks import (
    READERS,
    UNKNOWN,
    check_sizes,
    id_table,
    reader_of,
)
from reco.data.imagenet import class_names, imagenet_names
from reco.errors import RecoError
from reco.method.metrics import IGNORE

ROOT = Path(__file__).parents[1]
MASKED = ("cityscapes", "coco_stuff", "kitti_step", "pascal_context", "firenet")
CONTEXT = ("tree", "sky", "building", "road", "person")


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
    monkeypatch.chdir(ROOT)  # config/labels is found from the project's folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Root of the miniature of every kind; not to be changed."""
    root = tmp_path_factory.mktemp("datasets")
    return {kind: getattr(miniatures, f"make_{kind}")(root / kind) for kind in READERS}


@pytest.fixture
def own(built, tmp_path):
    """A function that copies a miniature, to be changed."""
    return lambda kind: Path(shutil.copytree(built[kind], tmp_path / kind))


def slow_id(kind, value):
    """The label id of a value of a mask, as the papers put it; None = no such value."""
    if kind == "cityscapes":
        return None if value > 33 else value - 7 if value >= 7 else -1
    if kind == "kitti_step":
        return -1 if value == 255 else value if value < 19 else None
    if kind == "pascal_context":
        return -1 if value in (0, 255) else value - 1 if value < 60 else None
    if kind == "firenet":
        return value if value < 2 else None
    if value == 255:
        return -1
    reader = reader_of("coco_stuff")  # by way of the names: value -> fine name -> coarse class
    unnamed = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
    if value > 181:
        return None
    if value in unnamed:
        return reader.ids[value]
    return reader.merge[value - sum(gap < value for gap in unnamed)]


# ---- names and ids -------------------------------------------------------------------------------


def test_names_and_ids_are_those_of_the_datasets():
    counts = {
        kind: (len(reader_of(kind).classes), len(reader_of(kind).predicted)) for kind in MASKED
    }
    assert counts == {
        "cityscapes": (27, 27),
        "coco_stuff": (27, 171),
        "kitti_step": (19, 19),
        "pascal_context": (59, 59),
        "firenet": (2, 1),
    }
    cityscapes, kitti = reader_of("cityscapes"), reader_of("kitti_step")
    assert [cityscapes.classes[i] for i in (0, 2, 16, 26)] == [
        "road",
        "parking lot",
        "sky",
        "bicycle",
    ]
    assert cityscapes.ids[[0, 6, 7, 33]].tolist() == [-1, -1, 0, 26]
    assert [kitti.classes[i] for i in (0, 8, 11, 18)] == ["road", "vegetation", "person", "bicycle"]
    assert set(kitti.classes) < set(cityscapes.classes)
    pascal = reader_of("pascal_context")
    assert (pascal.classes[0], pascal.classes[58]) == ("aeroplane", "wood")
    assert list(pascal.classes) == sorted(pascal.classes)
    coco = reader_of("coco_stuff")
    merged = {name: coco.classes[coco.merge[i]] for i, name in enumerate(coco.predicted)}
    assert merged["person"] == "person"
    assert merged["traffic light"] == "outdoor"
    assert merged["clouds"] == merged["sky other"] == "sky"
    assert merged["tree"] == "plant"
    assert merged["wood"] == "solid"
    assert set(coco.merge) == set(range(27))
    assert reader_of("coco_stuff10k").classes == coco.classes


@pytest.mark.parametrize("kind", [*MASKED, "imagenet"])
def test_names_can_be_concepts(kind):
    reader = reader_of(kind)
    assert len(set(reader.classes)) == len(reader.classes)
    check_slugs([Concept(name=name) for name in reader.predicted])
    if reader.merge is None:
        assert reader.predicted == reader.classes
    else:
        assert reader.merge.shape == (len(reader.predicted),)
        assert 0 <= reader.merge.min() and reader.merge.max() < len(reader.classes)


@pytest.mark.parametrize("kind", MASKED[:4])
def test_context_references_are_reused_by_name_and_by_vegetation(kind):
    reader = reader_of(kind)
    wanted = {name: name for name in reader.predicted if name in CONTEXT}
    if "vegetation" in reader.predicted:
        wanted["vegetation"] = "tree"
    assert reader.context == wanted


@pytest.mark.parametrize("kind", MASKED)
@given(values=st.lists(st.integers(0, 255), min_size=1))
def test_ids_are_ignored_or_classes_and_agree_with_the_slow_way(kind, values):
    reader = reader_of(kind)
    mapped = reader.ids[np.array(values)]
    known = mapped[mapped != UNKNOWN]
    assert ((known >= IGNORE) & (known < len(reader.classes))).all()
    slow = [slow_id(kind, value) for value in values]
    assert mapped.tolist() == [UNKNOWN if label is None else label for label in slow]


@given(st.lists(st.integers(-1, 26), max_size=255), st.sets(st.integers(0, 255)))
def test_any_table_maps_to_what_it_was_given(ids, ignore):
    table = id_table(ids, ignore)
    for value in range(256):
        listed = ids[value] if value < len(ids) else UNKNOWN
        assert table[value] == (IGNORE if value in ignore else listed)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "split", "count", "first"),
    [
        ("cityscapes", "val", 6, "leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit"),
        ("cityscapes", "train", 4, "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit"),
        ("coco_stuff", "val", 3, "val2017/000000000139"),
        ("kitti_step", "val", 10, "training/image_02/0002/000000"),
        ("kitti_step", "train", 13, "training/image_02/0000/000000"),
        ("pascal_context", "val", 4, "JPEGImages/2008_000190"),
        ("firenet", "val", 4, "images/extinguisher 0"),
    ],
)
def test_every_image_has_its_mask(built, kind, split, count, first):
    reader, root = reader_of(kind), built[kind]
    pairs = reader.pairs(root, split, True)
    assert len(pairs) == count
    assert pairs == sorted(pairs) == reader.pairs(root, split, False)
    assert pairs[0][0].rsplit(".", 1)[0] == first
    names = {reader.prediction_name(image) for image, _ in pairs}
    assert len(names) == count
    assert all(name.endswith(".png") and not Path(name).is_absolute() for name in names)
    for image, mask in pairs:
        check_sizes(root / image, root / mask)
        with Image.open(root / mask) as file:
            raw = np.asarray(file)
        raw = raw[..., 0] if kind == "kitti_step" else raw
        labels = reader.read_mask(root / mask)
        assert labels.dtype == np.int32
        assert labels.tolist() == [[slow_id(kind, int(value)) for value in row] for row in raw]
        assert (labels == IGNORE).any() or kind == "firenet"
        assert (labels >= 0).any()


def test_images_and_masks_share_their_names(built):
    def ids(kind, split):
        pairs = reader_of(kind).pairs(built[kind], split, True)
        return [[Path(path).name.split("_leftImg8bit")[0] for path in pair] for pair in pairs]

    for image, mask in ids("cityscapes", "val"):
        assert mask == f"{image}_gtFine_labelIds.png"
    for image, mask in reader_of("kitti_step").pairs(built["kitti_step"], "val", True):
        assert image.split("/")[-2:] == mask.split("/")[-2:]
    for image, mask in ids("coco_stuff", "val") + ids("pascal_context", "val"):
        assert Path(image).stem == Path(mask).stem


def test_prediction_names():
    names = {
        "cityscapes": "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png",
        "kitti_step": "training/image_02/0002/000000.png",
        "coco_stuff": "images/val2017/000000000139.jpg",
    }
    assert [reader_of(kind).prediction_name(image) for kind, image in names.items()] == [
        "ulm/ulm_000000_000019_leftImg8bit.png",
        "0002/000000.png",
        "000000000139.png",
    ]


def test_other_common_layouts_give_the_same_masks(built, tmp_path):
    for kind, options in (
        ("coco_stuff", {"stego": True}),
        ("kitti_step", {"sorted_by_split": True}),
    ):
        other = getattr(miniatures, f"make_{kind}")(tmp_path / kind, **options)
        reader = reader_of(kind)
        here = reader.pairs(built[kind], "val", True)
        there = reader.pairs(other, "val", True)
        for (image, mask), (other_image, other_mask) in zip(here, there, strict=True):
            assert reader.prediction_name(image) == reader.prediction_name(other_image)
            labels = reader.read_mask(built[kind] / mask)
            assert (labels == reader.read_mask(other / other_mask)).all()


def test_training_images_of_coco_stuff10k_have_no_masks(built):
    reader, root = reader_of("coco_stuff10k"), built["coco_stuff10k"]
    pairs = reader.pairs(root, "train", False)
    assert pairs == sorted(pairs)
    assert [mask for _, mask in pairs] == [""] * 4
    assert all((root / image).is_file() for image, _ in pairs)
    with pytest.raises(RecoError, match="masks of coco_stuff10k are not read"):
        reader.pairs(root, "train", True)


def test_masks_that_are_not_needed_may_be_absent(own):
    root = own("cityscapes")
    shutil.rmtree(root / "gtFine/train")
    assert {mask for _, mask in reader_of("cityscapes").pairs(root, "train", False)} == {""}


# ---- ImageNet ------------------------------------------------------------------------------------


def test_imagenet_is_an_index_with_a_name_per_class(built):
    reader, root = reader_of("imagenet"), built["imagenet"]
    pairs = reader.pairs(root, "train", False)
    assert pairs == sorted(pairs)
    assert len(pairs) == 50
    assert pairs[0] == ("train/n01440764/n01440764_00000000.JPEG", "")
    shown = [class_names(image) for image, _ in reader.pairs(root, "val", False)]
    assert shown == [
        name
        for name in (("tench",), (), ("Cardigan Welsh corgi",), (), ("orange",))
        for _ in range(10)
    ]
    with pytest.raises(RecoError, match="no masks"):
        reader.pairs(root, "val", True)
    with pytest.raises(RecoError, match=r"no class of ImageNet-1K: sort the images into"):
        class_names("val/ILSVRC2012_val_00000001.JPEG")


def test_two_names_of_imagenet_stand_for_two_classes_each():
    names = list(imagenet_names().values())
    assert len(imagenet_names()) == 1000
    assert len(set(names)) == 998
    twice = sorted({name for name in names if names.count(name) > 1})
    assert twice == ["crane", "maillot"] == sorted(reader_of("imagenet").options["dropped"])
    assert len(reader_of("imagenet").classes) == 996
    assert reader_of("imagenet").classes[0] == "tench"


# ---- mistakes ------------------------------------------------------------------------------------


def test_unknown_kinds_and_splits_are_named():
    with pytest.raises(RecoError, match="'cityscape' is not known: use one of cityscapes, coco_"):
        reader_of("cityscape")
    for kind in READERS:
        with pytest.raises(RecoError, match=r"split 'nowhere': .* has .*: mend the config"):
            reader_of(kind).pairs(".", "nowhere", False)


@pytest.mark.parametrize(
    ("kind", "gone", "page"),
    [
        ("cityscapes", "leftImg8bit/val", "cityscapes-dataset.com"),
        ("coco_stuff", "val2017", "nightrome/cocostuff"),
        ("kitti_step", "training/image_02/0013", "cvlibs.net"),
        ("pascal_context", "JPEGImages", "pascal-context"),
        ("firenet", "images", "its authors"),
        ("imagenet", "val", "image-net.org"),
    ],
)
def test_missing_folders_say_the_layout_and_where_to_get_it(own, kind, gone, page):
    root = own(kind)
    shutil.rmtree(root / gone)
    with pytest.raises(RecoError) as caught:
        reader_of(kind).pairs(root, "val", False)
    message = str(caught.value)
    assert message.startswith(f"{root / gone}: no such folder: {kind}: ")
    assert page in message
    assert "\n" not in message
    (root / gone).mkdir()
    with pytest.raises(RecoError, match=r"holds no .* files: |no such image"):
        reader_of(kind).pairs(root, "val", False)


@pytest.mark.parametrize("kind", MASKED)
def test_an_image_without_a_mask_is_refused(own, kind):
    reader, root = reader_of(kind), own(kind)
    image, mask = reader.pairs(root, "val", True)[1]
    (root / mask).unlink()
    with pytest.raises(RecoError) as caught:
        reader.pairs(root, "val", True)
    assert str(caught.value).startswith(f"{root / image}: has no mask: add {root / mask} (")
    assert (image, "") in reader.pairs(root, "val", False)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("coco_stuff", "curated/val2017/Coco164kFull_Stuff_Coarse.txt"),
        ("pascal_context", "ImageSets/SegmentationContext/val.txt"),
    ],
)
def test_lists_must_exist_and_name_images(own, kind, names):
    reader, root = reader_of(kind), own(kind)
    with (root / names).open("a") as file:
        file.write("\n000000000000\n")
    with pytest.raises(RecoError, match=r"000000000000\.jpg: no such image, but .* lists 000"):
        reader.pairs(root, "val", True)
    (root / names).write_text("\n")
    with pytest.raises(RecoError, match="lists no images"):
        reader.pairs(root, "val", True)
    (root / names).unlink()
    with pytest.raises(RecoError, match="no such list"):
        reader.pairs(root, "val", True)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("cityscapes", 34),
        ("cityscapes", 255),
        ("coco_stuff", 182),
        ("kitti_step", 19),
        ("pascal_context", 60),
        ("firenet", 255),
    ],
)
def test_values_that_are_no_label_are_refused(tmp_path, kind, value):
    mode = "RGB" if kind == "kitti_step" else "L"
    Image.new(mode, (3, 2), (value,) * 3 if mode == "RGB" else value).save(tmp_path / "m.png")
    with pytest.raises(RecoError, match=rf"m\.png: value {value} is no label of {kind}: use "):
        reader_of(kind).read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("kind", MASKED)
def test_masks_of_another_mode_and_broken_ones_are_refused(tmp_path, kind):
    wrong = "L" if kind == "kitti_step" else "RGB"
    Image.new(wrong, (3, 2)).save(tmp_path / "m.png")
    with pytest.raises(RecoError, match=rf"m\.png: mode {wrong}, but the masks of {kind} are"):
        reader_of(kind).read_mask(tmp_path / "m.png")
    (tmp_path / "m.png").write_bytes(b"no image")
    with pytest.raises(RecoError, match=r"m\.png: not a readable mask"):
        reader_of(kind).read_mask(tmp_path / "m.png")


def test_sizes_are_compared_upright(tmp_path):
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    Image.new("L", (97, 65)).save(mask)
    Image.new("RGB", (97, 65)).save(image)
    check_sizes(image, mask)
    turned = Image.new("RGB", (65, 97))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(image, exif=exif)
    check_sizes(image, mask)
    turned.save(image)
    with pytest.raises(RecoError, match=r"a\.png: 97x65 pixels, but .*a\.jpg has 65x97"):
        check_sizes(image, mask)
    image.write_bytes(b"")
    with pytest.raises(RecoError, match=r"a\.jpg: not a readable image"):
        check_sizes(image, mask)


def test_two_images_of_one_name_would_share_a_mask(own):
    root = own("firenet")
    Image.new("RGB", (8, 8)).save(root / "images/extinguisher 0.png")
    with pytest.raises(RecoError, match="rename one"):
        reader_of("firenet").pairs(root, "val", True)

"""The folder layout: what is found, what is refused, and with which words."""

import numpy as np
import pytest
from PIL import Image

from reco.catalog import catalog_index, catalog_split
from reco.datasets import Folder
from reco.errors import RecoError
from reco.folder import (
    find_images,
    pair_masks,
    read_classes,
    read_mask,
    read_table,
    scan,
    write_labels,
)
from reco.geometry import Geometry
from reco.pictures import read_image
from reco.split import Split


def picture(path, size=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)
    return path


@pytest.fixture
def benchmark(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\nfire truck\n")
    for name in ("a", "deep/b"):
        picture(tmp_path / f"images/val/{name}.jpg")
        mask = np.array([[0, 1], [-1, 0]])
        write_labels(tmp_path / f"masks/val/{name}.png", mask)
    return tmp_path


def test_images_are_found_sorted_and_hidden_files_left_out(tmp_path):
    for name in ("b.JPG", "a/c.png", "a/d.webp", ".hidden.png", ".cache/e.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    assert find_images(tmp_path) == ["a/c.png", "a/d.webp", "b.JPG"]
    with pytest.raises(RecoError, match="no such folder"):
        find_images(tmp_path / "nowhere")


def test_scan_sees_additions_and_replacements(tmp_path):
    image = picture(tmp_path / "a.png")
    states = {scan(tmp_path, times=False)}
    picture(tmp_path / "b.png")
    states.add(scan(tmp_path, times=False))
    picture(image, (90, 90))
    states.add(scan(tmp_path, times=False))
    image.unlink()
    states.add(scan(tmp_path, times=False))
    assert len(states) == 4


def test_pairs_and_masks(benchmark):
    assert read_classes(benchmark) == ["cat", "fire truck"]
    assert pair_masks(benchmark, "val", need_masks=True) == [
        ("images/val/a.jpg", "masks/val/a.png"),
        ("images/val/deep/b.jpg", "masks/val/deep/b.png"),
    ]
    assert read_mask(benchmark / "masks/val/a.png", 2).tolist() == [[0, 1], [-1, 0]]


def test_sixteen_bit_masks_round_trip(tmp_path):
    labels = np.array([[300, -1], [255, 0]])
    write_labels(tmp_path / "m.png", labels)
    assert read_mask(tmp_path / "m.png", 301).tolist() == labels.tolist()


def test_what_does_not_fit_is_named(benchmark, tmp_path):
    table = tmp_path / "val.csv"

    def split(*names):
        return Split(Folder(names, names, ""), benchmark, "val", Geometry(None))

    with pytest.raises(RecoError, match=r"label id 1 but classes.txt has 1 lines"):
        catalog_split(split("cat"), table, need_masks=True)
    (benchmark / "masks/val/a.png").rename(benchmark / "masks/val/z.png")
    with pytest.raises(RecoError, match=r"images/val/a\.jpg: has no mask"):
        catalog_split(split("cat", "dog"), table, need_masks=True)
    (benchmark / "images/val/a.jpg").unlink()
    with pytest.raises(RecoError, match=r"masks/val/z\.png: has no image"):
        catalog_split(split("cat", "dog"), table, need_masks=True)
    picture(benchmark / "images/val/deep/b.png")
    with pytest.raises(RecoError, match="would share a mask"):
        pair_masks(benchmark, "val", need_masks=True)
    with pytest.raises(RecoError, match="no such folder"):
        pair_masks(benchmark, "test", need_masks=True)
    assert not table.exists()


@pytest.mark.parametrize("text", ["", "cat\n\ndog\n", "cat\ncat\n"])
def test_bad_class_lists(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(RecoError, match=r"classes\.txt"):
        read_classes(tmp_path)


def test_a_colour_mask_is_refused(tmp_path):
    with pytest.raises(RecoError, match="single-channel"):
        read_mask(picture(tmp_path / "m.png"), 2)


def test_images_of_every_kind_become_upright_rgb(tmp_path):
    for mode, suffix in [("RGB", "jpg"), ("CMYK", "jpg"), ("L", "png"), ("P", "png"), ("1", "png")]:
        assert read_image(picture(tmp_path / f"{mode}.{suffix}", mode=mode)).mode == "RGB"
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    deep.save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (8, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (4, 8)


def test_files_that_are_no_images(tmp_path):
    whole = picture(tmp_path / "whole.jpg", (64, 64)).read_bytes()
    for content in (b"", b"text, not pixels", whole[: len(whole) // 2]):
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(content)
        with pytest.raises(RecoError, match=r"bad\.jpg: not a readable image"):
            read_image(bad)


def test_index_smaller_than_the_archive_is_refused(tmp_path):
    table = tmp_path / "index.csv"
    picture(tmp_path / "photos/a.jpg")
    with pytest.raises(RecoError, match="holds 1 images, fewer than the archive size 5"):
        catalog_index(tmp_path / "photos", table, 5)
    assert not table.exists()
    catalog_index(tmp_path / "photos", table, 1)
    assert [row["path"] for row in read_table(table)] == ["a.jpg"]

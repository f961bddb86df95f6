"""The folder layout: what is found, what is refused, and with which words."""

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reco.data.benchmarks import Folder
from reco.data.folder import (
    RESULTS,
    find_images,
    pair_masks,
    printable,
    read_classes,
    read_mask,
    scan,
    survey,
    write_labels,
)
from reco.data.geometry import Geometry
from reco.data.images import KINDS, read_image
from reco.data.split import Split
from reco.data.tables import read_table
from reco.errors import RecoError
from reco.files import sha256
from reco.workflow.catalog import Seen, catalog_index, catalog_split, write_seen


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


# ---- any tree of folders ----------------------------------------------------------------------

NAMES = ["a", "b c", "Été", ".hidden", "@eaDir", "x.jpg"]
FILES = ["1.jpg", "2.PNG", "3.webp", "notes.txt", ".4.jpg", "5"]
PLACES = st.lists(st.sampled_from(NAMES), max_size=3).map("/".join)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(PLACES, st.sampled_from(FILES)), max_size=12),
    st.lists(st.tuples(PLACES, st.sampled_from(["l1", "l2", ".l3"]), PLACES), max_size=6),
    st.randoms(use_true_random=False),
)
def test_any_tree_gives_each_real_image_once_in_one_order(files, links, random):
    """Links to folders may lead up, down, across, to themselves or nowhere."""
    listings = []
    for _ in range(2):
        with TemporaryDirectory() as folder:
            root = Path(folder, "root")
            root.mkdir()
            random.shuffle(files)  # the order in which a file system has them
            for place, name in files:
                (root / place).mkdir(parents=True, exist_ok=True)
                (root / place / name).touch()
            for place, name, target in links:
                link = root / place / name
                if link.parent.is_dir() and not os.path.lexists(link):
                    link.symlink_to(root / target)
            found = find_images(root)
            real = [os.path.realpath(root / name) for name in found]
            assert len(real) == len(set(real))
            wanted = {
                os.path.join(where, name)
                for where, _, names in os.walk(root)
                for name in names
                if Path(name).suffix.lower() in KINDS
                and not any(
                    part[0] == "." or part == "@eaDir"
                    for part in Path(where, name).relative_to(root).parts
                )
            }
            assert wanted <= set(real)
            # What is beyond has been reached by a link into a folder that is hidden otherwise.
            assert all("/." in path or "/@eaDir" in path for path in set(real) - wanted)
            # By the place where it is, not by a link, if there is a way without one.
            assert {f"{root}/{name}" for name in found} >= wanted
            assert found == sorted(found)
            listings.append(found)
    assert listings[0] == listings[1]


def test_links_that_go_in_circles_end(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / name / "1.png")
        (tmp_path / name / "all").symlink_to("..")
    (tmp_path / "a/self").symlink_to("self")
    (tmp_path / "a/other").symlink_to("../b")
    (tmp_path / "b/other").symlink_to("../a")
    assert find_images(tmp_path) == ["a/1.png", "b/1.png"]
    assert find_images(tmp_path / "a") == ["1.png", "other/1.png"], "up and out leads nowhere"


def test_what_is_left_out_is_counted_and_named(tmp_path, monkeypatch):
    picture(tmp_path / "a.jpg")
    for name in ("b.HEIC", "c.heic", "d.txt", "README"):
        (tmp_path / name).touch()
    picture(tmp_path / "found/masks/a.png")
    (tmp_path / "found" / RESULTS).write_text("{}")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):  # tests run as root, whom no rights stop
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = survey(tmp_path)
    assert found.images == ["a.jpg"]
    assert found.remark() == (
        ".heic (2), .txt (1), folder closed/: Permission denied (1), "
        "folders of reco's own results (1), without an ending (1)"
    )


HARD = {b"caf\xe9.jpg": "caf\\xe9.jpg", b"two\nlines.jpg": "two\\nlines.jpg"}


@pytest.mark.parametrize("name", HARD)
def test_names_that_no_table_can_hold_are_told_apart(tmp_path, name, caplog):
    picture(tmp_path / "photos/a.jpg")
    Path(os.fsdecode(bytes(tmp_path / "photos") + b"/" + name)).write_bytes(b"")
    found = survey(tmp_path / "photos")
    assert found.images == ["a.jpg"] and [printable(odd) for odd in found.odd] == [HARD[name]]
    assert scan(tmp_path / "photos", times=True).count == 2
    with caplog.at_level("WARNING", "reco"):
        catalog_index(tmp_path / "photos", tmp_path / "index.csv", 1)
    assert f"{HARD[name]}: left out: rename it" in caplog.text
    assert [row["path"] for row in read_table(tmp_path / "index.csv")] == ["a.jpg"]


@given(st.text(max_size=20), st.binary(max_size=20))
def test_printable_names_are_text_on_one_line(text, content):
    for name in (text.encode(errors="ignore").decode(), os.fsdecode(content)):
        shown = printable(name)
        assert len(shown.encode().decode().splitlines()) <= 1 and printable(shown) == shown


def test_pipes_and_broken_links_are_listed_and_read_by_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    catalog_index(tmp_path, tmp_path / "index.csv", 1)
    rows = read_table(tmp_path / "index.csv")
    assert [(row["path"], row["key"]) for row in rows] == [("gone.jpg", ""), ("pipe.jpg", "")]


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


@pytest.mark.parametrize("text", ["cat\nfire truck\n", "cat\r\nfire truck", "cat \nfire truck\n\n"])
def test_class_lists_as_editors_save_them(tmp_path, text):
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
        (tmp_path / "classes.txt").write_bytes(content)
        assert read_classes(tmp_path) == ["cat", "fire truck"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32"])
def test_texts_of_another_encoding_are_refused(tmp_path, encoding):
    (tmp_path / "classes.txt").write_bytes("café\nsky\n".encode(encoding))
    with pytest.raises(RecoError, match=r"classes\.txt: not UTF-8 text: save it as UTF-8"):
        read_classes(tmp_path)


@pytest.mark.parametrize("text", ["", "cat\n\ndog\n", "cat\ncat\n"])
def test_bad_class_lists(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(RecoError, match=r"classes\.txt"):
        read_classes(tmp_path)


def test_masks_of_0_and_255_are_told_of(benchmark, tmp_path, caplog):
    """255 means ignore, so the second class would be nowhere, and the score perfect."""
    split = Split(Folder(("cat", "dog"), ("cat", "dog"), ""), benchmark, "val", Geometry(None))
    for path in (benchmark / "images/val").rglob("*.jpg"):
        picture(path, (2, 2))
    catalog_split(split, tmp_path / "val.csv", need_masks=True)
    assert "write 1" not in caplog.text
    for path in (benchmark / "masks/val").rglob("*.png"):
        write_labels(path, np.array([[0, -1], [-1, 0]]))
    catalog_split(split, tmp_path / "val.csv", need_masks=True)
    assert "in masks of 0 and 255, write 1 for 255" in caplog.text


@pytest.mark.parametrize("content", ["", "path,key\na.jpg\n", "path,key\na.jpg,1,2\n", "\xff"])
def test_tables_that_are_torn_are_named(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(RecoError, match=r"a\.csv: .*make"):
        read_table(tmp_path / "a.csv")


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


# ---- digests that are kept --------------------------------------------------------------------

LONG_AGO = 1_700_000_000


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of images, and a function that lists it: the table's bytes, and what was read."""
    for i in range(150):
        picture(tmp_path / f"photos/{i % 7}/{i}.png", (4 + i, 4))
    (tmp_path / "photos/gone.jpg").symlink_to("nowhere")
    for path in (tmp_path / "photos").rglob("*.png"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    read = []

    def digest(path):
        read.append(path.name)
        return sha256(path)

    monkeypatch.setattr("reco.workflow.catalog.sha256", digest)

    def listed(known=tmp_path / "known.json", workers=3):
        read.clear()
        catalog_index(tmp_path / "photos", tmp_path / "index.csv", 1, known=known, workers=workers)
        return (tmp_path / "index.csv").read_bytes(), sorted(read)

    return listed


def test_an_added_image_is_the_only_one_that_is_read(tmp_path, index):
    serial, read = index(known=None, workers=1)
    assert len(read) == 151
    assert index() == (serial, read)
    assert index() == (serial, ["gone.jpg"])  # what could not be read may be there now
    picture(tmp_path / "photos/new.png")
    table, read = index()
    assert read == ["gone.jpg", "new.png"]
    assert index(known=None, workers=1)[0] == table
    (tmp_path / "photos/3/3.png").unlink()
    assert b"3/3.png" not in index()[0]


def test_a_replaced_image_is_read_again(tmp_path, index):
    serial, _ = index()
    image = tmp_path / "photos/3/3.png"
    picture(image, (40, 40))
    os.utime(image, (LONG_AGO, LONG_AGO))
    larger, read = index()
    assert read == ["3.png", "gone.jpg"] and larger != serial
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"x")
    os.utime(image, (LONG_AGO, LONG_AGO + 1))
    later, read = index()
    assert read == ["3.png", "gone.jpg"] and later != larger
    assert index(known=None)[0] == later


def test_an_image_that_has_just_changed_is_not_trusted(tmp_path, index):
    """Written twice within a tick of the file system's clock, it would look the same."""
    image = picture(tmp_path / "photos/3/3.png", (50, 50))
    index()
    state = image.stat()
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert index()[1] == ["3.png", "gone.jpg"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"', "'"),
        lambda text: text.replace("1700000000", "1700000001", 1),
        lambda text: "\udcff",
        "another folder",
        "of another version",
    ],
)
def test_keys_that_are_damaged_or_foreign_are_no_use(tmp_path, index, spoil, caplog):
    known = tmp_path / "known.json"
    serial, everything = index()
    if callable(spoil):
        text = spoil(known.read_text())
        known.write_bytes(text.encode(errors="surrogateescape"))
    elif spoil == "another folder":
        picture(tmp_path / "other/3/3.png")
        write_seen(known, tmp_path / "other", {"3/3.png": Seen(1, 1, "x")})
    else:
        write_seen(known, tmp_path / "photos", {"3/3.png": (1, 2)})
    with caplog.at_level("WARNING", "reco"):
        assert index() == (serial, everything)
    assert "known.json: no use (" in caplog.text and "all images are read again" in caplog.text
    assert index()[1] == ["gone.jpg"]

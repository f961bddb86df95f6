"""Pictures that people bring: every kind decoded alike, and whatever is damaged refused."""

import os
import struct
import time
import warnings
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from reco.data.geometry import Geometry
from reco.data.images import KINDS, STRIP, middle, read_image, read_size, read_values, to_rgb
from reco.errors import RecoError
from reco.models.preprocessing import Normalised

CORNER = np.zeros((40, 64, 3), np.uint8)
CORNER[:20, :32] = 255  # tells every turn from every other
TURNED = ("JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if ".avif" in KINDS else []))


def exif(*entries: tuple[int, int, int, bytes], tail: bytes = b"") -> bytes:
    """EXIF with any entries (tag, kind, count, value), sound or not."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    return head + body + struct.pack("<I", 0) + tail


TURN = (0x112, 3, 1, struct.pack("<HH", 6, 0))
BEHIND = struct.pack("<I", 8 + 2 + 2 * 12 + 4)
UNWRITABLE = {
    "a negative share": exif(TURN, (0x829A, 10, 1, BEHIND), tail=struct.pack("<ii", -1, 0)),
    "text for a number": exif(TURN, (0x11B, 2, 1, b"7\0\0\0")),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", TURNED)
def test_every_kind_is_turned_once_as_exif_says(tmp_path, kind, orientation):
    notes = Image.Exif()
    notes[0x112] = orientation
    path = tmp_path / "a"
    Image.fromarray(CORNER).save(path, format=kind, exif=notes)
    found = read_image(path)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    np.testing.assert_array_equal(found, upright)
    assert read_size(path) == found.size
    np.testing.assert_array_equal(to_rgb(found), upright)  # not a second time


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("notes", UNWRITABLE.values(), ids=UNWRITABLE)
def test_notes_that_cannot_be_written_back_do_no_harm(tmp_path, notes, kind):
    """As phones make them: pixels and orientation can be read, another entry cannot."""
    path = tmp_path / "a"
    Image.fromarray(CORNER).save(path, format=kind, exif=notes)
    found = np.asarray(read_image(path))
    assert (
        found.shape == (64, 40, 3) and found[:32, 20:].min() > 200 and read_size(path) == (40, 64)
    )


def test_an_orientation_that_is_no_number_turns_nothing(tmp_path):
    notes = exif((0x112, 2, 2, b"6\0\0\0"))
    Image.fromarray(CORNER).save(tmp_path / "a.jpg", exif=notes)
    assert read_image(tmp_path / "a.jpg").size == read_size(tmp_path / "a.jpg") == (64, 40)


# ---- depths -----------------------------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 1, 80, dtype=np.float32), (60, 1))


@pytest.mark.parametrize(
    ("values", "suffix", "mean"),
    [
        (RAMP, "tif", 127),
        ((RAMP * 65535).astype(np.uint16), "png", 127),
        ((RAMP * 65535).astype(np.uint16), "tif", 127),
        ((RAMP * 250).astype(np.uint16), "png", 0),  # dark, and stays so
        ((RAMP * 65535).astype(np.int32), "tif", 127),
    ],
)
def test_brightness_goes_by_the_depth_not_by_the_picture(tmp_path, values, suffix, mean):
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    found = np.asarray(read_image(tmp_path / f"a.{suffix}"))
    assert found.dtype == np.uint8 and abs(found.mean() - mean) < 1


@pytest.mark.parametrize("values", [RAMP * 255, RAMP - 1, RAMP * np.nan, (RAMP * 1e6).astype("i4")])
def test_values_that_may_mean_anything_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(RecoError, match=r"a\.tif: not a readable image: values from .*8 bits"):
        read_image(tmp_path / "a.tif")


# ---- what is no picture -----------------------------------------------------------------------


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    for read in (read_image, read_size, read_values):
        with pytest.raises(RecoError, match=r"a\.jpg: not a file"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "a.eps"])
def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch, name):
    """EPS is a program; Pillow would have Ghostscript run it, whatever the file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / name).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    for read in (read_image, read_size, read_values):
        with pytest.raises(RecoError, match="not a readable"):
            read(tmp_path / name)
    assert not (tmp_path / "started").exists()


def test_labels_are_never_read_from_a_format_that_changes_values(tmp_path):
    Image.fromarray(CORNER[..., 0]).save(tmp_path / "mask.png", format="JPEG")
    with pytest.raises(RecoError, match=r"mask\.png: not a readable mask: damaged, or not PNG"):
        read_values(tmp_path / "mask.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("read", [read_image, read_size, read_values])
def test_a_picture_beyond_all_measure_is_named(tmp_path, read):
    Image.new("1", (20000, 10000)).save(tmp_path / "a.png")
    with pytest.raises(RecoError, match=r"a\.png: not a readable .*exceeds limit"):
        read(tmp_path / "a.png")


# ---- strips -----------------------------------------------------------------------------------


class Network(Normalised):
    size, mean, std = 320, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.mark.parametrize("size", [(6000, 1), (1, 6000), (100_000, 3)])
def test_a_centre_square_of_a_strip_needs_no_whole_strip(size, monkeypatch):
    resized, resize = [], Image.Image.resize

    def noted(image, wanted, *rest, **more):
        resized.append(wanted)
        return resize(image, wanted, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", noted)
    strip = Image.new("RGB", size, (200, 100, 0))
    assert Network().preprocess(strip).shape == (3, 320, 320)
    assert Geometry(320, crop=True).picture(strip).size == (320, 320)
    assert resized and all(width * height <= 320 * 320 * STRIP for width, height in resized)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 300))
def test_the_middle_is_in_the_middle(shorter, more):
    strip = Image.fromarray(np.arange(shorter + more, dtype=np.int32)[None].repeat(shorter, 0))
    row = np.asarray(middle(strip))[0]
    assert len(row) <= STRIP * shorter + 1 and (np.diff(row) == 1).all()
    assert abs(row[0] - (shorter + more - 1 - row[-1])) <= 1


def test_a_strip_that_is_wanted_whole_is_refused_before_memory_runs_out():
    with pytest.raises(RecoError, match="6000x1 pixels: would become 1920000x320"):
        Geometry(320).picture(Image.new("RGB", (6000, 1)))


# ---- damage -----------------------------------------------------------------------------------

SECONDS = 20


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, a piece cut out or doubled, or the end cut off."""
    values = bytearray(content)
    way, at = rng.integers(4), int(rng.integers(len(values)))
    if way == 0:
        return bytes(values[:at])
    piece = slice(at, at + int(rng.integers(1, 40)))
    if way == 1:
        del values[piece]
    elif way == 2:
        values[at:at] = values[piece]
    else:
        # The first bytes, with sizes and notes, are where decoders stumble.
        places = rng.integers(min(len(values), 400 if rng.random() < 0.7 else len(values)), size=6)
        for place in places[: int(rng.integers(1, 7))]:
            values[place] = rng.integers(256)
    return bytes(values)


def whole_files() -> list[bytes]:
    """A small picture in every format, with notes and without."""
    notes = Image.Exif()
    notes[0x112], notes[0x10F] = 6, "a camera"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8))
    files = []
    for kind in dict.fromkeys(KINDS.values()):
        for options in ({}, {"exif": notes}) if kind in TURNED else ({},):
            for mode in ("RGB", "L", "P") if kind in ("PNG", "TIFF", "BMP", "GIF") else ("RGB",):
                file = BytesIO()
                picture.convert(mode).save(file, format=kind, **options)
                files.append(file.getvalue())
    deep = BytesIO()
    Image.fromarray((RAMP[:16, :24] * 65535).astype(np.uint16)).save(deep, format="PNG")
    return [*files, deep.getvalue()]


def test_damaged_pictures_are_refused_or_read_and_nothing_else(tmp_path):
    """Seeded; as many as fit into the time, which is a few thousand."""
    files, path, counts = whole_files(), tmp_path / "a.jpg", {True: 0, False: 0}
    end, seed = time.monotonic() + SECONDS, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while time.monotonic() < end and seed < 20_000:
            rng = np.random.default_rng(seed)
            path.write_bytes(damaged(files[seed % len(files)], rng))
            for read in (read_image, read_size, read_values):
                try:
                    found = read(path)
                except RecoError as error:
                    assert str(error).startswith(f"{path}: not a readable"), seed
                    counts[False] += 1
                except Exception as error:
                    pytest.fail(f"damage {seed}, {read.__name__}: {error!r}")
                else:
                    counts[True] += 1
                    if read is read_image:
                        assert found.mode == "RGB" and np.asarray(found).dtype == np.uint8
            seed += 1
    assert min(counts.values()) > 100, counts

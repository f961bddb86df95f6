"""Geometry of benchmark images: the released presets as torchvision computes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from reco.config import check_config
from reco.data.geometry import BILINEAR, NEAREST, Geometry, choose_geometry
from reco.errors import RecoError

SIDES = st.integers(5, 120)


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(4, 90), st.sampled_from(["nearest", "bilinear"]))
def test_released_presets_are_torchvisions(width, height, size, name):
    rng = np.random.default_rng(width * 1000 + height)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    known = transforms.resize(image, size, InterpolationMode(name))
    known = transforms.center_crop(known, size)
    found = Geometry(size, True, {"nearest": NEAREST, "bilinear": BILINEAR}[name]).picture(image)
    assert found.size == known.size and (np.asarray(found) == np.asarray(known)).all()


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(4, 90), st.booleans())
def test_labels_are_cut_like_pictures_and_never_mixed(width, height, size, crop):
    labels = np.arange(width * height).reshape(height, width) % 7 - 1
    geometry = Geometry(size, crop)
    cut = geometry.labels(labels)
    picture = geometry.picture(Image.new("RGB", (width, height)))
    assert cut.shape == picture.size[::-1]
    assert min(cut.shape) == size and np.isin(cut, labels).all()


def choose(kind, geometry="released", size=320):
    benchmark = {"kind": kind} | ({} if kind == "stamps" else {"root": "/data"})
    values = {"recipe": "paper", "geometry": geometry, "sizes": {"benchmark": size}}
    return choose_geometry(check_config({**values, "benchmark": benchmark}))


def test_presets_by_benchmark():
    assert choose("cityscapes") == choose("coco_stuff") == Geometry(320, True, NEAREST)
    assert choose("pascal_context") == Geometry(320, True, BILINEAR)
    assert choose("kitti_step") == Geometry(None)
    assert choose("cityscapes", "whole") == Geometry(320)
    assert choose("kitti_step", "whole", None) == Geometry(None)
    with pytest.raises(RecoError, match="geometry: whole"):
        choose("stamps")

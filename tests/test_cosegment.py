"""Co-segmentation against the released code's numbers and against a slow, obvious restatement."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reco.cosegment import context_weights, cosegment, guidance, normalise, resize

FIXTURES = Path(__file__).parent / "fixtures"
MERGES = {"mean": "avg", "weighted": "weighted", "winner": "winner"}


def slow_cosegment(features, weights, released=False):
    """The paper's rule with the whole adjacency matrix, loop by loop."""
    n, c, h, w = features.shape
    pixels = features.transpose(0, 2, 3, 1).reshape(n * h * w, c).astype(np.float64)
    unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    adjacency = (unit @ unit.T) * weights.reshape(1, -1)
    hw = h * w
    ends = [(2 * j * hw + hw if released else (j + 1) * hw) for j in range(n)]
    best = np.stack([adjacency[:, j * hw : ends[j]].max(1) for j in range(n)], 1)
    support = best.mean(1).reshape(n, hw)
    seeds = support.argmax(1)
    mean = np.stack([pixels[i * hw + seeds[i]] for i in range(n)]).mean(0)
    return mean / np.linalg.norm(mean), np.stack(np.divmod(seeds, w), 1), support.reshape(n, h, w)


def paper_size_inputs():
    """The recipe of the fixture: random features with a planted object and near-duplicates."""
    rng = np.random.default_rng(20221128)
    n, c, h, w = 50, 384, 14, 14
    x = rng.standard_normal((n, c, h * w))
    u = rng.standard_normal(c)
    u /= np.linalg.norm(u)
    planted = rng.integers(0, h * w, n)
    x[np.arange(n), :, planted] += np.sqrt(c) * u
    for p, q in [(7, 40), (9, 43), (10, 48), (12, 46), (16, 49)]:
        duplicate = rng.standard_normal(c)
        for i in (p, q):
            k = int(rng.integers(0, h * w - 1))
            k += k >= planted[i]
            x[i, :, k] = duplicate + 0.1 * rng.standard_normal(c)
    x *= rng.uniform(0.5, 1.5, (n, 1, h * w))
    features = (np.clip(np.rint(x * 16), -127, 127) / 16).reshape(n, c, h, w).astype(np.float16)
    wt = np.rint(256 * rng.uniform(0.2, 1.0, (n, h * w)))
    wt[np.arange(n), planted] = np.maximum(wt[np.arange(n), planted], 205)
    return features, (wt / 256).reshape(n, h, w).astype(np.float16)


@pytest.mark.parametrize("weighted", ["noweights", "weights"])
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("merge", MERGES)
def test_small_fixture(merge, variant, weighted):
    data = np.load(FIXTURES / "coseg_small.npz")
    weights = data["weights"] if weighted == "weights" else None
    result = cosegment(data["features"], weights, merge=merge, variant=variant)
    name = f"{variant}__{weighted}"
    np.testing.assert_array_equal(result.seeds, data[f"seed_locs__{name}"])
    np.testing.assert_allclose(result.support, data[f"support__{name}"], rtol=0, atol=2e-5)
    wanted = data[f"embedding__{name}__{MERGES[merge]}"]
    np.testing.assert_allclose(result.reference, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("weighted", ["noweights", "weights"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_paper_size_fixture(variant, weighted):
    data = np.load(FIXTURES / "coseg_paper_size.npz")
    features, weights = paper_size_inputs()
    assert hashlib.sha256(features.tobytes()).hexdigest() == str(data["features_sha256"])
    result = cosegment(features, weights if weighted == "weights" else None, variant=variant)
    name = f"{variant}__{weighted}"
    np.testing.assert_array_equal(result.seeds, data[f"seed_locs__{name}"])
    wanted = data[f"embedding__{name}__avg"]
    np.testing.assert_allclose(result.reference, wanted, rtol=0, atol=2e-5)
    if variant == "paper":
        np.testing.assert_array_equal(result.seeds, data["planted_locs"])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 999))
def test_equals_whole_adjacency_matrix(n, h, w, released, seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 7, h, w)).astype(np.float32)
    weights = rng.uniform(0, 1, (n, h, w)).astype(np.float32)
    result = cosegment(features, weights, variant="released" if released else "paper")
    reference, seeds, support = slow_cosegment(features, weights, released)
    np.testing.assert_allclose(result.support, support, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(result.seeds, seeds)
    np.testing.assert_allclose(result.reference, reference, rtol=0, atol=2e-5)


@pytest.mark.parametrize("n", [49, 98, 103])
def test_weighted_merge_at_sizes_that_crash_the_released_code(n):
    features = np.random.default_rng(n).standard_normal((n, 4, 1, 1)).astype(np.float32)
    result = cosegment(features, merge="weighted")
    falling = (1 - np.arange(n) / n)[:, None] * features[:, :, 0, 0]
    np.testing.assert_allclose(result.reference, normalise(falling.sum(0)), atol=1e-5)


def test_bad_inputs_are_named():
    good = np.ones((2, 3, 4, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="weights must be"):
        cosegment(good, np.ones((2, 4, 5)))
    with pytest.raises(ValueError, match="nan"):
        cosegment(good * np.nan)
    with pytest.raises(ValueError, match="merge"):
        cosegment(good, merge="median")
    with pytest.raises(ValueError, match="empty"):
        cosegment(good[:0])


@pytest.mark.parametrize("which", ["single", "multi"])
@pytest.mark.parametrize(("way", "size"), [("native", (5, 7)), ("up", (10, 9)), ("down", (3, 4))])
def test_guidance_fixture(which, way, size):
    data = np.load(FIXTURES / "text_attention.npz")
    maps = guidance(data["features"], data[f"text_{which}"], size)
    np.testing.assert_allclose(maps, data[f"attention_{which}_{way}"], rtol=0, atol=2e-5)
    if (which, way) == ("multi", "up"):  # the other order is another result
        other = data["attention_multi_up_resize_before_sigmoid"]
        assert np.abs(maps - other).max() > 1e-3


@pytest.mark.parametrize("way", ["none", "text", "context", "both"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_context_fixture(variant, way):
    data = np.load(FIXTURES / "context_weights.npz")
    weights = np.ones((6, 7, 5), dtype=np.float32)
    if way in ("text", "both"):
        weights = weights * guidance(data["dense_clip_features"], data["text_feature"], (7, 5))
    if way in ("context", "both"):
        weights = weights * context_weights(data["features"], data["context_features"])
    np.testing.assert_allclose(weights, data[f"weights__{way}"], rtol=0, atol=2e-5)
    result = cosegment(data["features"], weights, variant=variant)
    np.testing.assert_array_equal(result.seeds, data[f"seed_locs__{variant}__{way}"])
    wanted = data[f"embedding__{variant}__{way}"]
    np.testing.assert_allclose(result.reference, wanted, rtol=0, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(*[st.integers(1, 9)] * 4, st.integers(0, 999))
def test_resize_equals_pytorch(h, w, tall, wide, seed):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(seed).random((2, h, w)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[None], size=(tall, wide), mode="bilinear", align_corners=False
    )[0]
    np.testing.assert_allclose(resize(maps, (tall, wide)), wanted.numpy(), rtol=0, atol=1e-5)

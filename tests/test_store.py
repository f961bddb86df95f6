"""The store: what goes in comes out, by key; damage is noticed."""

import numpy as np
import pytest

from reco.data.store import Place, Store, read_places
from reco.errors import RecoError


def test_round_trip_over_several_shards(tmp_path):
    store = Store(tmp_path / "s")
    assert store.places() == {}
    arrays = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(np.float16)
    store.append(["a", "b"], arrays[:2])
    store.append(["c", "d", "e"], arrays[2:])
    places = store.places()
    assert list(places) and set(places) == set("abcde")
    order = ["e", "a", "c"]
    np.testing.assert_array_equal(
        read_places([places[key] for key in order]), arrays[[4, 0, 2]].astype(np.float32)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_values_that_half_precision_cannot_hold_are_refused(tmp_path, bad):
    with pytest.raises(RecoError, match="nan, infinity"):
        Store(tmp_path).append(["a"], np.array([[bad]]))
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path):
    store = Store(tmp_path)
    store.append(["a"], np.ones((1, 400)))
    place = store.places()["a"]
    with open(place.shard, "r+b") as file:
        file.truncate(200)
    with pytest.raises(RecoError, match="damaged or missing"):
        read_places([place])
    with pytest.raises(RecoError, match=r"delete .*none\.\* and run again"):
        read_places([Place(str(tmp_path / "none.npy"), 0)])


def test_a_shard_without_its_list_of_keys_is_not_trusted(tmp_path):
    store = Store(tmp_path)
    store.append(["a"], np.ones((1, 4)))
    next(tmp_path.glob("*.keys")).unlink()
    assert store.places() == {}

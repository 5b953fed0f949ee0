import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toto.errors import UserError
from toto.tokens.mixture import Entry, Manifest, draw, in_validation, key_of, permute, window_offset


def manifest(*entries: tuple[str, int, int], seed: int = 0, frames: int = 4) -> Manifest:
    """Entries of (kind, weight, clips)."""
    return Manifest(
        entries=tuple(
            Entry(f"/data/{i}", f"{i:016x}", kind, weight, clips)
            for i, (kind, weight, clips) in enumerate(entries)
        ),
        seed=seed,
        frames=frames,
        split="train",
        validation_fraction=0.1,
        tokenizer="t",
    )


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 1000, 4095, 4096, 4097, 100_003])
def test_permute_is_a_bijection(size):
    for key in (0, 1, 2**64 - 1):
        permuted = permute(np.arange(size), size, key)
        assert np.array_equal(np.sort(permuted), np.arange(size))


def test_permute_takes_places_one_by_one_as_all_at_once():
    together = permute(np.arange(1000), 1000, 5)
    assert [int(permute(np.array([i]), 1000, 5)[0]) for i in range(1000)] == together.tolist()
    far = np.array([0, 10**12 - 1])
    assert (permute(far, 10**12, 5) < 10**12).all()


@pytest.mark.parametrize("size", [2, 3, 5, 16, 100])
def test_permute_takes_each_place_anywhere_equally_often(size):
    keys = 1000
    taken = np.stack([permute(np.arange(size), size, key_of("k", i)) for i in range(keys)])
    for place in (0, size // 2, size - 1):
        counts = np.bincount(taken[:, place], minlength=size)
        expected = keys / size
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < (size - 1) + 6 * np.sqrt(2 * size)
    # Neighbours do not stay neighbours.
    if size == 100:
        together = (np.abs(np.diff(taken, axis=1)) == 1).mean()
        assert abs(together - 2 * 99 / (100 * 99)) < 0.005


entries = st.lists(
    st.tuples(st.sampled_from(["video", "image"]), st.integers(1, 5), st.integers(1, 13)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=25)
@given(entries, st.integers(0, 5), st.integers(1, 5))
def test_shares_are_exact_and_nothing_repeats_within_an_epoch(entries, seed, frames):
    mixture = manifest(*entries, seed=seed, frames=frames)
    drawn = [draw(mixture, i) for i in range(mixture.block * 6)]
    for start in range(0, len(drawn), mixture.block):
        sources = Counter(d.source for d in drawn[start : start + mixture.block])
        assert sources == {i: weight for i, (_, weight, _) in enumerate(entries)}
    for source, (kind, _, clips) in enumerate(entries):
        mine = [d for d in drawn if d.source == source]
        assert {len(d.places) for d in mine} == {1 if kind == "video" else frames}
        places = [place for d in mine for place in d.places]
        # Epoch after epoch, each with every clip exactly once.
        assert [epoch for epoch, _ in places] == [k // clips for k in range(len(places))]
        for epoch in range(len(places) // clips):
            assert sorted(p for e, p in places if e == epoch) == list(range(clips))


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        mixture = manifest(("video", 1, 50), seed=seed)
        return tuple(draw(mixture, epoch * 50 + i).places[0][1] for i in range(50))

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_sources_alternate_within_a_block():
    mixture = manifest(("video", 50, 10), ("image", 50, 10))
    sources = np.array([draw(mixture, i).source for i in range(100)])
    assert 20 < (np.diff(sources) != 0).sum() < 80


SCRIPT = """
import json
from toto.tokens.mixture import Entry, Manifest, draw, window_offset
entries = (Entry("a", "f", "video", 3, 7), Entry("b", "g", "image", 2, 9))
m = Manifest(entries, 5, 4, "train", 0.1, "")
print(json.dumps([
    [[draw(m, i).source, draw(m, i).places] for i in range(0, 10**6, 43_211)],
    [window_offset(5, e, "clip é.mp4", 15) for e in range(20)],
]))
"""


def test_sequences_are_a_function_of_manifest_and_index_alone():
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    draws, offsets = json.loads(printed.pop())
    mixture = Manifest(
        (Entry("a", "f", "video", 3, 7), Entry("b", "g", "image", 2, 9)), 5, 4, "train", 0.1, ""
    )
    here = [draw(mixture, i) for i in range(0, 10**6, 43_211)]
    assert draws == [[d.source, [list(place) for place in d.places]] for d in here]
    assert offsets == [window_offset(5, e, "clip é.mp4", 15) for e in range(20)]
    assert set(offsets) <= set(range(16))
    assert len(set(offsets)) > 5


def test_the_order_never_changes():
    """Written down once: a run that an earlier version began must go on with the same data."""
    mixture = manifest(("video", 3, 7), ("image", 2, 9), seed=5)
    drawn = [draw(mixture, i) for i in (0, 1, 2, 10**6)]
    assert [(d.source, d.places) for d in drawn] == [
        (1, ((0, 4), (0, 6), (0, 5), (0, 1))),
        (0, ((0, 2),)),
        (0, ((0, 3),)),
        (0, ((85714, 3),)),
    ]
    assert [window_offset(5, e, "clip.mp4", 15) for e in range(6)] == [5, 12, 0, 6, 3, 13]
    held_out = [i for i in range(8) if in_validation(str(i), 0.3)]
    assert held_out == [1, 6, 7]


def test_the_split_depends_on_the_key_alone_and_takes_its_fraction():
    keys = [f"videos/{i}.mp4" for i in range(20_000)]
    held_out = [in_validation(key, 0.1) for key in keys]
    assert 0.09 < np.mean(held_out) < 0.11
    # A larger fraction keeps what a smaller one held out.
    assert all(in_validation(key, 0.3) for key, held in zip(keys, held_out, strict=True) if held)


def test_manifests_that_hold_nothing_are_refused():
    with pytest.raises(UserError, match="weight 0"):
        manifest(("video", 0, 3))
    with pytest.raises(UserError, match="nothing for the split"):
        manifest(("video", 1, 0))

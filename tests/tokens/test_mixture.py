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
from toto.tokens.mixture import (
    Entry,
    Manifest,
    Source,
    choose,
    draw,
    in_validation,
    key_of,
    permute,
    places_of,
    split_values,
)

Drawn = list[tuple[int, list[tuple[int, int]]]]


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


def drawn(mixture: Manifest, indices: range | list[int]) -> Drawn:
    """Each sequence's source, and its clips there as (epoch, place)."""
    found: dict[int, tuple[int, list[tuple[int, int]]]] = {}
    for share in draw(mixture, np.array(indices)):
        places_ = places_of(mixture, share.source, share.epochs, share.ranks)
        for i, epochs, places in zip(share.asked, share.epochs, places_, strict=True):
            assert int(i) not in found
            found[int(i)] = share.source, list(zip(epochs.tolist(), places.tolist(), strict=True))
    return [found[i] for i in range(len(indices))]


def hashes(count: int, name: str = "videos/{}.mp4") -> np.ndarray:
    return np.array([key_of("item", name.format(i)) for i in range(count)], np.uint64)


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 1000, 4095, 4096, 4097, 100_003])
def test_permute_is_a_bijection(size):
    for key in (0, 1, 2**64 - 1):
        permuted = permute(np.arange(size), size, key)
        assert np.array_equal(np.sort(permuted), np.arange(size))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection_of_any_size(size, key):
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@settings(deadline=None, max_examples=20)
@given(st.integers(10**9, 10**12), st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_permute_takes_no_two_of_a_billion_places_to_one(size, key, seed):
    places = np.unique(np.random.default_rng(seed).integers(size, size=20_000))
    places = np.union1d(places, [*range(500), *range(size - 500, size)])
    permuted = permute(places, size, key)
    assert len(np.unique(permuted)) == len(places)
    assert permuted.min() >= 0
    assert permuted.max() < size
    # They spread evenly over the whole range.
    assert np.ptp(np.bincount(permuted * 8 // size, minlength=8)) < 1000


def test_permute_takes_places_one_by_one_as_all_at_once():
    together = permute(np.arange(1000), 1000, 5)
    assert [int(permute(np.array([i]), 1000, 5)[0]) for i in range(1000)] == together.tolist()


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


some_entries = st.lists(
    st.tuples(st.sampled_from(["video", "image"]), st.integers(1, 5), st.integers(1, 13)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=40)
@given(some_entries, st.integers(0, 5), st.integers(1, 5))
def test_shares_are_exact_and_nothing_repeats_within_an_epoch(entries, seed, frames):
    mixture = manifest(*entries, seed=seed, frames=frames)
    sequences = drawn(mixture, range(mixture.block * 6))
    for start in range(0, len(sequences), mixture.block):
        sources = Counter(source for source, _ in sequences[start : start + mixture.block])
        assert sources == {i: weight for i, (_, weight, _) in enumerate(entries)}
    for source, (kind, _, clips) in enumerate(entries):
        mine = [places for of, places in sequences if of == source]
        assert {len(places) for places in mine} == {1 if kind == "video" else frames}
        # Epoch after epoch, each with every clip exactly once.
        places = [place for of_one in mine for place in of_one]
        assert [epoch for epoch, _ in places] == [k // clips for k in range(len(places))]
        for epoch in range(len(places) // clips):
            assert sorted(p for e, p in places if e == epoch) == list(range(clips))


@settings(deadline=None, max_examples=40)
@given(some_entries, st.lists(st.integers(0, 10**9), min_size=1, max_size=9))
def test_what_is_drawn_does_not_depend_on_what_is_drawn_with_it(entries, indices):
    mixture = manifest(*entries, seed=3)
    assert drawn(mixture, indices) == [drawn(mixture, [i])[0] for i in indices]


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        sequences = drawn(manifest(("video", 1, 50), seed=seed), range(50 * epoch, 50 * epoch + 50))
        return tuple(place for _, ((_, place),) in sequences)

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_sources_alternate_within_a_block():
    mixture = manifest(("video", 50, 10), ("image", 50, 10))
    sources = np.array([source for source, _ in drawn(mixture, range(100))])
    assert 20 < (np.diff(sources) != 0).sum() < 80


def source(lengths: list[int], clip: int = 4, crops: int = 1) -> Source:
    count = len(lengths)
    return Source(
        rows=np.arange(count) * crops,
        crops=np.full(count, crops, np.int16),
        frames=np.array(lengths),
        hashes=hashes(count),
        clip=clip,
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 9),
)
def test_windows_lie_inside_their_items_and_tile_them(lengths, clip, crops, seed, epoch):
    items = source(lengths, clip, crops)
    assert items.clips == sum(max(length // clip, 1) for length in lengths)
    places = np.arange(items.clips)
    found = items.locate(np.full(items.clips, epoch), places, seed)
    for i, length in enumerate(lengths):
        mine = found.rows // crops == i
        assert len(set(found.rows[mine].tolist())) == 1  # the epoch picks one crop
        firsts = found.firsts[mine].tolist()
        assert len(firsts) == max(length // clip, 1)
        assert firsts == [firsts[0] + w * clip for w in range(len(firsts))]
        assert 0 <= firsts[0] <= (length % clip if length >= clip else 0)
        assert set(found.frames[mine].tolist()) == {min(length, clip)}
        assert firsts[-1] + min(length, clip) <= length


@pytest.mark.parametrize("count", [1, 127, 128, 129, 2**15])
def test_any_number_of_clips_can_be_counted(count):
    items = source([1] * count, crops=1)
    assert items.clips == count
    places = np.array([0, count - 1])
    assert items.locate(np.zeros(2, np.int64), places, 0).rows.tolist() == places.tolist()


def test_offsets_and_crops_are_drawn_anew_each_epoch_and_all_come_up():
    items = source([11, 7, 19], crops=3)
    found = [items.locate(np.full(7, epoch), np.arange(7), 0) for epoch in range(60)]
    for first_clip, slack in ((0, 3), (2, 3), (3, 3)):
        offsets = Counter(int(where.firsts[first_clip]) for where in found)
        assert set(offsets) == set(range(slack + 1))
        crops = Counter(int(where.rows[first_clip]) % 3 for where in found)
        assert set(crops) == {0, 1, 2}
        assert min(crops.values()) > 8
    # Items do not go together.
    assert len({tuple((where.rows % 3)[[0, 2, 3]].tolist()) for where in found}) > 15
    other = items.locate(np.full(7, 0), np.arange(7), 1)
    assert any(other.firsts != found[0].firsts)


SCRIPT = """
import json
import numpy as np
from tests.tokens.test_mixture import drawn, hashes, manifest, source
from toto.tokens.mixture import split_values
mixture = manifest(("video", 3, 7), ("image", 2, 9), seed=5)
where = source([9, 4, 3, 14], crops=2).locate(np.arange(6), np.arange(6), 5)
print(json.dumps([
    drawn(mixture, range(0, 10**6, 43_211)),
    where.rows.tolist(), where.firsts.tolist(), split_values(hashes(5)).tolist(),
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
    sequences, rows, firsts, values = json.loads(printed.pop())
    here = drawn(manifest(("video", 3, 7), ("image", 2, 9), seed=5), range(0, 10**6, 43_211))
    assert sequences == json.loads(json.dumps(here))
    where = source([9, 4, 3, 14], crops=2).locate(np.arange(6), np.arange(6), 5)
    assert (rows, firsts) == (where.rows.tolist(), where.firsts.tolist())
    assert values == split_values(hashes(5)).tolist()


def test_the_order_never_changes():
    """Written down once: a run that an earlier version began must go on with the same data."""
    mixture = manifest(("video", 3, 7), ("image", 2, 9), seed=5)
    assert drawn(mixture, [0, 1, 2, 10**6]) == [
        (1, [(0, 4), (0, 6), (0, 5), (0, 1)]),
        (0, [(0, 2)]),
        (0, [(0, 3)]),
        (0, [(85714, 3)]),
    ]
    where = source([9, 4, 3, 14], crops=2).locate(np.arange(7) % 3, np.arange(7), 5)
    assert where.rows.tolist() == [0, 0, 3, 5, 6, 6, 6]
    assert where.firsts.tolist() == [1, 4, 0, 0, 0, 4, 9]
    assert hashes(2).tolist() == [8775696223605562202, 12845511922309008764]
    assert np.flatnonzero(split_values(hashes(20)) < 0.3).tolist() == [
        2,
        5,
        7,
        9,
        10,
        11,
        12,
        16,
        17,
        19,
    ]


def test_the_split_depends_on_the_key_alone_and_takes_its_fraction():
    values = split_values(hashes(20_000))
    assert 0.09 < (values < 0.1).mean() < 0.11
    assert values.min() >= 0
    assert values.max() < 1
    # A larger fraction keeps what a smaller one held out, and another purpose is another draw.
    assert ((values < 0.3) >= (values < 0.1)).all()
    others = split_values(hashes(20_000), "choose")
    assert abs(np.corrcoef(values, others)[0, 1]) < 0.03
    held_out = [in_validation(f"videos/{i}.mp4", 0.1) for i in range(100)]
    assert held_out == (values[:100] < 0.1).tolist()


@given(st.integers(0, 9), st.integers(0, 99), st.integers(1, 7))
def test_choices_are_in_range(seed, epoch, count):
    chosen = choose(seed, "it", np.full(50, epoch), hashes(50), np.full(50, count))
    assert chosen.min() >= 0
    assert chosen.max() < count
    assert count == 1 or len(set(chosen.tolist())) > 1


def test_manifests_that_hold_nothing_are_refused():
    with pytest.raises(UserError, match="weight 0"):
        manifest(("video", 0, 3))
    with pytest.raises(UserError, match="nothing for the split"):
        manifest(("video", 1, 0))

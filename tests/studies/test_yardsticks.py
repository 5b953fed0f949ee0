from math import log

import numpy as np
import pytest

from toto.studies.yardsticks import measure


def clips(count: int, frames: int, codes: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, codes, (frames, 2, 2)).astype(np.uint16) for _ in range(count)]


def probability(counted, clip, frame, row, col, codes, weight) -> float:
    """By counting one code after the other."""
    total = alike = 0
    for other in counted:
        for code in other.ravel().tolist():
            total += 1
            alike += code == clip[frame, row, col]
    unigram = (alike + 1) / (total + codes)
    if frame == 0 or weight == 0:
        return unigram
    before = followed = 0
    for other in counted:
        for f in range(1, len(other)):
            for r in range(2):
                for c in range(2):
                    if other[f - 1, r, c] == clip[frame - 1, row, col]:
                        before += 1
                        followed += other[f, r, c] == clip[frame, row, col]
    return weight * followed / before + (1 - weight) * unigram if before else unigram


def mean_nats(counted, measured, codes, weight, first=0) -> float:
    nats = [
        -log(probability(counted, clip, f, r, c, codes, weight))
        for clip in measured
        for f in range(first, len(clip))
        for r in range(2)
        for c in range(2)
    ]
    return sum(nats) / len(nats)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_against_counting_one_by_one(first):
    train = clips(6, 4, 3, seed=0)
    for clip in train:
        clip[2:] = clip[1:-1]  # so that the frame before tells something
    test = [*clips(2, 3, 4, seed=1), train[0][:3]]  # code 3 never occurs in training
    found = measure(train, test, 5, first)
    assert found.uniform == pytest.approx(log(5))
    assert found.unigram == pytest.approx(mean_nats(train, test, 5, 0.0, first))
    # The weight: the best on every fifth clip, counting the others.
    held_out, counted = [train[0], train[5]], train[1:5]
    weights = np.linspace(0, 0.99, 100)
    weight = min(weights, key=lambda w: mean_nats(counted, held_out, 5, float(w), 1))
    assert weight > 0.2
    assert found.previous_frame == pytest.approx(mean_nats(train, test, 5, float(weight), first))


def test_a_markov_source_is_predicted_down_to_its_entropy():
    rng = np.random.default_rng(0)
    codes = 4
    transition = rng.dirichlet(np.full(codes, 0.4), codes)
    stationary = np.linalg.matrix_power(transition, 500)[0]

    def source(count: int) -> list[np.ndarray]:
        made = np.empty((count, 8, 2, 2), np.uint16)
        made[:, 0] = rng.choice(codes, (count, 2, 2), p=stationary)
        for f in range(1, 8):
            draws = rng.random((count, 2, 2, 1))
            made[:, f] = (transition[made[:, f - 1]].cumsum(-1) < draws).sum(-1)
        return list(made)

    found = measure(source(3000), source(3000), codes, first_frame=1)
    entropy = -(stationary[:, None] * transition * np.log(transition)).sum()
    assert found.previous_frame == pytest.approx(entropy, abs=0.02)
    assert found.unigram == pytest.approx(-(stationary * np.log(stationary)).sum(), abs=0.02)
    assert entropy < found.unigram - 0.2


def test_the_frame_before_does_no_harm_where_it_tells_nothing():
    found = measure(clips(200, 4, 8, seed=2), clips(200, 4, 8, seed=3), 8)
    assert found.previous_frame == pytest.approx(found.unigram, abs=0.005)
    assert found.unigram == pytest.approx(log(8), abs=0.01)


def test_a_single_clip_or_frame_is_enough():
    assert measure(clips(1, 3, 4, seed=0), clips(1, 3, 4, seed=1), 4).previous_frame > 0
    single = measure(clips(7, 1, 4, seed=0), clips(2, 1, 4, seed=1), 4)
    assert single.previous_frame == single.unigram

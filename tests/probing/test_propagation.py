"""Propagation against its protocols in plain loops, and against Pillow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from toto.errors import UserError
from toto.probing import propagation
from toto.probing.config import Propagation
from toto.probing.propagation import Propagator, coarsened, grow_labels, shrink_labels
from toto.recipes.tracking import dino, stc

GRID, CHANNELS, OBJECTS, FRAMES = (3, 4), 5, 3, 7
PLACES = [(row, col) for row in range(GRID[0]) for col in range(GRID[1])]


def drawn(kinds: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of all frames, perhaps of few kinds as codes have, and labels of the first."""
    torch.manual_seed(0)
    features = torch.randn(FRAMES, len(PLACES), CHANNELS)
    if kinds:
        features = torch.eye(CHANNELS)[torch.randint(kinds, (FRAMES, len(PLACES)))]
    return features, torch.rand(len(PLACES), OBJECTS).softmax(1)


def carried(how: Propagation, features: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    propagator = Propagator(how, GRID, features[0], labels)
    return [propagator.step(frame) for frame in features[1:]]


def likeness(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one @ other / one.norm() / other.norm())


def stc_by_hand(how: Propagation, features: torch.Tensor, first: torch.Tensor) -> list[np.ndarray]:
    """A list that begins with as many copies of the first frame as the queue holds, and each frame
    reads the queue before it, and the first one without a radius."""
    seen = [(features[0], first.numpy())] * how.queue
    found = []
    for frame in features[1:]:
        labels = np.zeros((len(PLACES), OBJECTS))
        for place, own in enumerate(frame):
            every = [(likeness(x, own), first[i].numpy()) for i, x in enumerate(features[0])]
            for keys, values in seen[-how.queue :]:
                for i, key in enumerate(keys):
                    if np.hypot(*np.subtract(PLACES[i], PLACES[place])) < how.radius:
                        every.append((likeness(key, own), values[i]))
            best = sorted(every, key=lambda pair: -pair[0])[: how.top_k]
            weights = np.exp([value / how.temperature for value, _ in best])
            labels[place] = weights / weights.sum() @ np.array([x for _, x in best])
        seen.append((frame, labels))
        found.append(labels)
    return found


def dino_by_hand(how: Propagation, features: torch.Tensor, first: torch.Tensor) -> list[np.ndarray]:
    """The first frame and a queue that is empty at first, all in a window; what is below the k-th
    value of all is 0."""
    queue: list[tuple[torch.Tensor, np.ndarray]] = []
    found = []
    for frame in features[1:]:
        labels = np.zeros((len(PLACES), OBJECTS))
        for place, own in enumerate(frame):
            values, theirs = [], []
            for keys, known in [(features[0], first.numpy()), *queue]:
                for i, key in enumerate(keys):
                    near = np.abs(np.subtract(PLACES[i], PLACES[place])).max() <= how.radius
                    values.append(np.exp(likeness(key, own) / how.temperature) * near)
                    theirs.append(known[i])
            weights = np.array(values)
            weights[weights < np.sort(weights)[-how.top_k :][0]] = 0
            labels[place] = weights / weights.sum() @ np.array(theirs)
        queue = [*queue, (frame, labels)][-how.queue :]
        found.append(labels)
    return found


@pytest.mark.parametrize(
    ("how", "by_hand", "kinds"),
    [
        (Propagation(queue=3, top_k=4, radius=1.5), stc_by_hand, None),
        (Propagation(queue=1, top_k=1, radius=0.5), stc_by_hand, None),
        (replace(dino(), queue=2, top_k=5, radius=1.0), dino_by_hand, None),
        (replace(dino(), queue=4, top_k=60, radius=2.0), dino_by_hand, None),
        (replace(dino(), queue=3, top_k=5, radius=2.0), dino_by_hand, 3),
    ],
)
def test_labels_are_carried_as_the_protocol_says(how, by_hand, kinds, monkeypatch):
    features, labels = drawn(kinds)
    expected = by_hand(how, features, labels)
    for at_once in (2**26, 100):  # the places of a frame together, or a few at a time
        monkeypatch.setattr(propagation, "_AT_ONCE", at_once)
        for found, wanted in zip(carried(how, features, labels), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("how", [stc(), dino()])
def test_what_only_moves_is_followed(how):
    """Every place has a feature of its own, which moves a column to the right in each frame."""
    rows, cols = 4, 9
    features = torch.eye(rows * cols).unflatten(0, (rows, cols))
    labels = torch.zeros(rows, cols, 2)
    labels[..., 0] = 1
    labels[1:3, :2] = torch.tensor([0.0, 1.0])
    narrow = replace(how, top_k=1, radius=2.5)
    propagator = Propagator(narrow, (rows, cols), features.flatten(0, 1), labels.flatten(0, 1))
    for step in range(1, 5):
        found = propagator.step(features.roll(step, 1).flatten(0, 1)).unflatten(0, (rows, cols))
        inside = slice(step, None)  # what came in from the other side is new
        assert torch.equal(found[:, inside].argmax(-1), labels.roll(step, 1)[:, inside].argmax(-1))


def test_first_labels_are_opencvs_bilinear_or_pillows_nearest():
    torch.manual_seed(0)
    numbers = torch.randint(0, 3, (20, 31), dtype=torch.uint8)
    soft = shrink_labels(stc(), numbers, (3, 7), 2).unflatten(0, (3, 7))
    whole = np.eye(3)[numbers.numpy()]
    for row in range(3):
        for col in range(7):  # of the four pixels around a place's middle
            y, x = (row + 0.5) * 20 / 3 - 0.5, (col + 0.5) * 31 / 7 - 0.5
            top, left = int(y), int(x)
            down, right = y - top, x - left
            wanted = (1 - down) * ((1 - right) * whole[top, left] + right * whole[top, left + 1])
            wanted += down * ((1 - right) * whole[top + 1, left] + right * whole[top + 1, left + 1])
            np.testing.assert_allclose(soft[row, col], wanted, atol=1e-5)
    hard = shrink_labels(dino(), numbers, (3, 7), 2).argmax(1).unflatten(0, (3, 7))
    small = Image.fromarray(numbers.numpy()).resize((7, 3), Image.Resampling.NEAREST)
    assert hard.tolist() == np.asarray(small).tolist()


def test_masks_are_the_likeliest_and_stretching_lifts_the_faint():
    labels = torch.tensor([[0.9, 0.1], [0.7, 0.3]])  # the second object is nowhere likeliest
    plain = grow_labels(stc(), labels, (1, 2), (4, 8))
    assert plain.shape == (4, 8) and plain.dtype == torch.uint8 and not plain.any()
    stretched = grow_labels(dino(), labels, (1, 2), (4, 8))
    assert stretched[:, 0].tolist() == [0] * 4 and stretched[:, -1].tolist() == [1] * 4


def test_a_coarse_mask_has_what_most_of_each_place_is():
    numbers = torch.zeros(8, 8, dtype=torch.uint8)
    numbers[:4, :4] = 1
    numbers[4:, :3] = 2
    # As fine as its pixels it is itself; on a grid of 2 x 2 two pixels short of a place count.
    assert torch.equal(coarsened(numbers, (8, 8), 2), numbers)
    assert coarsened(numbers, (2, 2), 2)[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [1, 0, 2, 0]
    numbers[4:, 1:] = 0
    assert coarsened(numbers, (2, 2), 2)[-1, 0] == 0


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"queue": 0}, "queue 0"), ({"radius": 0.0}, "radius 0.0"), ({"temperature": -1.0}, "above")],
)
def test_settings_of_no_sense(setting, said):
    with pytest.raises(UserError, match=said):
        Propagation(**setting)

"""J and F against their definitions, point by point, and what DAVIS's own evaluation gives."""

import json
from math import ceil, hypot
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toto.media.masks import read_mask
from toto.tasks.segmentation import Measured, Score, Truth


def edge_points(mask: np.ndarray) -> list[tuple[int, int]]:
    """Pixels unlike the one to the right, below, or to the right and below."""
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            down, right = min(y + 1, height - 1), min(x + 1, width - 1)
            others = {mask[y, right], mask[down, x], mask[down, right]}
            if others != {mask[y, x]}:
                found.append((y, x))
    return found


def by_hand(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    either = (mask | truth).sum()
    j = (mask & truth).sum() / either if either else 1.0
    radius = ceil(0.008 * hypot(*mask.shape))
    own, true = edge_points(mask), edge_points(truth)
    if not own or not true:
        return j, float(not own and not true)

    def near(points: list, others: list) -> float:
        gaps = np.subtract(np.array(points)[:, None], np.array(others)[None])
        return float((np.square(gaps).sum(-1).min(1) <= radius**2).mean())

    precision, recall = near(own, true), near(true, own)
    return j, 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def measure(mask: np.ndarray, truth: np.ndarray, objects: int) -> list[tuple[float, float]]:
    j, f = Truth(torch.from_numpy(truth), objects).measure(torch.from_numpy(mask))
    return [*zip(j.tolist(), f.tolist(), strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 170), st.integers(1, 170))
def test_j_and_f_are_what_they_are_defined_as(seed, height, width):
    """Boxes here and there, some outside, so that objects may be missing in either mask."""
    random = np.random.default_rng(seed)
    masks = np.zeros((2, height, width), np.uint8)
    for number in (1, 2, 3):
        y, x = random.integers(height), random.integers(width)
        for mask in masks:
            top, left = (max(0, int(v + random.integers(-4, 5))) for v in (y, x))
            mask[top : top + random.integers(20), left : left + random.integers(20)] = number
    mask, truth = masks
    expected = [by_hand(mask == i, truth == i) for i in (1, 2, 3)]
    np.testing.assert_allclose(measure(mask, truth, 3), expected, atol=1e-12)


def test_scores_are_means_over_objects_of_all_videos():
    """By hand; the decay is of the first and the last of four overlapping parts."""
    rising = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0]
    two = Measured(j=[[0.5] * 8, rising], f=[[1.0] * 8, [0.0] * 8])
    one = Measured(j=[[1.0] * 8], f=[[0.6] * 8])
    score = Score.of([two, one])
    assert score.j_mean == pytest.approx((0.5 + 0.625 + 1) / 3)
    assert score.j_recall == pytest.approx((0 + 5 / 8 + 1) / 3)  # 0.5 itself is not above 0.5
    # Of eight frames the parts are 1-3, 3-5 (4.5 is even: 4), 5-6, 6-8, each with both ends.
    assert score.j_decay == pytest.approx((0.2 - 1.0) / 3)
    assert score.f_mean == pytest.approx((1.0 + 0.0 + 0.6) / 3)
    assert score.jf == pytest.approx((score.j_mean + score.f_mean) / 2) == score.values[0]


@pytest.mark.real
def test_values_of_the_official_evaluation(real):
    """Its J and F of published masks, by frame: of one object each, and of several."""
    davis = real / "davis"
    published = davis / "davis2017-evaluation/results/semi-supervised/osvos"
    official = davis / "MathLee_EOR-VOS/DAVIS/Annotations/480p"
    expected = reference(davis / "reference_metrics/osvos_vs_davis2016_binary.json")
    for name in ("bmx-trees", "dog", "libby"):
        for i, path in enumerate(sorted((official / name).glob("*.png"))):
            mask, truth = read_mask(published / name / path.name), read_mask(path, is_white=True)
            ((j, f),) = measure((mask > 0).astype(np.uint8), (truth > 0).astype(np.uint8), 1)
            assert j == pytest.approx(expected[name]["J_per_frame"][i], abs=1e-6)
            assert f == pytest.approx(expected[name]["F_per_frame"][i], abs=1e-6)
        statistics = Score.of(
            [Measured(*([expected[name][f"{m}_per_frame"][1:-1]] for m in "JF"))]
        ).values[1:]
        wanted = [x for m in "JF" for x in expected[name][f"{m}_mean_recall_decay"]]
        np.testing.assert_allclose(statistics, wanted, atol=2e-6)
    expected = reference(davis / "reference_metrics/osvos_shift1_multiobject.json")
    for name in ("gold-fish", "horsejump-high"):
        paths = sorted((published / name).glob("*.png"))
        count = int(read_mask(paths[0]).max())
        for i, path in enumerate(paths[:20]):
            found = measure(read_mask(paths[max(i - 1, 0)]), read_mask(path), count)
            for number, pair in enumerate(found, 1):
                own = expected[name][str(number)]
                wanted = [own[f"{m}_per_frame"][i] for m in "JF"]
                np.testing.assert_allclose(pair, wanted, atol=1e-6)


def reference(path: Path) -> dict:
    return json.loads(path.read_text())["sequences"]

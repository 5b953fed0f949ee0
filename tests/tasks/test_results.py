import numpy as np
import pytest

from toto.tasks.results import confusion_matrix, intervals, mean_per_class


def guesses(clips: int, accuracy: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels of four uneven classes, and guesses that are right as often as `accuracy` says."""
    random = np.random.default_rng(seed)
    labels = random.choice(4, clips, p=[0.5, 0.3, 0.15, 0.05])
    return labels, np.where(random.random(clips) < accuracy, labels, (labels + 1) % 4)


def plain(labels: np.ndarray, taken_for: np.ndarray) -> tuple[float, float]:
    """Accuracy, and its mean over the classes."""
    right = labels == taken_for
    return right.mean(), np.mean([right[labels == i].mean() for i in np.unique(labels)])


def test_the_matrix_counts_each_clip_once():
    labels, taken_for = guesses(300, 0.7)
    confusion = confusion_matrix(labels, taken_for, 5)
    expected = np.zeros((5, 5), int)
    for label, guess in zip(labels, taken_for, strict=True):
        expected[label, guess] += 1
    np.testing.assert_array_equal(confusion, expected)
    assert mean_per_class(confusion) == pytest.approx(plain(labels, taken_for)[1])


def test_intervals_are_those_of_drawing_the_clips_again():
    labels, taken_for = guesses(200, 0.7)
    random = np.random.default_rng(1)
    drawn = [random.integers(200, size=200) for _ in range(4000)]
    again = np.array([plain(labels[rows], taken_for[rows]) for rows in drawn])
    expected = np.quantile(again, (0.025, 0.975), axis=0).T
    found = intervals(confusion_matrix(labels, taken_for, 4))
    np.testing.assert_allclose(found, expected, atol=0.012)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        (low, high), _ = intervals(confusion_matrix(*guesses(150, 0.8, seed), 4), seed)
        covered += low <= 0.8 <= high
    assert 88 <= covered <= 99

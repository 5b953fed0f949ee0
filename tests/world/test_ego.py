import numpy as np
import pytest

from toto.world.ego import CONTEXT, INTERACTIONS, EgoScene, sample_ego
from toto.world.render import render_geometry

FRAMES, FPS = 90, 30


def sampled(label: int, index: int = 0) -> EgoScene:
    return sample_ego(0, index, *INTERACTIONS[label], FRAMES, FPS)


LABELS = range(len(INTERACTIONS))


def test_all_but_round_solids_are_turned():
    assert len(set(INTERACTIONS)) == 13
    assert [noun for noun, verb in INTERACTIONS if verb == "turn"] == ["cube"]


@pytest.mark.parametrize("label", LABELS)
def test_the_solid_rests_until_the_hand_is_there_and_then_does_what_the_verb_says(label):
    for index in range(4):
        drawn = sampled(label, index)
        target, hand = drawn.scene.solids[0], drawn.scene.solids[-2]
        assert target.shape == drawn.noun
        path, contact = target.trajectory, drawn.contact
        assert (path.positions[: contact + 1] == path.positions[0]).all()
        assert (path.rotations[: contact + 1] == path.rotations[0]).all()
        gap = np.linalg.norm(hand.trajectory.positions - path.positions, axis=1)
        touching = np.linalg.norm(hand.trajectory.positions[contact] - path.positions[contact])
        assert touching < 2 * target.radius + hand.radius
        np.testing.assert_allclose(gap[contact:], touching, atol=1e-9)
        # It never goes through the solid.
        assert gap[: contact + 1].min() > min(touching, target.radius + hand.radius) - 1e-3
        if drawn.verb in ("take", "push"):  # else the hand comes round the solid
            assert (np.diff(gap[contact - 6 : contact + 1]) < 0).all()
        moved = path.positions[-1] - path.positions[0]
        turned = path.rotations[-1].T @ path.rotations[0]
        angle = np.degrees(np.arccos(turned[0, 0].clip(-1, 1)))
        done = {
            "take": moved[2] > 0.5,
            "push": moved[1] > 1,
            "pull": moved[1] < -0.6 and not moved[2],
            "turn": angle > 90 and not moved.any(),
        }
        assert [verb for verb, it_is in done.items() if it_is] == [drawn.verb]


def test_the_walker_comes_near_and_sees_the_solid():
    for label in LABELS:
        drawn = sampled(label, 7)
        eyes, target = drawn.scene.camera.positions, drawn.scene.solids[0].trajectory.positions[0]
        away = np.linalg.norm(eyes - target, axis=1)
        assert away[0] - away[drawn.contact] > 1
        assert away[drawn.contact] < 3.2
        _, seen = render_geometry(drawn.scene, (60, 80), drawn.shown)
        assert (seen == 1).any((1, 2)).sum() >= len(drawn.shown) - 1
        # The walk is over when the hand is near: nothing is at the camera's own place.
        assert eyes[:, 2].min() > 2


def test_shown_frames_have_their_context_and_come_before_the_contact():
    for index in range(20):
        drawn = sampled(index % 13, index)
        assert (np.diff(drawn.shown) > 0).all()
        assert len(drawn.shown) == 4
        assert CONTEXT - 1 <= drawn.shown[0] <= drawn.shown[-1] < drawn.contact


def test_other_solids_are_neither_met_nor_in_the_way():
    for label in LABELS:
        solids = sampled(label, 3).scene.solids[:-2]
        for i, a in enumerate(solids):
            for b in solids[:i]:
                gap = (a.trajectory.positions - b.trajectory.positions)[:, :2]
                assert (np.linalg.norm(gap, axis=1) > a.radius + b.radius).all()

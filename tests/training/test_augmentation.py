from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.toys import TRAIN_DVAE
from toto.errors import UserError
from toto.training.objectives.augmentation import augment, draw, zoom_and_crop
from toto.training.objectives.dvae import TrainDVAEObjective
from toto.training.world import World


def by_area(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame of whole pixels each cut into `side` x `side`, of which new pixels are the means."""
    old = frame.shape[-1]
    fine = frame.repeat(side, 1).repeat(side, 2).reshape(3, side, old, side, old)
    return fine.mean((2, 4))


@pytest.mark.parametrize("side", [8, 9, 11, 12])
def test_resizing_is_by_area(side):
    frames = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8)
    corners = torch.tensor([[0, 0], [side - 8, 0], [(side - 8) // 2, side - 8]])
    made = zoom_and_crop(frames, 8, torch.full((3,), side), corners)
    for one, frame, (row, column) in zip(made, frames, corners, strict=True):
        whole = by_area(frame.numpy(), side)[:, row : row + 8, column : column + 8]
        assert np.abs(one.numpy() - whole).max() <= 0.5 + 1e-4


def test_every_side_place_and_mirror_image_is_drawn():
    recipe = replace(TRAIN_DVAE, size=8, zoom=(9 / 8, 12 / 8), flip=True)
    assert recipe.pool_size == 12
    ramp = torch.arange(12, dtype=torch.uint8) * 20
    frames = torch.stack([ramp.expand(12, 12), ramp[:, None].expand(12, 12), ramp.expand(12, 12)])
    made = augment(frames.expand(3000, 3, 12, 12), recipe, draw(3000, 5)).int()
    slope = made[:, 0, 0, -1] - made[:, 0, 0, 0]
    assert abs((slope > 0).float().mean() - 0.5) < 0.05
    # 7 steps of 20 levels times 12 / side: sides 9 to 12
    assert set((slope.abs() / 140 * 10).round().tolist()) == {10, 11, 12, 13}
    same = made[slope.abs() == 140]
    assert set(same[:, 1, 0, 0].tolist()) == {0, 20, 40, 60, 80}  # rows of side 12
    assert set(same[:, 0, 0].amin(1).tolist()) == {0, 20, 40, 60, 80}  # columns


def test_what_a_step_sees_is_the_same_in_every_world_and_another_in_every_epoch():
    recipe = replace(TRAIN_DVAE, size=8, zoom=(1.0, 1.5), flip=True, batch=8, micro_batch=2)
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (16, 3, 12, 12), np.uint8)
    objective = TrainDVAEObjective(recipe, pool, pool[:2, :, :8, :8])
    whole = [torch.cat(objective.batches(step)) for step in range(4)]
    assert whole[0].shape == (8, 3, 8, 8)
    for step in range(4):
        parts = [objective.batches(step, World(rank, 2, 2)) for rank in range(2)]
        assert torch.equal(torch.cat([torch.cat(part) for part in parts]), whole[step])
    # Two steps are an epoch.
    epochs = [
        {bytes(frame) for step in two for frame in whole[step].numpy()} for two in ((0, 1), (2, 3))
    ]
    assert len(epochs[0]) == len(epochs[1]) == 16 and len(epochs[0] & epochs[1]) < 4


def test_without_zoom_and_flip_frames_are_as_they_are():
    frames = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment(frames, replace(TRAIN_DVAE, size=8), draw(5, 0)), frames)


@pytest.mark.parametrize("zoom", [(0.5, 1.0), (1.5, 1.25), (float("nan"), 2.0)])
def test_a_zoom_that_cannot_be(zoom):
    with pytest.raises(UserError, match="zoom"):
        replace(TRAIN_DVAE, zoom=zoom)

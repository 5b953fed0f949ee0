"""Patches of frames: their order, and the way back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto.tokens.patches import PatchGrid, patchify, unpatchify
from toto.tokens.vocabulary import IMAGES, VIDEO


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 5))
def test_patches_are_mae_s(n, rows, cols, patch):
    frames = np.random.default_rng(rows).integers(
        0, 256, (n, 3, rows * patch, cols * patch), np.uint8
    )
    patches = patchify(frames, patch)
    # MAE's definition: einsum("nchpwq->nhwpqc") of the image cut at the patches' edges.
    apart = frames.reshape(n, 3, rows, patch, cols, patch)
    reference = np.einsum("nchpwq->nhwpqc", apart).reshape(n, rows * cols, patch * patch * 3)
    assert (patches == reference).all()
    assert (unpatchify(patches, patch, rows, cols) == frames).all()


def test_the_second_patch_stands_to_the_right_of_the_first():
    frames = np.zeros((1, 3, 4, 4), np.uint8)
    frames[0, 1, 1, 2] = 7  # green, second row, third column
    patches = patchify(frames, 2)
    assert patches.shape == (1, 4, 12)
    assert np.argwhere(patches).tolist() == [[0, 1, 2 * 3 + 1]]  # row 1, column 0, channel 1


@pytest.mark.parametrize("images", [False, True])
def test_sequences_have_a_start_and_no_more_than_their_frames(images):
    grid = PatchGrid(2, 2, 3)
    frames = np.random.default_rng(0).integers(1, 256, (2, 3, 3, 4, 6), np.uint8)
    found = grid.sequences(frames, np.array([images, not images]), np.array([3, 2]))
    assert found.shape == (2, grid.length(3), 12) == (2, 20, 12)
    assert set(found[0, 0]) == {IMAGES if images else VIDEO}
    assert set(found[1, 0]) == {VIDEO if images else IMAGES}
    back = grid.pixels(torch.from_numpy(found[:, 1:-1]))
    assert (back[0].numpy() == frames[0]).all() and (back[1, :2].numpy() == frames[1, :2]).all()
    assert (grid.patches(back).numpy() == found[:, 1:-1]).all()
    assert not found[1, 13:].any() and not found[0, -1].any()
    alone = grid.sequence(frames[1, :2], "image" if not images else "video", 3)
    assert (alone == found[1]).all()

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toto.errors import UserError
from toto.tokens.vocabulary import Vocabulary, cut, inputs_and_targets

# Two frames of 2x3 codes, written out by hand.
CODES = np.array([[[0, 1, 2], [3, 4, 5]], [[9, 8, 7], [6, 5, 4]]], np.uint16)
VOCABULARY = Vocabulary(codebook_size=10, rows=2, cols=3)
TOKENS = [4, 5, 6, 7, 8, 9, 13, 12, 11, 10, 9, 8]


def test_the_papers_sizes():
    paper = Vocabulary(codebook_size=8192, rows=16, cols=16)
    assert paper.size == 8320
    assert paper.length(16) == 4098
    assert Vocabulary(codebook_size=124, rows=1, cols=1).size == 128
    assert Vocabulary(codebook_size=125, rows=1, cols=1).size == 256


def test_a_sequence_by_hand():
    assert VOCABULARY.sequence(CODES, "video", 2).tolist() == [1, *TOKENS, 2]
    assert VOCABULARY.sequence(CODES, "image", 2).tolist() == [3, *TOKENS, 2]
    short = VOCABULARY.sequence(CODES, "video", 3).tolist()
    assert short == [1, *TOKENS, 2, 0, 0, 0, 0, 0, 0]
    assert VOCABULARY.sequence(CODES[:1], "image", 1).tolist() == [3, *TOKENS[:6], 2]


def test_sequences_of_both_kinds_at_once_by_hand():
    codes = np.stack((CODES, CODES, CODES))
    images, lengths = np.array([False, True, False]), np.array([2, 2, 1])
    assert VOCABULARY.sequences(codes, images, lengths).tolist() == [
        [1, *TOKENS, 2],
        [3, *TOKENS, 2],
        [1, *TOKENS[:6], 2, 0, 0, 0, 0, 0, 0],
    ]


def test_the_largest_code_of_16_bits_is_a_token():
    codes = np.full((1, 1, 1), 2**16 - 1, np.uint16)
    assert Vocabulary(2**16, 1, 1).sequence(codes, "image", 1).tolist() == [3, 2**16 + 3, 2]


def test_the_end_is_a_target_of_short_sequences_alone():
    whole = torch.tensor([[1, *TOKENS, 2]])
    inputs, targets = inputs_and_targets(whole)
    assert inputs.tolist() == [[1, *TOKENS[:-1]]]
    assert targets.tolist() == [TOKENS]
    short = torch.from_numpy(VOCABULARY.sequence(CODES[:1], "video", 2))[None]
    inputs, targets = inputs_and_targets(short)
    assert inputs.tolist() == [[1, *TOKENS[:6], 2, 0, 0, 0, 0]]
    assert targets.tolist() == [[*TOKENS[:6], 2, 0, 0, 0, 0, 0]]


def test_cutting_by_hand():
    whole, images = [1, *TOKENS, 2], [3, *TOKENS, 2]
    short = [1, *TOKENS[:6], 2, 0, 0, 0, 0, 0, 0]
    pieces, rows, filled = cut(torch.tensor([whole, images, short]), torch.tensor([12, 12, 6]), 6)
    assert pieces.tolist() == [
        [1, *TOKENS[:6], 2],
        [1, *TOKENS[6:], 2],
        [3, *TOKENS[:6], 2],
        [3, *TOKENS[6:], 2],
        [1, *TOKENS[:6], 2],  # its second piece holds only the end and padding
    ]
    assert rows.tolist() == [0, 0, 1, 1, 2]
    assert filled.tolist() == [6, 6, 6, 6, 6]
    # Pieces of 4 cut the short sequence's end off its own piece; the rest of 12 mod 5 is dropped.
    pieces, _, filled = cut(torch.tensor([short]), torch.tensor([6]), 4)
    assert pieces.tolist() == [[1, *TOKENS[:4], 2], [1, *TOKENS[4:6], 2, 0, 2]]
    assert filled.tolist() == [4, 2]
    assert cut(torch.tensor([whole]), torch.tensor([12]), 5)[0].tolist() == [
        [1, *TOKENS[:5], 2],
        [1, *TOKENS[5:10], 2],
    ]


def test_the_last_position_of_a_piece_is_neither_read_nor_predicted():
    short = torch.tensor([[1, *TOKENS[:6], 2, 0, 0, 0, 0, 0, 0]])
    inputs, targets = inputs_and_targets(cut(short, torch.tensor([6]), 4)[0])
    assert targets.tolist() == [TOKENS[:4], [*TOKENS[4:6], 2, 0]]
    assert inputs.tolist() == [[1, *TOKENS[:3]], [1, *TOKENS[4:6], 2]]


@given(st.data())
def test_codes_come_back_from_tokens(data):
    rows, cols, frames = (data.draw(st.integers(1, 4)) for _ in range(3))
    vocabulary = Vocabulary(codebook_size=17, rows=rows, cols=cols)
    seed = data.draw(st.integers(0, 99))
    codes = np.random.default_rng(seed).integers(0, 17, (frames, rows, cols)).astype(np.uint16)
    sequence = torch.from_numpy(vocabulary.sequence(codes, "video", frames))
    tokens = vocabulary.tokens(torch.from_numpy(codes.astype(np.int64))[None])
    assert torch.equal(sequence[1:-1], tokens[0])
    assert np.array_equal(vocabulary.codes(tokens)[0].numpy(), codes)
    allowed = vocabulary.allowed(vocabulary.size)
    assert allowed[tokens].all()
    assert not allowed[[0, 1, 2, 3]].any()
    assert allowed.sum() == 17


@pytest.mark.parametrize("tokens", [TOKENS[:-1], [*TOKENS[:-1], 2], [*TOKENS[:-1], 14]])
def test_what_is_no_whole_frame_is_refused(tokens):
    with pytest.raises(UserError, match="no whole frames of codes"):
        VOCABULARY.codes(torch.tensor([tokens]))

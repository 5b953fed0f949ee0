"""The future of a clip: frames in, frames out."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from toto.errors import UserError
from toto.generation.sampling import Sampling, sample
from toto.models.llama import Llama
from toto.tokens.vocabulary import VIDEO, Vocabulary


def continue_codes(
    model: Llama,
    vocabulary: Vocabulary,
    codes: Int[Tensor, "b frames rows cols"],
    frames: int,
    longest: int,
    sampling: Sampling,
    on_frame: Callable[[], None] = lambda: None,
) -> Int[Tensor, "b future rows cols"]:
    """`frames` frames of codes that follow each clip.

    The model reads at most `longest` frames; a longer future is made in turns, each reading the
    last frames of what is there.

    Raises:
        UserError: `frames` is not positive, or the model reads single frames.
    """
    if frames < 1:
        raise UserError(f"{frames} frames to predict: at least 1")
    known, drawn = codes, sampling
    while (missing := codes.shape[1] + frames - known.shape[1]) > 0:
        # Past the context, half of it is kept, so that a turn adds the other half.
        kept = known if known.shape[1] < longest else known[:, -max(longest // 2, 1) :]
        turn = min(missing, longest - kept.shape[1])
        if turn < 1:
            raise UserError(f"this model reads clips of {longest} frames: too few to predict from")
        start = torch.full((len(kept), 1), VIDEO, device=kept.device)
        prompt = torch.cat((start, vocabulary.tokens(kept)), dim=1)
        tokens = sample(
            model, vocabulary, prompt, turn * vocabulary.frame, drawn, on_frame=on_frame
        )
        known = torch.cat((known, vocabulary.codes(tokens)), dim=1)
        drawn = replace(drawn, seed=drawn.seed + 1_000_003)  # or each turn would draw alike
    return known[:, codes.shape[1] :]

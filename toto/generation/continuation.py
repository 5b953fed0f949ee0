"""The future of a clip: frames in, frames out."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Int, Shaped
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

    def turn(kept: Tensor, new: int, number: int) -> Tensor:
        start = torch.full((len(kept), 1), VIDEO, device=kept.device)
        prompt = torch.cat((start, vocabulary.tokens(kept)), dim=1)
        drawn = replace(sampling, seed=sampling.seed + 1_000_003 * number)  # or all would be alike
        tokens = sample(model, vocabulary, prompt, new * vocabulary.frame, drawn, on_frame=on_frame)
        return vocabulary.codes(tokens)

    return in_turns(codes, frames, longest, turn)


def in_turns(
    seen: Shaped[Tensor, "b frames ..."],
    frames: int,
    longest: int,
    turn: Callable[[Tensor, int, int], Tensor],
) -> Shaped[Tensor, "b future ..."]:
    """`frames` frames after those `seen`, by a model that reads at most `longest`.

    `turn` makes frames of those that it is to read, how many new ones it is to make, and its
    number.

    Raises:
        UserError: `frames` is not positive, or the model reads single frames.
    """
    if frames < 1:
        raise UserError(f"{frames} frames to predict: at least 1")
    known, number = seen, 0
    while (missing := seen.shape[1] + frames - known.shape[1]) > 0:
        # Past the context, half of it is kept, so that a turn adds the other half.
        kept = known if known.shape[1] < longest else known[:, -max(longest // 2, 1) :]
        new = min(missing, longest - kept.shape[1])
        if new < 1:
            raise UserError(f"this model reads clips of {longest} frames: too few to predict from")
        known = torch.cat((known, turn(kept, new, number)), dim=1)
        number += 1
    return known[:, seen.shape[1] :]

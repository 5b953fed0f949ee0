"""The future of a clip in patches: predicted, not drawn."""

from collections.abc import Callable

import torch
from jaxtyping import UInt8
from torch import Tensor

from toto.errors import UserError
from toto.generation.continuation import in_turns
from toto.generation.sampling import Sampling
from toto.models.patches import PatchLlama, to_pixels
from toto.tokens.patches import PatchGrid
from toto.tokens.vocabulary import VIDEO


def continue_patches(
    model: PatchLlama,
    pixels: UInt8[Tensor, "b frames 3 height width"],
    frames: int,
    longest: int,
    sampling: Sampling,
    on_frame: Callable[[], None] = lambda: None,
    cached: bool = True,
) -> UInt8[Tensor, "b future 3 height width"]:
    """`frames` frames that follow each clip, of which the model reads at most `longest`.

    It predicts a patch without its mean and its deviation, which its targets do not have (see
    `norm_pix`). They are taken from the patch at the same place of the frame before: patterns
    move, but a place keeps its brightness and its contrast. Each patch becomes 8-bit pixels before
    the next is predicted. Without the cache all is read again for each: the plain reference.

    Raises:
        UserError: the model predicts codes, `sampling` asks for something where nothing is drawn,
            `frames` is not positive, or the model reads single frames.
    """
    if model.vocabulary is not None:
        raise UserError("this model predicts codes of patches: only one of patches imagines frames")
    if sampling != Sampling():
        raise UserError("temperature, top_k, top_p and seed are for codes: patches are not drawn")
    height, width = pixels.shape[-2:]
    grid = PatchGrid(model.patch, height // model.patch, width // model.patch)

    @torch.inference_mode()
    def turn(kept: Tensor, new: int, number: int) -> Tensor:
        patches = grid.patches(kept)
        start = torch.full_like(patches[:, :1], VIDEO)
        known = torch.cat((start, patches), dim=1)
        places = new * grid.frame
        cache = model.new_cache(len(known), known.shape[1] + places) if cached else None
        for i in range(places):
            read = known if cache is None or i == 0 else known[:, -1:]
            predicted = model(read, cache)[:, -1:]
            patch = to_pixels(predicted, like=known[:, -grid.frame, None])
            known = torch.cat((known, patch), dim=1)
            if (i + 1) % grid.frame == 0:
                on_frame()
        return grid.pixels(known[:, -places:])

    return in_turns(pixels, frames, longest, turn)

"""How good a tokenizer is: what survives of the frames, and how its codes are used."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


def psnr(
    frames: UInt8[Tensor, "n 3 height width"], reconstructed: UInt8[Tensor, "n 3 height width"]
) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio of each frame in dB, at most 58.9.

    A frame of 8 bits is itself rounded, by 1/12 on average of squares: one that is the same, like
    black, would else outweigh all others in a mean.
    """
    error = (frames.float() - reconstructed.float()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / error.clamp(min=1 / 12))


def usage(codes: Int[Tensor, "..."], codebook_size: int) -> tuple[float, float]:
    """Number of codes that occur, and the perplexity (exp of the entropy) of their use."""
    counts = torch.bincount(codes.flatten().long(), minlength=codebook_size).double()
    shares = counts[counts > 0] / counts.sum()
    return float((counts > 0).sum()), float(torch.exp(-(shares * shares.log()).sum()))

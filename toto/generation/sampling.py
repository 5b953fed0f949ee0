"""Sampling the codes that come next."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toto.errors import UserError
from toto.models.llama import Llama
from toto.tokens.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next code is drawn."""

    temperature: float = 1.0
    """divides the logits; 0 always takes the most likely code"""
    top_k: int | None = None
    """draw from so many of the most likely codes only"""
    top_p: float | None = None
    """draw from the most likely codes that together have this probability only"""
    seed: int = 0
    """seed of the draws"""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature {self.temperature}: finite, and at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k {self.top_k}: at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: in (0, 1]")


@torch.inference_mode()
def sample(
    model: Llama,
    vocabulary: Vocabulary,
    prompt: Int[Tensor, "b t"],
    count: int,
    sampling: Sampling,
    cached: bool = True,
    on_frame: Callable[[], None] = lambda: None,
) -> Int[Tensor, "b count"]:
    """`count` tokens that follow the prompt, all of them codes.

    Without the cache the whole sequence is read again for each token: the plain reference.
    """
    device = prompt.device
    generator = torch.Generator(device).manual_seed(sampling.seed)
    allowed = vocabulary.allowed(model.vocabulary, device)
    cache = model.new_cache(len(prompt), prompt.shape[1] + count) if cached else None
    tokens = prompt
    for i in range(count):
        read = tokens if cache is None or i == 0 else tokens[:, -1:]
        logits = model(read, cache)[:, -1].float()
        tokens = torch.cat((tokens, pick(logits, allowed, sampling, generator)), dim=1)
        if (i + 1) % vocabulary.frame == 0:
            on_frame()
    return tokens[:, prompt.shape[1] :]


def pick(
    logits: Float[Tensor, "b vocabulary"],
    allowed: Bool[Tensor, " vocabulary"],
    sampling: Sampling,
    generator: torch.Generator,
) -> Int[Tensor, "b 1"]:
    """One token for each row of logits."""
    logits = logits.masked_fill(~allowed, -torch.inf)
    if sampling.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        k = min(sampling.top_k, int(allowed.sum()))
        logits = logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)
    if sampling.top_p is not None:
        ordered, order = logits.softmax(-1).sort(descending=True)
        # A code stays if those before it have not reached top_p, so that the first always stays.
        dropped = ordered.cumsum(-1) - ordered >= sampling.top_p
        logits = logits.masked_fill(dropped.gather(-1, order.argsort(-1)), -torch.inf)
    # Drawing by Gumbel noise takes one argmax and no synchronisation with the device.
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits.softmax(-1) / noise).argmax(-1, keepdim=True)

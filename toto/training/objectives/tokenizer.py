"""What the trainings of tokenizers have in common: their frames, and how they are judged."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from toto.tokenizers.base import TokenizerModule
from toto.tokenizers.quality import psnr, usage
from toto.tokens.mixture import key_of, permute
from toto.training.config import TrainTokenizer
from toto.training.objectives.augmentation import augment, draw
from toto.training.objectives.base import Batch, Objective
from toto.training.world import ALONE, World


class TokenizerObjective(Objective):
    """Trains a tokenizer on a pool of frames; what is saved is the running mean of its weights."""

    unit = "frames"
    config: TrainTokenizer

    def __init__(
        self,
        config: TrainTokenizer,
        tokenizer: TokenizerModule,
        train: UInt8[np.ndarray, "n 3 side side"],
        validation: UInt8[np.ndarray, "m 3 size size"],
    ) -> None:
        self.config, self.train, self.held_out = config, train, validation
        self.seed, self.batch, self.micro_batch = config.loop.seed, config.batch, config.micro_batch
        self.tokenizer = tokenizer
        self.mean = AveragedModel(tokenizer, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))

    def batches(self, step: int, world: World = ALONE) -> list[Batch]:
        size = len(self.train)
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, ranks = places // size, places % size
        chosen = np.empty(self.batch, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = key_of(self.seed, "frames", int(epoch))
            chosen[here] = permute(ranks[here], size, key)
        mine = world.share(self.batch)
        draws = draw(self.batch, key_of(self.seed, "augment", step), mine)
        frames = torch.from_numpy(self.train[np.sort(chosen)[mine]])
        return list(augment(frames, self.config, draws).split(self.micro_batch))

    def size(self, batch: Batch) -> int:
        return len(batch)

    def after_step(self, step: int) -> None:
        self.mean.update_parameters(self.tokenizer)

    def validate(self, world: World = ALONE) -> dict[str, float]:
        """How well held-out frames survive being tokenized, and how the codes are used."""
        tokenizer = cast(TokenizerModule, self.mean.module)
        device = next(tokenizer.parameters()).device
        codes, error = [], []
        for rows in np.array_split(np.arange(len(self.held_out)), -(-len(self.held_out) // 64)):
            frames = torch.from_numpy(self.held_out[rows]).to(device)
            codes.append(tokenizer.encode(frames))
            error.append(psnr(frames, tokenizer.decode(codes[-1])))
        used, perplexity = usage(torch.cat(codes), tokenizer.codebook_size)
        return {
            "psnr": float(torch.cat(error).mean()),
            "codes_used": used,
            "perplexity": perplexity,
        }

    def save(self, run: Path, world: World = ALONE) -> None:
        if world.is_first:
            cast(TokenizerModule, self.mean.module).save(run / "tokenizer")


def some_of(
    pool: UInt8[np.ndarray, "n 3 side side"], count: int, key: int, recipe: TrainTokenizer
) -> UInt8[Tensor, "m 3 size size"]:
    """`count` of a pool's frames, or all of them, drawn by `key`, as training sees them."""
    chosen = np.sort(permute(np.arange(min(count, len(pool))), len(pool), key))
    return augment(torch.from_numpy(pool[chosen]), recipe, draw(len(chosen), key))

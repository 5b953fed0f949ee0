"""The discrete VAE's relaxed evidence bound (Ramesh et al. 2021, section 2.1 and appendix A)."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from toto.tokenizers.dvae import DVAE, kl_to_uniform, logit_laplace_nll, to_mapped, usage_kl
from toto.tokenizers.quality import psnr, usage
from toto.tokens.mixture import key_of, permute
from toto.training.config import TrainDVAE
from toto.training.objectives.base import Batch, Metrics, Objective, Phase
from toto.training.parallel import ALONE, World
from toto.training.schedule import cosine


class TrainDVAEObjective(Objective):
    """Trains a dVAE on a pool of frames; what is saved is the running mean of its weights."""

    unit = "frames"

    def __init__(
        self,
        config: TrainDVAE,
        train: UInt8[np.ndarray, "n 3 height width"],
        validation: UInt8[np.ndarray, "m 3 height width"],
    ) -> None:
        self.config, self.train, self.held_out = config, train, validation
        torch.manual_seed(config.loop.seed)
        self.dvae = DVAE(config.tokenizer)
        if config.init_frames:
            first = permute(
                np.arange(min(config.init_frames, len(train))), len(train), config.loop.seed
            )
            self.dvae.init_codes(torch.from_numpy(train[np.sort(first)]))
        self.mean = AveragedModel(self.dvae, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        self.modules = nn.ModuleDict({"dvae": self.dvae, "mean": self.mean})
        self.phases: tuple[Phase, ...] = (
            Phase("dvae", self.modules["dvae"], config.optimizer, self.loss),
        )

    def batches(self, step: int, world: World = ALONE) -> list[Batch]:
        count, size = self.config.batch, len(self.train)
        places = np.arange(step * count, (step + 1) * count)
        epochs, ranks = places // size, places % size
        chosen = np.empty(count, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = key_of(self.config.loop.seed, "frames", int(epoch))
            chosen[here] = permute(ranks[here], size, key)
        frames = torch.from_numpy(self.train[np.sort(chosen)])
        mine = world.share(count)
        return list(frames[mine.start : mine.stop].split(self.config.micro_batch))

    def size(self, batch: Batch) -> int:
        return len(batch)

    def loss(self, frames: UInt8[Tensor, "b 3 height width"], step: int) -> tuple[Tensor, Metrics]:
        """Negative log likelihood of a pixel's channel, plus the weighted KL terms.

        The KL is divided by the pixels' channels of a code, as the whole bound is by those of an
        image.
        """
        schedule = self.schedules(step)
        mapped = to_mapped(frames)
        logits = self.dvae.encoder(mapped)
        z = F.gumbel_softmax(logits, tau=schedule["temperature"], dim=1)
        nll = logit_laplace_nll(mapped, self.dvae.decoder(z), self.config.least_log_scale)
        kl, uneven = kl_to_uniform(logits), usage_kl(logits)
        per_channel = 3 * self.config.tokenizer.downsample**2
        weighted = schedule["kl_weight"] * kl + self.config.usage_weight * uneven
        loss = (nll + weighted / per_channel) / (self.config.batch // self.config.micro_batch)
        share = len(frames) / self.config.batch
        values = {"loss": nll + weighted / per_channel, "nll": nll, "kl": kl, "usage_kl": uneven}
        return loss, {name: value.detach() * share for name, value in values.items()}

    def schedules(self, step: int) -> dict[str, float]:
        config = self.config
        return {
            "temperature": cosine(step, config.temperature_steps, *config.temperature),
            "kl_weight": cosine(step, config.kl_steps, 0.0, config.kl_weight),
        }

    def after_step(self, step: int) -> None:
        self.mean.update_parameters(self.dvae)

    def compile(self) -> None:
        self.dvae.encoder.compile(dynamic=False)
        self.dvae.decoder.compile(dynamic=False)

    def validate(self, world: World = ALONE) -> dict[str, float]:
        """How well held-out frames survive being tokenized, and how the codes are used."""
        tokenizer = cast(DVAE, self.mean.module)
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
        if not world.is_first:
            return
        cast(DVAE, self.mean.module).save(run / "tokenizer")

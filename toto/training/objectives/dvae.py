"""The discrete VAE's relaxed evidence bound (Ramesh et al. 2021, section 2.1 and appendix A)."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from toto.tokenizers.dvae import DVAE, kl_to_uniform, logit_laplace_nll, to_mapped, usage_kl
from toto.training.config import TrainDVAE
from toto.training.objectives.base import Metrics, Phase
from toto.training.objectives.tokenizer import TokenizerObjective, some_of
from toto.training.schedule import cosine


class TrainDVAEObjective(TokenizerObjective):
    """Trains a dVAE."""

    config: TrainDVAE

    def __init__(
        self,
        config: TrainDVAE,
        train: UInt8[np.ndarray, "n 3 side side"],
        validation: UInt8[np.ndarray, "m 3 size size"],
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.dvae = DVAE(config.tokenizer)
        if config.init_frames:
            self.dvae.init_codes(some_of(train, config.init_frames, config.loop.seed, config))
        super().__init__(config, self.dvae, train, validation)
        self.modules = nn.ModuleDict({"dvae": self.dvae, "mean": self.mean})
        self.phases: tuple[Phase, ...] = (
            Phase("dvae", self.modules["dvae"], config.optimizer, self.loss),
        )

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

    def compile(self) -> None:
        self.dvae.encoder.compile(dynamic=False)
        self.dvae.decoder.compile(dynamic=False)

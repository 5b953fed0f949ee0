"""A VQGAN's loss: reconstruction, codes and an adversary (Esser et al. 2021, section 3.1)."""

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import UInt8
from torch import Tensor, nn

from toto.tokenizers.quantise import VectorQuantizer
from toto.tokenizers.vqgan import VQGAN, to_signed
from toto.tokens.mixture import key_of
from toto.training.config import TrainVQGAN
from toto.training.objectives.base import Metrics, Phase
from toto.training.objectives.discriminator import PatchDiscriminator, adaptive_weight, hinge
from toto.training.objectives.perceptual import Perceptual
from toto.training.objectives.tokenizer import TokenizerObjective, some_of


class TrainVQGANObjective(TokenizerObjective):
    """Trains a VQGAN, and against it a discriminator that begins at `adversarial_start`."""

    config: TrainVQGAN

    def __init__(
        self,
        config: TrainVQGAN,
        train: UInt8[np.ndarray, "n 3 side side"],
        validation: UInt8[np.ndarray, "m 3 size size"],
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.vqgan = VQGAN(config.tokenizer)
        self.perceptual = Perceptual(config.perceptual) if config.perceptual else None
        super().__init__(config, self.vqgan, train, validation)
        self.discriminator = PatchDiscriminator(
            config.discriminator_width, config.discriminator_layers
        )
        self.modules = nn.ModuleDict(
            {"vqgan": self.vqgan, "mean": self.mean, "discriminator": self.discriminator}
        )
        self.phases: tuple[Phase, ...] = (
            Phase("vqgan", self.vqgan, config.optimizer, self.loss),
            Phase("discriminator", self.discriminator, config.optimizer, self.judge),
        )

    def loss(self, frames: UInt8[Tensor, "b 3 height width"], step: int) -> tuple[Tensor, Metrics]:
        """Absolute error of a pixel's channel, LPIPS, the codes' losses, and how real images look.

        What the adversary weighs is found anew for each micro-batch.
        """
        config, pixels = self.config, to_signed(frames)
        image, commitment, following = self.vqgan(pixels)
        reconstruction = error = (image.float() - pixels).abs().mean()
        perceptual = adversarial = weight = error.new_zeros(())
        if self.perceptual:
            perceptual = self.perceptual(image, pixels)
            reconstruction = error + config.perceptual_weight * perceptual
        codes = config.commitment_weight * commitment + config.codebook_weight * following
        loss = reconstruction + codes
        if step >= config.adversarial_start:
            adversarial = -self.discriminator(image).float().mean()
            last_layer = self.vqgan.decoder.conv_out.weight
            adaptive = adaptive_weight(reconstruction, adversarial, last_layer)
            weight = config.adversarial_weight * adaptive
            loss = loss + weight * adversarial
        values = {
            "loss": loss,
            "error": error,
            "perceptual": perceptual,
            "commitment": commitment,
            "adversarial": adversarial,
            "adversarial_weight": weight,
        }
        return self._share(frames, loss, values)

    def judge(self, frames: UInt8[Tensor, "b 3 height width"], step: int) -> tuple[Tensor, Metrics]:
        """The discriminator's hinge loss on frames and on what the VQGAN now makes of them."""
        if step < self.config.adversarial_start:
            # Gradients of zero: it stays as it is, and costs nothing.
            loss = torch.stack([p.sum() for p in self.discriminator.parameters()]).sum() * 0
        else:
            pixels = to_signed(frames)
            with torch.no_grad():
                image, _, _ = self.vqgan(pixels)
            real, made = self.discriminator(pixels), self.discriminator(image)
            loss = hinge(real.float(), made.float())
        return self._share(frames, loss, {"discriminator_loss": loss})

    def _share(self, frames: Tensor, loss: Tensor, values: Metrics) -> tuple[Tensor, Metrics]:
        """A micro-batch's part of the step's loss, and of what is logged."""
        share = len(frames) / self.batch
        return loss * share, {name: value.detach() * share for name, value in values.items()}

    def after_step(self, step: int) -> None:
        every = self.config.revive_every
        if every and (step + 1) % every == 0:
            self._revive(key_of(self.seed, "revive", step))
        super().after_step(step)

    def _revive(self, key: int) -> None:
        """Put codes that some frames do not use to where their latents are."""
        quantizer = self.vqgan.quantize
        if not isinstance(quantizer, VectorQuantizer):
            return
        weight = quantizer.embedding.weight
        frames = some_of(self.train, self.config.revive_frames, key, self.config).to(weight.device)
        with torch.no_grad():
            parts = [self.vqgan.latents(to_signed(some)) for some in frames.split(self.micro_batch)]
        torch.manual_seed(key % 2**63)
        quantizer.revive(torch.cat(parts))
        if dist.is_initialized():  # a last bit can send a draw elsewhere
            dist.broadcast(weight.data, 0)

    def compile(self) -> None:
        # Not the decoder whole: the adaptive weight asks for its last layer's gradient alone.
        decoder = self.vqgan.decoder
        for part in (self.vqgan.encoder, decoder.mid, *decoder.up):
            part.compile(dynamic=False)

"""Recipes for tokenizers. Each is one command: `toto tokenizer train NAME --source S --run DIR`."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from toto.tokenizers.sizes import DVAESize, VQGANSize
from toto.training.config import AdamW, Loop, TrainDVAE, TrainTokenizer, TrainVQGAN


def demo() -> TrainDVAE:
    """A small dVAE of 64 px frames to 8x8 codes, for `toto demo`.

    About a minute and a half on 2 CPU cores.
    """
    return TrainDVAE(
        tokenizer=DVAESize(codebook_size=256, width=48, groups=2, patch=4, decoder_input=128),
        loop=Loop(steps=1900, log_every=50, validate_every=950, checkpoint_every=400),
        optimizer=AdamW(
            learning_rate=3e-3,
            warmup_steps=50,
            final_fraction=0.05,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
        ),
        size=64,
        pool=8000,
        batch=16,
        micro_batch=16,
        init_frames=256,
        temperature=(0.5, 1 / 16),
        temperature_steps=1330,
        kl_weight=0.0,
        usage_weight=16.0,
        least_log_scale=-2.0,
        ema_decay=0.99,
    )


def dalle() -> TrainDVAE:
    """DALL-E's dVAE on 256 px images (Ramesh et al. 2021, appendix A). Not run by us."""
    return TrainDVAE(
        tokenizer=DVAESize(),
        loop=Loop(steps=3_000_000, validate_every=10_000, checkpoint_every=10_000),
        optimizer=AdamW(
            learning_rate=1e-4,
            warmup_steps=0,
            decay_steps=1_200_000,
            final_fraction=0.0125,
            betas=(0.9, 0.999),
            weight_decay=1e-4,
            clip=None,
        ),
        zoom=(9 / 8, 12 / 8),
        flip=True,
    )


def vqgan_demo() -> TrainVQGAN:
    """A small VQGAN of 64 px frames to 8x8 codes of 256."""
    return TrainVQGAN(
        tokenizer=VQGANSize(
            codebook_size=256,
            code_width=16,
            latent_width=64,
            width=32,
            multipliers=(1, 2),
            blocks=1,
            attention=(),
            norm_groups=8,
            patch=4,
        ),
        loop=Loop(steps=1600, log_every=50, validate_every=400, checkpoint_every=400),
        optimizer=AdamW(
            learning_rate=2e-3,
            warmup_steps=50,
            final_fraction=0.05,
            betas=(0.5, 0.9),
            weight_decay=0.0,
        ),
        size=64,
        pool=8000,
        batch=16,
        micro_batch=16,
        revive_every=100,
        revive_frames=256,
        adversarial_start=1200,
        discriminator_width=16,
        discriminator_layers=2,
        ema_decay=0.99,
    )


def fsq_demo() -> TrainVQGAN:
    """`vqgan-demo` with rounded scalars for codes, 240 of them."""
    demo = vqgan_demo()
    size = replace(demo.tokenizer, codebook_size=240, levels=(8, 6, 5))
    return replace(demo, tokenizer=size)


def vqgan_1k() -> TrainVQGAN:
    """CompVis' VQGAN of 256 px images to 16x16 codes of 1,024 (Esser et al. 2021). Not run by us.

    Learning rate and batch are those of 8 GPUs with 12 images each, at which they add up.
    """
    return TrainVQGAN(
        tokenizer=VQGANSize(),
        loop=Loop(steps=1_000_000, validate_every=10_000, checkpoint_every=10_000),
        optimizer=AdamW(
            learning_rate=96 * 4.5e-6,
            warmup_steps=0,
            final_fraction=1.0,
            betas=(0.5, 0.9),
            weight_decay=0.0,
            clip=None,
        ),
        batch=96,
        micro_batch=12,
    )


def vqgan_16k() -> TrainVQGAN:
    """`vqgan-1k` with 16,384 codes. Not run by us."""
    one = vqgan_1k()
    return replace(one, tokenizer=replace(one.tokenizer, codebook_size=16_384))


RECIPES: Mapping[str, Callable[[], TrainTokenizer]] = {
    "demo": demo,
    "dalle": dalle,
    "vqgan-demo": vqgan_demo,
    "fsq-demo": fsq_demo,
    "vqgan-1k": vqgan_1k,
    "vqgan-16k": vqgan_16k,
}

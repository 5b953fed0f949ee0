"""Recipes for tokenizers. Each is one command: `toto tokenizer train NAME --source S --run DIR`."""

from toto.tokenizers.sizes import DVAESize
from toto.training.config import AdamW, Loop, TrainDVAE


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
            final_fraction=0.0125,
            betas=(0.9, 0.999),
            weight_decay=1e-4,
            clip=None,
        ),
    )


RECIPES = {"demo": demo, "dalle": dalle}

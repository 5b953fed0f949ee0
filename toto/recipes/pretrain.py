"""Recipes for next-token pre-training. Each is one command: `toto pretrain NAME --run DIR`."""

from dataclasses import replace

from toto.models.sizes import BASE, LARGE, ONE_B, LlamaSize
from toto.training.config import AdamW, Loop, Pretrain


def demo() -> Pretrain:
    """A small model of 16 frames of 8x8 codes, for `toto demo`.

    About three minutes on 2 CPU cores.
    """
    return Pretrain(
        model=LlamaSize(width=128, layers=3, heads=2, mlp_width=384, init_std=0.08),
        loop=Loop(steps=4200, log_every=20, validate_every=2100, checkpoint_every=700),
        optimizer=AdamW(
            learning_rate=1.5e-3, warmup_steps=100, final_fraction=0.02, betas=(0.9, 0.98)
        ),
        # Whole clips alone, or more of them in a step, find out much later that most of a frame
        # is a copy of the one before (docs/log.md).
        batch=1,
        micro_batch=1,
        curriculum=((0.4, 4), (0.7, 8)),
        validation_fraction=0.1,
        validation_sequences=150,
    )


def base() -> Pretrain:
    """Toto-base, 120M parameters, on 1.05T tokens (Toto, Table 1 and section 3).

    `toto pretrain base --data IMAGENET KINETICS EGO4D HOWTO100M --weights 2 1 1 6 --run runs/base`

    The paper reaches a training loss of about 3.58 nats. Not run by us.
    """
    return Pretrain(model=BASE, loop=Loop(steps=1_000_000, checkpoint_every=5000))


def large() -> Pretrain:
    """Toto-large, 280M parameters; the paper reaches about 3.47 nats. Not run by us."""
    return replace(base(), model=LARGE)


def one_b() -> Pretrain:
    """Toto-1b, 1.1B parameters; the paper reaches about 3.31 nats. Not run by us."""
    return replace(base(), model=ONE_B)


RECIPES = {"demo": demo, "base": base, "large": large, "1b": one_b}

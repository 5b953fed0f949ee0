"""Recipes for next-token pre-training. Each is one command: `toto pretrain NAME --run DIR`."""

from dataclasses import replace

from toto.models.sizes import A1, A2, A3, A4, A5, A6, BASE, LARGE, ONE_B, LlamaSize
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

    `torchrun --nproc-per-node 8 --no-python -- toto pretrain base --compile --run runs/base`
    `    --data IMAGENET KINETICS EGO4D HOWTO100M --weights 2 1 1 6`

    About 5 days on 8 H100, reckoned from a step's measured time. The paper reaches a training loss
    of about 3.58 nats. Not run by us.
    """
    return Pretrain(model=BASE, loop=Loop(steps=1_000_000, checkpoint_every=5000))


def large() -> Pretrain:
    """Toto-large, 280M parameters, on 1.05T tokens.

    As `base`. About 9 days on 8 H100, reckoned from a step's measured time. The paper reaches about
    3.47 nats. Not run by us.
    """
    return replace(base(), model=LARGE)


def one_b() -> Pretrain:
    """Toto-1b, 1.1B parameters, on 1.05T tokens.

    As `base`, with `--micro-batch 4`. About 35 days on 8 H100, a guess from the time of a step of
    large. The paper reaches about 3.31 nats. Not run by us.
    """
    return replace(base(), model=ONE_B)


def base_256() -> Pretrain:
    """Toto-base goes on at 256 px: 32x32 codes a frame, RoPE base 50,000 (Toto, Table 4).

    `torchrun --nproc-per-node 8 --no-python -- toto pretrain base_256 --init-from runs/base`
    `    --compile --run runs/base_256 --data IMAGENET_256`

    4 frames are 4,096 positions as before, so that a step costs what it cost. The steps are one
    epoch of ImageNet, which the paper is said to take; its compute says 50 (`--steps 680000`). It
    names no learning rate: this is pre-training's, warmed up sooner. About 2 hours on 8 H100,
    reckoned from a step's measured time. Not run by us.
    """
    return Pretrain(
        model=replace(BASE, rope_base=50_000.0),
        loop=Loop(steps=13_600),
        optimizer=AdamW(warmup_steps=500),
        frames=4,
    )


def large_256() -> Pretrain:
    """Toto-large goes on at 256 px.

    As `base_256`. About 3 hours on 8 H100, reckoned from a step's measured time. In the paper a
    probe of ImageNet rises from 53.2 % to 64.4 %, and to 63.2 % at RoPE base 10,000. Not run by us.
    """
    return replace(base_256(), model=replace(LARGE, rope_base=50_000.0))


def one_b_256() -> Pretrain:
    """Toto-1b goes on at 256 px.

    As `base_256`, with `--micro-batch 4`. About 11 hours on 8 H100, a guess from the time of a step
    of large. Not run by us.
    """
    return replace(base_256(), model=replace(ONE_B, rope_base=50_000.0))


def a1() -> Pretrain:
    """Scaling law, 14.8M parameters, under muP (Toto, section 5).

    `torchrun --nproc-per-node 8 --no-python -- toto pretrain a1 --compile --run runs/a1`
    `    --data IMAGENET KINETICS EGO4D HOWTO100M --weights 2 1 1 6`

    The six have the paper's numbers of parameters with a tokenizer of 1,024 codes. The learning
    rate is the paper's best of 2^-20 to 2^0 at all widths; it names neither the base width (here
    a1's own) nor the steps (here a tenth of `base`'s). About 2 hours on 8 H100, a guess from the
    time of a step of base. Not run by us.
    """
    return Pretrain(
        model=A1,
        loop=Loop(steps=100_000, checkpoint_every=5000),
        optimizer=AdamW(learning_rate=2**-7),
    )


def a2() -> Pretrain:
    """Scaling law, 77M parameters.

    As `a1`. About 8 hours on 8 H100, a guess from the time of a step of base. Not run by us.
    """
    return replace(a1(), model=A2)


def a3() -> Pretrain:
    """Scaling law, 215M parameters.

    As `a1`. About 17 hours on 8 H100, a guess from the time of a step of large. Not run by us.
    """
    return replace(a1(), model=A3)


def a4() -> Pretrain:
    """Scaling law, 457M parameters.

    As `a1`, with `--micro-batch 8`. About 34 hours on 8 H100, a guess from the time of a step of
    large. Not run by us.
    """
    return replace(a1(), model=A4)


def a5() -> Pretrain:
    """Scaling law, 1.2B parameters.

    As `a1`, with `--micro-batch 4`. About 4 days on 8 H100, a guess from the time of a step of
    large. Not run by us.
    """
    return replace(a1(), model=A5)


def a6() -> Pretrain:
    """Scaling law, 1.9B parameters.

    As `a1`, with `--micro-batch 2`. About 5 days on 8 H100, a guess from the time of a step of
    large. Not run by us.
    """
    return replace(a1(), model=A6)


RECIPES = {
    "demo": demo,
    "base": base,
    "large": large,
    "1b": one_b,
    "base_256": base_256,
    "large_256": large_256,
    "1b_256": one_b_256,
    "a1": a1,
    "a2": a2,
    "a3": a3,
    "a4": a4,
    "a5": a5,
    "a6": a6,
}

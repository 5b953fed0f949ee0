"""Recipes for next-token pre-training. Each is one command: `toto pretrain NAME --run DIR`."""

from dataclasses import replace

from toto.models.sizes import A1, A2, A3, A4, A5, A6, BASE, LARGE, ONE_B, LlamaSize
from toto.training.config import AdamW, Loop, Pretrain, Reads


def demo() -> Pretrain:
    """A small model of 16 frames of 8x8 codes, for `toto demo`.

    `toto pretrain demo --data DATA --run runs/small`

    About three minutes on 2 CPU cores. Of the demo's data it reaches 0.46 nats, where copying the
    frame before gives 0.77.
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


def tiny_images() -> Pretrain:
    """A model of 2.0M parameters of single images of 8x8 codes, for docs/representations.md.

    `toto pretrain tiny_images --data tokens --run runs/tiny`

    About an hour of one CPU core. Of Tiny-ImageNet (100 classes, 1,000 codes) it reaches 4.93 nats
    a code before it learns by heart, and an attention probe reads 20 % from it.
    """
    return Pretrain(
        model=LlamaSize(width=128, layers=8, heads=4, mlp_width=384, init_std=0.04),
        loop=Loop(steps=3500, compile=True, log_every=20, validate_every=390, checkpoint_every=390),
        optimizer=AdamW(
            learning_rate=2e-3, warmup_steps=150, final_fraction=0.02, betas=(0.9, 0.98)
        ),
        frames=1,
        batch=64,
        micro_batch=64,
        validation_fraction=0.1,
        validation_sequences=1000,
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

    As `base`. About 35 days on 8 H100, a guess from the time of a step of
    large. The paper reaches about 3.31 nats. Not run by us.
    """
    return replace(base(), model=ONE_B, micro_batch=4)


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
        kind="image",
        frames=4,
        grid=32,
    )


def large_256() -> Pretrain:
    """Toto-large goes on at 256 px.

    As `base_256`. About 3 hours on 8 H100, reckoned from a step's measured time. In the paper a
    probe of ImageNet rises from 53.2 % to 64.4 %, and to 63.2 % at RoPE base 10,000. Not run by us.
    """
    return replace(base_256(), model=replace(LARGE, rope_base=50_000.0))


def one_b_256() -> Pretrain:
    """Toto-1b goes on at 256 px.

    As `base_256`. About 11 hours on 8 H100, a guess from the time of a step
    of large. Not run by us.
    """
    return replace(base_256(), model=replace(ONE_B, rope_base=50_000.0), micro_batch=4)


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

    As `a1`. About 34 hours on 8 H100, a guess from the time of a step of
    large. Not run by us.
    """
    return replace(a1(), model=A4, micro_batch=8)


def a5() -> Pretrain:
    """Scaling law, 1.2B parameters.

    As `a1`. About 4 days on 8 H100, a guess from the time of a step of
    large. Not run by us.
    """
    return replace(a1(), model=A5, micro_batch=4)


def a6() -> Pretrain:
    """Scaling law, 1.9B parameters.

    As `a1`. About 5 days on 8 H100, a guess from the time of a step of
    large. Not run by us.
    """
    return replace(a1(), model=A6, micro_batch=2)


# The rows of Toto's Tables 3 and 4, what a model reads and predicts, and twins of them in small.
# Rows differ in the data that they are given, and where a grid is finer in how many images are
# 4,096 positions: docs/tokenizers.md has all of them in one table, with the commands.

_EPOCHS, _IMAGES = 400, 13_900_000  # of ImageNet as the paper counts it (Table 2)


def _of_imagenet(reads: Reads, codebook_size: int | None = None, grid: int = 16) -> Pretrain:
    """Toto-large for 400 epochs, in sequences of 4,096 positions."""
    recipe, frames = large(), 4096 // grid**2
    return replace(
        recipe,
        loop=replace(recipe.loop, steps=-(-_EPOCHS * _IMAGES // (recipe.batch * frames))),
        reads=reads,
        kind="image",
        codebook_size=codebook_size,
        frames=frames,
        grid=grid,
    )


def imagenet_dvae_16() -> Pretrain:
    """Table 3: dVAE, 16x16 codes of 128 px. In the paper a probe of ImageNet reaches 53.2 %.

    `torchrun --nproc-per-node 8 --no-python -- toto pretrain imagenet_dvae_16 --compile`
    `    --run runs/imagenet_dvae_16 --data IMAGENET`

    1,357,422 steps are 400 epochs of 13.9M images, 16 in each of 256 sequences. About 12 days on
    8 H100, reckoned from a step's measured time. Not run by us.
    """
    return _of_imagenet("codes", 8192)


def imagenet_dvae_32() -> Pretrain:
    """Table 3: dVAE, 32x32 codes of 256 px. The paper: 61.2 %.

    As `imagenet_dvae_16`, with sequences of 4 images, thus 4 times the steps. About 48 days on
    8 H100. Not run by us.
    """
    return _of_imagenet("codes", 8192, grid=32)


def imagenet_vqgan_1k() -> Pretrain:
    """Table 3: VQGAN of 1,024 codes, 16x16 of 256 px. The paper: 61.1 %.

    As `imagenet_dvae_16`, time and all, on other data. Not run by us.
    """
    return _of_imagenet("codes", 1024)


def imagenet_vqgan_16k() -> Pretrain:
    """Table 3: VQGAN of 16,384 codes, 16x16 of 256 px. The paper: 61.3 %.

    As `imagenet_dvae_16`, with twice its rows of logits. Not run by us.
    """
    return _of_imagenet("codes", 16_384)


def imagenet_patch_patch() -> Pretrain:
    """Table 3: patches in and out, 16x16 of 16 px, 256 px a frame. The paper: 60.6 %.

    As `imagenet_dvae_16`, on pixels: a linear embedding, and the squared error of the next patch by
    its own mean and deviation. Not run by us.
    """
    return _of_imagenet("patches")


def imagenet_patch_dvae() -> Pretrain:
    """Table 3: patches in, the dVAE's code of the next one out. The paper: 58.5 %.

    As `imagenet_patch_patch`, on pixels of 128 px in patches of 8 px, and with
    `--targets IMAGENET_CODES`, the codes of the same frames. Not run by us.
    """
    return _of_imagenet("patches_to_codes", 8192)


def imagenet_dvae_16_to_32() -> Pretrain:
    """Table 4: `imagenet_dvae_16` goes on at 256 px for one epoch, RoPE's base left as it is.

    `torchrun --nproc-per-node 8 --no-python -- toto pretrain imagenet_dvae_16_to_32 --compile`
    `    --init-from runs/imagenet_dvae_16 --run runs/imagenet_dvae_16_to_32 --data IMAGENET_256`

    The paper: 63.2 %. Its compute says 50 epochs (`--steps 680000`), see `base_256`. About 3 hours
    on 8 H100, reckoned from a step's measured time. Not run by us.
    """
    return replace(imagenet_dvae_16_to_32_50k(), model=LARGE)


def imagenet_dvae_16_to_32_50k() -> Pretrain:
    """Table 4: the same with RoPE's base at 50,000: `large_256`. The paper: 64.4 %.

    As `imagenet_dvae_16_to_32`. Not run by us.
    """
    return replace(large_256(), reads="codes", codebook_size=8192)


def _of_world(reads: Reads, codebook_size: int | None = None, grid: int = 8) -> Pretrain:
    """The model of `demo` for four epochs of 3,200 pictures, in sequences of 1,024 positions."""
    recipe, frames = demo(), 1024 // grid**2
    steps = 800 * 16 // frames
    loop = replace(recipe.loop, steps=steps, validate_every=steps // 3, checkpoint_every=steps // 3)
    return replace(
        recipe,
        loop=loop,
        curriculum=(),
        reads=reads,
        codebook_size=codebook_size,
        frames=frames,
        grid=grid,
    )


def demo_dvae_8() -> Pretrain:
    """Twin of `imagenet_dvae_16`: 8x8 codes of 64 px, 16 pictures in a sequence.

    Two minutes of one CPU core. A probe reads solid and colour, of 32, from 48.8 % of pictures:
    docs/tokenizers.md has the data and commands of this and the other twins.
    """
    return _of_world("codes", 256)


def demo_dvae_16() -> Pretrain:
    """Twin of `imagenet_dvae_32`: 16x16 codes of 128 px, 4 pictures in a sequence.

    As many epochs, three times as long. A probe: 64.0 %.
    """
    return _of_world("codes", 256, grid=16)


def demo_vqgan_256() -> Pretrain:
    """Twin of `imagenet_vqgan_1k`: 8x8 codes of 64 px, 256 of them.

    Two minutes of one CPU core. A probe: 24.0 %.
    """
    return _of_world("codes", 256)


def demo_vqgan_1k() -> Pretrain:
    """Twin of `imagenet_vqgan_16k`: 8x8 codes of 64 px, 1,024 of them.

    Two minutes of one CPU core. A probe: 38.9 %.
    """
    return _of_world("codes", 1024)


def demo_patch_patch() -> Pretrain:
    """Twin of `imagenet_patch_patch`: 8x8 patches of 64 px.

    Two minutes of one CPU core. A probe: 80.9 %.
    """
    return _of_world("patches")


def demo_patch_dvae() -> Pretrain:
    """Twin of `imagenet_patch_dvae`: 8x8 patches of 64 px, and their codes as `--targets`.

    Two minutes of one CPU core. A probe: 79.1 %.
    """
    return _of_world("patches_to_codes", 256)


def demo_dvae_8_to_16() -> Pretrain:
    """Twin of `imagenet_dvae_16_to_32`: `demo_dvae_8` goes on at 128 px, for one epoch.

    Two minutes of one CPU core. A probe: 66.2 %.
    """
    recipe = demo_dvae_16()
    loop = replace(recipe.loop, steps=800)
    return replace(recipe, loop=loop, optimizer=replace(recipe.optimizer, warmup_steps=50))


def demo_dvae_8_to_16_50k() -> Pretrain:
    """Twin of `imagenet_dvae_16_to_32_50k`: the same with RoPE's base at 50,000.

    Two minutes of one CPU core. A probe: 65.1 %.
    """
    recipe = demo_dvae_8_to_16()
    return replace(recipe, model=replace(recipe.model, rope_base=50_000.0))


RECIPES = {
    "demo": demo,
    "tiny_images": tiny_images,
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
    "imagenet_dvae_16": imagenet_dvae_16,
    "imagenet_dvae_32": imagenet_dvae_32,
    "imagenet_vqgan_1k": imagenet_vqgan_1k,
    "imagenet_vqgan_16k": imagenet_vqgan_16k,
    "imagenet_patch_patch": imagenet_patch_patch,
    "imagenet_patch_dvae": imagenet_patch_dvae,
    "imagenet_dvae_16_to_32": imagenet_dvae_16_to_32,
    "imagenet_dvae_16_to_32_50k": imagenet_dvae_16_to_32_50k,
    "demo_dvae_8": demo_dvae_8,
    "demo_dvae_16": demo_dvae_16,
    "demo_vqgan_256": demo_vqgan_256,
    "demo_vqgan_1k": demo_vqgan_1k,
    "demo_patch_patch": demo_patch_patch,
    "demo_patch_dvae": demo_patch_dvae,
    "demo_dvae_8_to_16": demo_dvae_8_to_16,
    "demo_dvae_8_to_16_50k": demo_dvae_8_to_16_50k,
}

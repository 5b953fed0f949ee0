"""The spine on one GPU: what a CPU says, a GPU says too."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import make_dataset, make_images, save_tokenizer
from tests.training.toys import PRETRAIN
from toto.generation.sampling import Sampling, sample
from toto.models.llama import Llama
from toto.models.sizes import LlamaSize
from toto.probing.propagation import Propagator, grow_labels, shrink_labels
from toto.recipes.tracking import dino, stc
from toto.tasks.segmentation import Truth
from toto.tokenizers.base import TokenizerModule
from toto.tokenizers.dvae import DVAE
from toto.tokenizers.sizes import DVAESize, Precision, VQGANSize
from toto.tokenizers.vqgan import VQGAN
from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import VIDEO, Vocabulary
from toto.training.config import AdamW, Loop, TrainDVAE
from toto.training.loop import train
from toto.training.metrics import read_metrics
from toto.training.objectives.base import Objective
from toto.training.objectives.dvae import TrainDVAEObjective
from toto.training.objectives.next_token import NextToken

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

LOOP = Loop(steps=10, log_every=1, checkpoint_every=5, deterministic=True)
SIZE = LlamaSize(width=128, layers=3, heads=2, mlp_width=256)
VOCABULARY = Vocabulary(codebook_size=60, rows=4, cols=4)


def model(seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    return Llama(SIZE, VOCABULARY.size).eval().requires_grad_(False)


def test_logits_equal_the_cpus() -> None:
    tokens = torch.randint(0, VOCABULARY.size, (2, 130))
    there = model()
    here = there(tokens)
    torch.testing.assert_close(there.cuda()(tokens.cuda()).cpu(), here, rtol=1e-3, atol=1e-3)


def test_cached_sampling_equals_uncached() -> None:
    prompt = torch.full((2, 1), VIDEO, device="cuda")
    drawn = [
        sample(model().cuda(), VOCABULARY, prompt, 64, Sampling(seed=3), cached=cached)
        for cached in (True, False)
    ]
    assert torch.equal(*drawn)


VECTORS = VQGANSize(
    codebook_size=64,
    code_width=16,
    latent_width=32,
    width=32,
    multipliers=(1, 2),
    blocks=1,
    attention=(1,),
    norm_groups=8,
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "make",
    [
        partial(DVAE, DVAESize(codebook_size=64, width=32, groups=2, patch=2)),
        partial(VQGAN, VECTORS),
        partial(VQGAN, replace(VECTORS, codebook_size=40, levels=(8, 5))),
    ],
)
def test_codes_equal_the_cpus(
    make: Callable[[Precision], TokenizerModule], precision: Precision
) -> None:
    torch.manual_seed(0)
    tokenizer = make(precision).eval()
    frames = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    here = tokenizer.encode(frames)
    there = tokenizer.cuda().encode(frames.cuda()).cpu()
    assert (here == there).float().mean() > (0.99 if precision == "fp32" else 0.9)


def dvae(folder: Path, compile_: bool) -> TrainDVAEObjective:
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    config = TrainDVAE(
        tokenizer=DVAESize(codebook_size=64, width=32, groups=2, patch=2),
        loop=replace(LOOP, compile=compile_),
        optimizer=AdamW(warmup_steps=2),
        size=32,
        batch=16,
        micro_batch=16,
    )
    return TrainDVAEObjective(config, frames, frames[:8])


def llama(folder: Path, compile_: bool, muon: bool = False) -> NextToken:
    data = folder / "data"
    if not data.exists():
        tokenizer = save_tokenizer(folder / "tokenizer")
        make_dataset(make_images(folder / "images", 40), tokenizer, data)
    config = replace(PRETRAIN, muon=muon, loop=replace(LOOP, compile=compile_))
    splits = (
        freeze([TokenDataset(data)], (), config.frames, 0, split, 0.2)
        for split in ("train", "validation")
    )
    return NextToken(config, *map(Sequences, splits))


# Types are checked in tests, which no compiled function of the LLaMA's lets through.
@pytest.mark.parametrize(
    ("build", "compile_"),
    [(dvae, False), (dvae, True), (llama, False), (partial(llama, muon=True), False)],
)
def test_training_goes_on_where_it_stopped(
    tmp_path: Path, build: Callable[[Path, bool], Objective], compile_: bool
) -> None:
    loop = replace(LOOP, compile=compile_)
    whole = build(tmp_path, compile_)
    train(whole, loop, tmp_path / "whole", "whole")
    # Half of the same run: its schedule is the whole run's.
    half = build(tmp_path, compile_)
    stop_after(half, 5)
    with pytest.raises(KeyboardInterrupt):
        train(half, loop, tmp_path / "parts", "half")
    rest = build(tmp_path, compile_)
    train(rest, loop, tmp_path / "parts", "rest")
    losses = [
        [row["loss"] for row in read_metrics(tmp_path / run) if "loss" in row]
        for run in ("whole", "parts")
    ]
    assert len(losses[0]) == 10 and losses[0] == losses[1]
    for a, b in zip(whole.modules.parameters(), rest.modules.parameters(), strict=True):
        assert torch.equal(a, b)


def stop_after(objective: Objective, steps: int) -> None:
    after_step = objective.after_step

    def stop(step: int) -> None:
        if step == steps:
            raise KeyboardInterrupt
        after_step(step)

    objective.after_step = stop  # type: ignore[method-assign]


def test_tracked_masks_and_their_measures_are_the_cpus() -> None:
    torch.manual_seed(0)
    features, mask = torch.randn(4, 64, 16), torch.zeros(60, 90, dtype=torch.uint8)
    mask[10:30, 20:50], mask[25:55, 60:80] = 1, 2
    for how in (stc(), dino()):
        found = []
        for device in ("cpu", "cuda"):
            first = mask.to(device)
            labels = shrink_labels(how, first, (8, 8), 2)
            propagator = Propagator(how, (8, 8), features[0].to(device), labels)
            soft = [propagator.step(frame.to(device)) for frame in features[1:]]
            grown = grow_labels(how, soft[-1], (8, 8), (60, 90))
            found.append((soft[-1].cpu(), torch.stack(Truth(first, 2).measure(grown))))
        torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)

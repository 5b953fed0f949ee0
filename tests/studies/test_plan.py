import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.commands import made
from tests.tiny import make_dataset, make_images, make_videos, save_patches, save_tokenizer
from toto.cli import runs
from toto.errors import UserError
from toto.models.cost import GPUS, training_flops
from toto.models.llama import Llama
from toto.models.patches import PatchLlama
from toto.models.sizes import LlamaSize
from toto.recipes.pretrain import RECIPES
from toto.studies import speed
from toto.studies.plan import USABLE, plan, stages
from toto.tokens.loader import Sequences, freeze
from toto.tokens.patches import PatchGrid
from toto.training.checkpoint import Checkpoints
from toto.training.config import Loop, Pretrain
from toto.training.objectives.next_token import NextToken
from toto.training.optimizer import build_optimizers
from toto.training.parallel import place
from toto.training.world import ALONE

ROOT = Path(__file__).parents[2]
BOOK = ROOT / "docs" / "training.md"


def changed(name: str, **fields: object) -> Pretrain:
    """A recipe with some fields of it or of its loop changed."""
    recipe = RECIPES[name]()
    of_loop = {key: fields.pop(key) for key in list(fields) if hasattr(recipe.loop, key)}
    return replace(recipe, loop=replace(recipe.loop, **of_loop), **fields)


def test_the_papers_tokens_and_epochs():
    """1.05T tokens: 58 epochs of ImageNet, 10 of Kinetics-600, 4 of Ego4D, 1 of HowTo100M."""
    found = plan(RECIPES["base"](), 8, "h200")
    assert found.tokens == 10**6 * 256 * 16 * 256
    drawn = {d.source.name: d for d in found.drawn}
    epochs = {name: round(d.epochs) for name, d in drawn.items()}
    assert epochs == {"ImageNet": 58, "Kinetics-600": 10, "Ego4D": 4, "HowTo100M": 1}
    assert sum(d.tokens for d in found.drawn) == pytest.approx(found.tokens)
    assert drawn["ImageNet"].tokens == pytest.approx(0.2 * found.tokens)
    for d in found.drawn:
        assert d.epochs == pytest.approx(d.tokens / d.epoch)
    # Every fourth of the frames that Table 2 counts; ImageNet's pictures whole.
    kept = 3.6e9 + (41.3e9 + 103e9 + 2560e9) / 4
    assert found.token_bytes == pytest.approx(2 * kept)
    # The same sources in clips of half the length: half the tokens, half the epochs.
    shorter = plan(changed("base", frames=8), 8, "h200")
    for d, half in zip(found.drawn, shorter.drawn, strict=True):
        assert half.epoch == pytest.approx(d.epoch)
        assert half.epochs == pytest.approx(d.epochs / 2)


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        *(("base_256", 1), ("large_256", 1), ("1b_256", 1)),
        *(("imagenet_dvae_16", 400), ("imagenet_dvae_32", 400), ("imagenet_dvae_16_to_32", 1)),
        *(("imagenet_vqgan_1k", 400), ("imagenet_patch_patch", 400)),
    ],
)
def test_what_reads_imagenet_alone_is_planned_on_it_alone(name, epochs):
    found = plan(RECIPES[name](), 8, "h200")
    (imagenet,) = found.drawn
    assert imagenet.source.name == "ImageNet" and imagenet.tokens == found.tokens
    assert imagenet.epochs == pytest.approx(epochs, rel=0.02)
    each = 3 * 256**2 if "patch" in name else 2 * found.layout.frame
    assert found.token_bytes == pytest.approx(imagenet.source.clips * each)
    assert "the paper's ImageNet and sizes" in found.text()


@pytest.mark.parametrize("name", ["base", "large", "1b"])
def test_the_numbers_of_the_paper_s_models(name):
    found = plan(RECIPES[name](), 8, "h200")
    with torch.device("meta"):
        model = Llama(found.recipe.model, found.layout.size)
    count = sum(p.numel() for p in model.parameters())
    assert f"{count:,} parameters" in found.text()
    assert found.fit.memory.weights == 4 * count
    assert found.checkpoint_bytes == 12 * count
    flops = training_flops(found.recipe.model, 4096, found.layout.size)
    assert found.flops.whole == pytest.approx(flops.whole * found.tokens)
    assert found.flops.causal == pytest.approx(flops.causal * found.tokens)


def test_measured_speeds_are_the_benchmarks():
    for measured in speed.MEASURED:
        result = json.loads((ROOT / speed.SOURCE.format(measured.name)).read_text())
        assert result["machine"]["date"] == speed.DATE
        rows = {(row["size"], row["contender"]): row for row in result["rows"]}
        row = rows[measured.name, "toto compiled" if measured.compiled else "toto"]
        assert row["tokens_per_second"] == measured.tokens_per_second
        assert row["micro_batch"] == speed.MICRO_BATCH
        assert measured.size == RECIPES[measured.name]().model
        assert GPUS[measured.gpu].device in result["machine"]["device"]


def test_days_of_what_was_measured():
    found = plan(RECIPES["large"](), 4, "h100")
    eager, compiled = found.speeds
    assert (eager.compiled, compiled.compiled) == (False, True)
    assert eager.measured and eager.tokens_per_second == 151_941
    # By hand: 1,048,576,000,000 tokens at 151,941 a second and GPU, 86,400 seconds a day.
    assert found.days(eager) == pytest.approx(19.97, abs=0.01)
    assert plan(RECIPES["large"](), 8, "h100").days(eager) == pytest.approx(19.97 / 2, abs=0.01)
    swapped = plan(changed("large", compile=True), 4, "h100").speeds
    assert swapped == (compiled, eager)
    text = found.text()
    assert "20.0 days, 1,917 GPU-hours: 151,941 tokens/s on each GPU, measured" in text
    assert "with --compile" in text and "assumed" not in text


def test_speeds_that_nobody_measured_say_so():
    """They have the MFU of the nearest model that was."""
    large = plan(RECIPES["large"](), 1, "h100").speeds[0]
    on_a100 = plan(RECIPES["large"](), 1, "a100-80").speeds[0]
    assert not on_a100.measured
    peaks = GPUS["a100-80"].peak / GPUS["h100"].peak
    assert on_a100.tokens_per_second == pytest.approx(151_941 * peaks)

    bigger = plan(RECIPES["1b"](), 1, "h100")
    assert not bigger.speeds[0].measured and bigger.speeds[0].basis.name == "large"
    each = [training_flops(RECIPES[n]().model, 4096, 8320).causal for n in ("large", "1b")]
    assert bigger.speeds[0].tokens_per_second * each[1] == pytest.approx(151_941 * each[0])
    assert bigger.speeds[0].mfu == large.mfu
    assert "assumed: the same MFU here" in bigger.text() and "a guess" not in bigger.text()
    assert "a guess: a token takes 0.016 times" in plan(RECIPES["demo"](), 1, "h100").text()

    # Other sequences, or another curriculum, are another load.
    assert not plan(changed("large", frames=8), 1, "h100").speeds[0].measured
    assert not plan(changed("large", curriculum=((0.5, 4),)), 1, "h100").speeds[0].measured


@pytest.mark.parametrize(
    "curriculum", [(), ((0.4, 4), (0.7, 8)), ((0.5, 3),), ((1.0, 4),), ((0.7, 8), (0.4, 4))]
)
def test_the_curriculum_is_that_of_training(curriculum):
    recipe = changed("demo", steps=37, curriculum=curriculum)
    training = SimpleNamespace(config=recipe)
    of_steps = [NextToken.frames(training, step) for step in range(37)]
    assert [frames for steps, frames in stages(recipe) for _ in range(steps)] == of_steps
    found = plan(recipe, 1, "h100")
    tokens = [16 // frames * frames * 256 for frames in of_steps]
    assert found.tokens == sum(tokens)
    each = [training_flops(recipe.model, frames * 256, 8320).causal for frames in of_steps]
    assert found.flops.causal == pytest.approx(np.dot(tokens, each))


def test_the_batch_is_shared_out():
    with pytest.raises(UserError, match="batch 256 cannot be shared by 3 GPUs: by 2 or 4"):
        plan(RECIPES["base"](), 3, "h100")
    with pytest.raises(UserError, match=r"by 256$"):
        plan(RECIPES["base"](), 257, "h100")
    with pytest.raises(UserError, match="micro_batch 16 x 32 GPUs: micro_batch 8 would fit"):
        plan(RECIPES["base"](), 32, "h100")
    with pytest.raises(UserError, match="micro_batch 16 x 16 GPUs: micro_batch 12 would fit"):
        plan(changed("base", batch=192), 16, "h100")
    assert "1 of 8 on each" in plan(changed("base", micro_batch=8), 32, "h100").text()


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", ["base", "large", "1b"])
def test_what_fits(name, gpu):
    """The micro-batch that a plan names fits, and the next one does not."""
    asked = plan(RECIPES[name](), 8, gpu)
    largest = asked.fit.largest_micro_batch
    sizes = [m for m in (1, 2, 4, 8, 16, 32) if m <= largest]
    for micro_batch in (1, 2, 4, 8, 16, 32):
        found = plan(changed(name, micro_batch=micro_batch), 8, gpu)
        assert found.fit.fits == (micro_batch in sizes)
        assert found.fit.fits == (found.fit.memory.total <= USABLE * GPUS[gpu].memory)
        assert found.divided.memory.total < found.fit.memory.total
        assert ("= " in found.text()) and ("does NOT fit" in found.text()) != (
            found.fit.fits and found.divided.fits
        )
    if not asked.fit.fits:
        words = f"--micro-batch {largest} would" if largest else "nor does 1"
        assert f"does NOT fit, {words}" in asked.text()


def test_the_model_that_filled_a_gpu():
    """On 80 GB, large trains on 16 clips (measured), 1b not on 16; on 24 GB, 1b not at all."""
    assert plan(RECIPES["large"](), 1, "h100").fit.largest_micro_batch == 16
    assert not plan(changed("1b", micro_batch=16), 1, "h100").fit.fits
    assert plan(RECIPES["1b"](), 1, "rtx4090").fit.largest_micro_batch == 0


def test_what_was_not_measured_is_refused():
    with pytest.raises(UserError, match="precision fp32"):
        plan(changed("base", precision="fp32"), 1, "h100")


def test_help_names_every_gpu():
    assert f'"""kind of GPU: {", ".join(GPUS)}"""' in inspect.getsource(runs._Planned)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Videos of 40, 4 and 9 frames and 10 pictures, each of 2x2 codes."""
    folder = tmp_path_factory.mktemp("plan")
    tokenizer = save_tokenizer(folder / "tokenizer")
    videos = make_videos(folder / "videos", [40, 4, 9])
    images = make_images(folder / "images", 10)
    return [make_dataset(s, tokenizer, folder / f"{s.name}-tokens") for s in (videos, images)]


TINY = Pretrain(
    model=LlamaSize(width=16, layers=2, heads=2, mlp_width=32),
    loop=Loop(steps=30, checkpoint_every=20),
    frames=4,
    batch=12,
    micro_batch=6,
    validation_fraction=0.0,
    data=(Path("videos"), Path("images")),
    weights=(2, 1),
)


def test_epochs_of_data_sets_are_what_training_draws(datasets):
    found = plan(TINY, 2, "l40s", datasets)
    assert found.tokens == 30 * 12 * 4 * 4
    read = Sequences(freeze(datasets, (2, 1), 4, 0, "train", 0.0))
    for drawn, entry in zip(found.drawn, read.manifest.entries, strict=True):
        assert drawn.source.name == str(Path(entry.path))
        assert drawn.source.clips == entry.clips
    counts = [0, 0]
    for index in range(30 * 12):
        items = read.describe(index)
        counts[items[0][0].kind == "image"] += len(items)
    for drawn, count in zip(found.drawn, counts, strict=True):
        assert drawn.epochs == pytest.approx(count / drawn.source.clips)
    assert found.layout == datasets[0].vocabulary
    codes = sum(p.stat().st_size for d in datasets for p in d.folder.glob("shards/*.npy"))
    headers = 128 * 2
    assert found.token_bytes == codes - headers
    assert str(datasets[1].folder) in found.text() and "your data sets" in found.text()


def test_patches_and_what_they_predict(tmp_path):
    """A frame of 2x2 patches of 4x4 pixels takes as many bytes as it has values."""
    source = make_images(tmp_path / "images", 8)
    codes = make_dataset(source, save_tokenizer(tmp_path / "tokenizer"), tmp_path / "codes")
    patches = save_patches(tmp_path / "patches", 4)
    pixels = make_dataset(source, patches, tmp_path / "pixels")
    recipe = replace(TINY, weights=(), data=(pixels.folder,))
    itself, to_codes = (plan(recipe, 1, "l40s", [pixels], targets) for targets in ((), [codes]))
    assert itself.token_bytes == 8 * 3 * pixels.view.size**2
    for found, outputs in ((itself, 48), (to_codes, codes.vocabulary.size)):
        model = PatchLlama(TINY.model, 4, found.ends.outputs)
        assert found.ends.of(TINY.model) == sum(p.numel() for p in model.parameters())
        assert f"patch 48 values, head {outputs}" in found.text()
        assert "16 patches a sequence" in found.text()
    without_data = plan(replace(recipe, data=(), reads="patches", grid=2), 1, "l40s", patch=4)
    assert without_data.ends == itself.ends and without_data.layout == PatchGrid(4, 2, 2)


def test_a_data_set_of_both_kinds(tmp_path):
    make_videos(tmp_path / "both", [8])
    make_images(tmp_path / "both", 8)
    both = make_dataset(tmp_path / "both", save_tokenizer(tmp_path / "tokenizer"), tmp_path / "out")
    found = plan(replace(TINY, weights=(), data=(both.folder,)), 1, "l40s", [both])
    names = {f"{both.folder} (videos)", f"{both.folder} (images)"}
    assert {drawn.source.name for drawn in found.drawn} == names
    assert sum(drawn.tokens for drawn in found.drawn) == pytest.approx(found.tokens)


def test_data_sets_that_cannot_be_mixed_are_refused(datasets, tmp_path):
    with pytest.raises(UserError, match="no item for the split"):
        plan(replace(TINY, weights=(), validation_fraction=1.0), 1, "l40s", datasets)
    other = save_tokenizer(tmp_path / "other", seed=1)
    source = make_images(tmp_path / "images", 2)
    foreign = make_dataset(source, other, tmp_path / "foreign")
    with pytest.raises(UserError, match="cannot be mixed"):
        plan(TINY, 1, "l40s", [datasets[0], foreign])


@pytest.mark.parametrize("muon", [False, True])
def test_disk_is_what_checkpoints_take(datasets, tmp_path, muon):
    """The difference of two widths: what frames a tensor in a file is the same for both."""
    planned, written = [], []
    for width in (16, 64):
        size = LlamaSize(width=width, layers=2, heads=2, mlp_width=32)
        recipe = replace(TINY, model=size, muon=muon)
        planned.append(plan(recipe, 1, "l40s", datasets).checkpoint_bytes)
        sequences = [Sequences(freeze(datasets, (2, 1), 4, 0, "train", 0.0))] * 2
        objective = NextToken(recipe, *sequences)
        place(objective.modules, torch.device("cpu"), ALONE, "none")
        objective.initialise()
        (phase,) = objective.phases
        its = build_optimizers(phase.module, phase.optimizer, muon=muon)
        phase.loss(objective.batches(0)[0], 0)[0].backward()
        for optimizer in its:
            optimizer.step()
        run, optimizers = tmp_path / str(width), [(phase, its)]
        with Checkpoints(run, objective, optimizers, ALONE, TINY.loop) as checkpoints:
            checkpoints.save(1)
        files = (run / "checkpoints" / "step-000001").iterdir()
        written.append(sum(path.stat().st_size for path in files))
    assert written[1] - written[0] == pytest.approx(planned[1] - planned[0], rel=0.01)
    # 30 steps and a checkpoint every 20 never make three.
    assert ": 2 of " in plan(TINY, 1, "l40s", datasets).text()


def test_the_text_is_narrow_and_aligned():
    for name in RECIPES:
        lines = (
            plan(RECIPES[name](), 1 if name.startswith(("demo", "tiny")) else 8, "b200")
            .text()
            .splitlines()
        )
        assert 19 <= len(lines) <= 26
        assert max(map(len, lines)) <= 110
        names = [line[:9].strip() for line in lines]
        assert [n for n in names if n] == [
            *("model", "run", "data", "compute", "memory", "disk", "time")
        ]
        assert all(line[8] == " " and not line.endswith(" ") for line in lines)


def test_the_book_shows_what_the_command_prints(tmp_path):
    text = BOOK.read_text()
    shown = re.findall(r"^```bash\n(toto plan [^\n]*)\n```\n```text\n(.*?)^```$", text, re.M | re.S)
    assert len(shown) == 3
    for line, printed in shown:
        assert made(tmp_path, *line.split()[1:]) == printed.splitlines(), line

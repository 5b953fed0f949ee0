"""What a pre-training run will take, said before it begins: data, compute, memory, disk, days."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log10

from toto.errors import UserError, at_least
from toto.models.cost import (
    Ends,
    Flops,
    Gpu,
    Memory,
    gpu_named,
    optimizer_bytes,
    patch_ends,
    token_ends,
    training_flops,
    training_memory,
)
from toto.models.sizes import LlamaSize
from toto.studies.plan_data import CODE_BYTES, Source, of_data_sets, of_the_paper
from toto.studies.speed import Speed, known_by, speed_of
from toto.tokens.patches import PatchGrid
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Layout, Vocabulary
from toto.training.config import Pretrain

# The part of a GPU's memory to fill: the rest is CUDA's own and lost between tensors. A run that
# holds 93 % of an H100 was measured.
USABLE = 0.95

ON_NODE = 8  # GPUs of a machine


@dataclass(frozen=True)
class Drawn:
    """What a run draws from a source."""

    source: Source
    tokens: float
    epoch: float
    """tokens in an epoch, short clips padded"""
    epochs: float


@dataclass(frozen=True)
class Fit:
    """What one GPU would hold."""

    memory: Memory
    fits: bool
    largest_micro_batch: int
    """that fits; 0 if none does"""


@dataclass(frozen=True)
class Plan:
    """What a run will take."""

    recipe: Pretrain
    gpus: int
    gpu_name: str
    gpu: Gpu
    layout: Layout
    ends: Ends
    data: str
    """where the sources are known from"""
    drawn: tuple[Drawn, ...]
    tokens: int
    flops: Flops
    """of the whole run"""
    fit: Fit
    """as the recipe says"""
    divided: Fit
    """weights, gradients and the optimizer's means are divided by all GPUs"""
    token_bytes: int | float
    """of what is stored"""
    checkpoint_bytes: int
    speeds: tuple[Speed, Speed]
    """as the recipe says; eager in place of compiled, or the other way round"""

    def days(self, speed: Speed) -> float:
        """Days of training alone, N GPUs being N times as fast as one."""
        return self.tokens / (speed.tokens_per_second * self.gpus) / 86_400

    def text(self) -> str:
        """The plan in about 25 aligned lines."""
        parts = {
            "model": self._model(),
            "run": self._run(),
            "data": self._data(),
            "compute": self._compute(),
            "memory": self._memory(),
            "disk": self._disk(),
            "time": self._time(),
        }
        return "\n".join(
            f"{'' if i else name:<9}{line}"
            for name, lines in parts.items()
            for i, line in enumerate(lines)
        )

    def _model(self) -> list[str]:
        size = self.recipe.model
        ends = f"table {self.ends.outputs:,}"
        if isinstance(self.layout, PatchGrid):
            ends = f"patch {self.layout.values} values, head {self.ends.outputs:,}"
        return [
            f"{self.ends.of(size):,} parameters: width {size.width}, layers {size.layers}, "
            f"heads {size.heads}, SwiGLU {size.mlp_width}, {ends}"
        ]

    def _run(self) -> list[str]:
        recipe = self.recipe
        pieces = recipe.batch // (recipe.micro_batch * self.gpus)
        cut = ", cut shorter by the curriculum" if recipe.curriculum else ""
        return [
            f"{_short(self.tokens)} tokens: {recipe.loop.steps:,} steps, batch {recipe.batch}, "
            f"{recipe.frames * self.layout.frame:,} {self._unit} a sequence{cut}",
            f"{self.gpus} x {self.gpu_name}; micro-batches in a step: {pieces} of "
            f"{recipe.micro_batch} on each GPU",
        ]

    def _data(self) -> list[str]:
        width = max(len(drawn.source.name) for drawn in self.drawn)
        block = sum(drawn.source.weight for drawn in self.drawn)
        return [
            self.data,
            f"{'':<{width}}   share  tokens read  in an epoch  epochs",
            *(
                f"{drawn.source.name:<{width}}  {drawn.source.weight / block:6.1%}"
                f"  {_short(drawn.tokens):>11}  {_short(drawn.epoch):>11}"
                f"  {_epochs(drawn.epochs):>6}"
                for drawn in self.drawn
            ),
        ]

    def _compute(self) -> list[str]:
        return [
            f"{flops:.3g} FLOP, {flops / self.tokens / 1e9:.3g} GFLOP a token: {counted}"
            for flops, counted in (
                (self.flops.whole, "6N + 12LdT, attention whole"),
                (self.flops.causal, "6N + 6LdT, attention causal"),
            )
        ]

    def _memory(self) -> list[str]:
        memory, loop = self.fit.memory, self.recipe.loop
        mode = "compiled" if loop.compile else "eager"
        if loop.recompute:
            mode += f", {loop.recompute:.0%} recomputed"
        if loop.sharding != "none":
            mode += f", the first three divided by {_shards(self.recipe, self.gpus)}"
        optimizer = "Muon and AdamW" if self.recipe.muon else "AdamW"
        lines = [
            f"  weights {_gib(memory.weights)} + gradients {_gib(memory.gradients)} + {optimizer} "
            f"{_gib(memory.optimizer)} + bf16 copies {_gib(memory.casts)}",
            f"+ activations {_gib(memory.activations)} + logits {_gib(memory.logits)} "
            f"({mode}, micro-batch {self.recipe.micro_batch})",
            f"= {_gib(memory.total)} GiB on each GPU, which has {_gib(self.gpu.memory)}: "
            + _verdict(self.fit),
        ]
        if self.gpus > 1 and loop.sharding != "all":
            lines.append(
                f"  {_gib(self.divided.memory.total)} GiB with --sharding all, the first three "
                f"divided by {self.gpus}: {_verdict(self.divided)}"
            )
        return lines

    def _disk(self) -> list[str]:
        loop, each = self.recipe.loop, self.checkpoint_bytes
        count = min(loop.keep_checkpoints + 1, ceil(loop.steps / loop.checkpoint_every))
        return [
            f"{self._stored()}, every source stored once",
            f"checkpoints {_bytes(count * each)}: {count} of {_bytes(each)}, one every "
            f"{loop.checkpoint_every:,} steps",
        ]

    @property
    def _unit(self) -> str:
        return "patches" if isinstance(self.layout, PatchGrid) else "codes"

    def _stored(self) -> str:
        if isinstance(self.layout, PatchGrid):
            return f"pixels {_bytes(self.token_bytes)}, {self.layout.values} bytes a patch"
        return f"tokens {_bytes(self.token_bytes)}, {CODE_BYTES} bytes each"

    def _time(self) -> list[str]:
        asked, other = self.speeds
        lines = []
        for speed in self.speeds:
            days = self.days(speed)
            option = "" if speed is asked else f" with --{'' if other.compiled else 'no-'}compile"
            known = "measured" if speed.measured else "assumed"
            lines.append(
                f"{_duration(days)}{option}, {_hours(24 * self.gpus * days)} GPU-hours: "
                f"{speed.tokens_per_second:,.0f} tokens/s on each GPU, {known}"
            )
        lines += known_by(asked, other)
        linear = f"{self.gpus} GPUs taken as {self.gpus} times one; " if self.gpus > 1 else ""
        return [*lines, f"{linear}tokenizing, validation and checkpoints are not counted"]


def plan(
    recipe: Pretrain,
    gpus: int,
    gpu: str,
    datasets: Sequence[TokenDataset] = (),
    targets: Sequence[TokenDataset] = (),
    patch: int = 16,
) -> Plan:
    """Plan a run of `recipe` on `gpus` GPUs of a kind.

    On data sets, and those of what their patches predict; without any on what the paper has of what
    the recipe reads, where patches have sides of `patch` pixels.

    Raises:
        UserError: the GPU is unknown, the batch cannot be shared out, the data sets do not fit
            together, or the recipe computes in fp32, whose speed nobody measured.
    """
    kind = gpu_named(gpu)
    _check_batch(recipe, gpus)
    if recipe.loop.precision == "fp32":
        raise UserError("precision fp32: plans are for bf16, whose speed was measured")
    data = of_data_sets(recipe, datasets, targets) if datasets else of_the_paper(recipe, patch)
    layout = data.layout
    ends = _ends(recipe.model, layout, data.target)
    tokens, flops = _tokens_and_flops(recipe, layout, ends)
    return Plan(
        recipe=recipe,
        gpus=gpus,
        gpu_name=gpu,
        gpu=kind,
        layout=layout,
        ends=ends,
        data=data.known,
        drawn=tuple(
            _drawn(source, data.sources, recipe, layout, tokens) for source in data.sources
        ),
        tokens=tokens,
        flops=flops,
        fit=_fit(recipe, layout, ends, gpus, kind, _shards(recipe, gpus)),
        divided=_fit(recipe, layout, ends, gpus, kind, shards=gpus),
        token_bytes=data.stored,
        checkpoint_bytes=4 * ends.of(recipe.model)
        + optimizer_bytes(recipe.model, ends, recipe.muon),
        speeds=(
            speed_of(recipe, layout, flops.causal / tokens, gpu, recipe.loop.compile),
            speed_of(recipe, layout, flops.causal / tokens, gpu, not recipe.loop.compile),
        ),
    )


def _ends(size: LlamaSize, layout: Layout, target: Vocabulary | None) -> Ends:
    if isinstance(layout, PatchGrid):
        return patch_ends(size, layout.values, target.size if target else layout.values)
    assert isinstance(layout, Vocabulary)
    return token_ends(size, layout.size)


def _shards(recipe: Pretrain, gpus: int) -> int:
    """Among how many GPUs the state is divided."""
    return {"none": 1, "node": min(gpus, ON_NODE), "all": gpus}[recipe.loop.sharding]


def _check_batch(recipe: Pretrain, gpus: int) -> None:
    at_least(1, gpus=gpus)
    batch, micro_batch = recipe.batch, recipe.micro_batch
    if batch % gpus:
        near = [max(d for d in _divisors(batch) if d < gpus)]
        near += [d for d in _divisors(batch) if d > gpus][:1]
        raise UserError(
            f"batch {batch} cannot be shared by {gpus} GPUs: by {' or '.join(map(str, near))}"
        )
    if batch % (micro_batch * gpus):
        fits = max(d for d in _divisors(batch // gpus) if d <= micro_batch)
        raise UserError(
            f"batch {batch} is no multiple of micro_batch {micro_batch} x {gpus} GPUs: "
            f"micro_batch {fits} would fit"
        )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def stages(recipe: Pretrain) -> list[tuple[int, int]]:
    """`(steps, frames)` of the curriculum's stages, whole sequences last."""
    found, done, steps = [], 0, recipe.loop.steps
    for until, frames in (*recipe.curriculum, (1.0, recipe.frames)):
        end = ceil(until * steps)
        if end > done:
            found.append((end - done, frames))
            done = end
    return found


def _tokens_and_flops(recipe: Pretrain, layout: Layout, ends: Ends) -> tuple[int, Flops]:
    tokens = whole = causal = 0
    for steps, frames in stages(recipe):
        positions = frames * layout.frame
        # What is left over of a sequence that is cut into pieces is not read.
        count = steps * recipe.batch * (recipe.frames // frames) * positions
        flops = training_flops(recipe.model, positions, ends.products)
        tokens += count
        whole += count * flops.whole
        causal += count * flops.causal
    return tokens, Flops(whole, causal)


def _drawn(
    source: Source,
    sources: Sequence[Source],
    recipe: Pretrain,
    layout: Layout,
    tokens: int,
) -> Drawn:
    share = source.weight / sum(other.weight for other in sources)
    clips = (
        recipe.loop.steps * recipe.batch * share * (1 if source.kind == "video" else recipe.frames)
    )
    return Drawn(
        source,
        tokens=share * tokens,
        epoch=source.frames(recipe) * layout.frame,
        epochs=clips / source.clips,
    )


def _fit(recipe: Pretrain, layout: Layout, ends: Ends, gpus: int, gpu: Gpu, shards: int) -> Fit:
    def memory(micro_batch: int) -> Memory:
        return training_memory(
            recipe.model,
            recipe.frames * layout.frame,
            ends,
            micro_batch,
            compiled=recipe.loop.compile,
            shards=shards,
            recompute=recipe.loop.recompute,
            muon=recipe.muon,
        )

    usable = USABLE * gpu.memory
    fitting = [m for m in _divisors(recipe.batch // gpus) if memory(m).total <= usable]
    asked = memory(recipe.micro_batch)
    return Fit(asked, asked.total <= usable, max(fitting, default=0))


def _verdict(fit: Fit) -> str:
    largest = fit.largest_micro_batch
    if fit.fits:
        return f"fits, up to micro-batch {largest}"
    return f"does NOT fit, {f'--micro-batch {largest} would' if largest else 'nor does 1'}"


def _short(number: int | float, letters: str = "kMBT") -> str:
    """Three digits and a letter: 1.05T."""
    power = min(int(log10(max(number, 1))) // 3, len(letters))
    scaled = number / 1000**power
    if not power:
        return f"{scaled:.0f}"
    return f"{scaled:.{max(0, 2 - int(log10(scaled)))}f}{letters[power - 1]}"


def _bytes(number: int | float) -> str:
    text = _short(number, "kMGT")
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} bytes"


def _gib(number: int | float) -> str:
    return f"{number / 2**30:.1f}"


def _epochs(number: float) -> str:
    return f"{number:.3g}" if number >= 0.001 else "<0.001"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _duration(days: float) -> str:
    for unit, length in (("days", days), ("hours", 24 * days), ("minutes", 1440 * days)):
        if length >= 1:
            return f"{length:,.{0 if length >= 100 else 1}f} {unit}"
    return f"{86_400 * days:.0f} seconds"

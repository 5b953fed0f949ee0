"""What a training run is told: the fields of recipes, and nothing of how they are carried out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from toto.errors import UserError, at_least, fraction, positive, within
from toto.models.sizes import LlamaSize
from toto.tokenizers.sizes import DVAESize, VQGANSize

Precision = Literal["auto", "bf16", "fp32"]
Sharding = Literal["none", "node", "all"]
Reads = Literal["any", "codes", "patches", "patches_to_codes"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 3e-4
    """peak learning rate"""
    final_fraction: float = 0.1
    """the learning rate at the end of decay as a fraction of the peak"""
    warmup_steps: int = 2000
    """steps of linear warm-up"""
    decay_steps: int | None = None
    """steps of decay after it, the rest being at its end; None: to the last step"""
    betas: tuple[float, float] = (0.9, 0.95)
    """decay of the running means of gradient and squared gradient"""
    eps: float = 1e-8
    """added to the denominator"""
    weight_decay: float = 0.1
    """decay of matrices; vectors have none"""
    clip: float | None = 1.0
    """largest norm of the gradient"""

    def __post_init__(self) -> None:
        positive(eps=self.eps, clip=self.clip, decay_steps=self.decay_steps)
        at_least(
            0,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
        )
        within(0, 1, final_fraction=self.final_fraction)
        check_betas(self.betas)


def check_betas(betas: tuple[float, float]) -> None:
    """Refuse decays of AdamW's means that are none."""
    for beta in betas:
        fraction(betas=beta)


def check_batch(batch: int, micro_batch: int) -> None:
    """Refuse a batch that no number of micro-batches makes."""
    at_least(1, batch=batch, micro_batch=micro_batch)
    if batch % micro_batch:
        raise UserError(f"batch {batch} is no multiple of micro_batch {micro_batch}")


@dataclass(frozen=True, kw_only=True)
class Running:
    """How any training runs."""

    seed: int = 0
    """seed of initial weights, order of the data, and noise"""
    precision: Precision = "auto"
    """compute in bf16 with fp32 weights, or in fp32; auto is bf16 where the hardware has it"""
    compile: bool = False
    """torch.compile: faster steps after about a minute"""
    deterministic: bool = False
    """only deterministic kernels: slower, the same bits each time on one kind of device"""
    sharding: Sharding = "none"
    """none: every process holds the whole model; all: weights, gradients and the optimizer's state
    are divided among all processes; node: among those of a machine, and machines hold the same"""
    recompute: float = 0.0
    """part of the blocks that compute their activations again in the backward pass rather than
    keep them: less memory, up to a third more time"""
    log_every: int = 10
    """steps between lines of metrics.jsonl"""
    checkpoint_every: int = 1000
    """steps between checkpoints; the last step always has one"""

    def __post_init__(self) -> None:
        at_least(1, log_every=self.log_every, checkpoint_every=self.checkpoint_every)
        within(0, 1, recompute=self.recompute)


@dataclass(frozen=True, kw_only=True)
class Loop(Running):
    """The training loop."""

    steps: int
    """optimizer steps"""
    device: str = "auto"
    """auto (cuda, mps, cpu in that order) or a device's name"""
    skip_bad_steps: int = 0
    """steps with a loss or gradient that is not finite that may be left out; one more ends the
    run"""
    validate_every: int = 1000
    """steps between validations; the last step is always validated"""
    keep_checkpoints: int = 2
    """checkpoints kept, the newest"""
    keep_hours: float | None = None
    """hours between older checkpoints that are kept for good; none are without"""
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """what gets the metrics beside metrics.jsonl; wandb and trackio are extras of those names"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(
            1,
            steps=self.steps,
            validate_every=self.validate_every,
            keep_checkpoints=self.keep_checkpoints,
        )
        at_least(0, skip_bad_steps=self.skip_bad_steps)
        positive(keep_hours=self.keep_hours)


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Pre-training of a LLaMA on token data sets: the next token, or of pixels the next patch."""

    model: LlamaSize
    """shape of the model"""
    loop: Loop
    """the training loop"""
    optimizer: AdamW = field(default_factory=AdamW)
    """the optimizer"""
    muon: bool = False
    """the blocks' matrices are trained by Muon, at AdamW's learning rate and weight decay"""
    init_from: Path | None = None
    """a saved model, or a run with one, whose weights this one begins with"""
    data: tuple[Path, ...] = ()
    """token data sets"""
    targets: tuple[Path, ...] = ()
    """token data sets of codes, one for each of data, which are of the same frames' pixels: patches
    then predict the next patch's code, and not its pixels"""
    reads: Reads = "any"
    """what data must hold: codes, patches, or patches_to_codes (patches, and codes as targets)"""
    kind: Literal["video", "image"] | None = None
    """what all items of data must be, video or image; either where none is given"""
    grid: int | None = None
    """codes or patches a side of a frame that data must have; any where none is given"""
    codebook_size: int | None = None
    """codes of the tokenizer that data, or targets, must have; any where none is given"""
    weights: tuple[int, ...] = ()
    """sequences from each data set in every block of sum(weights); empty: in proportion to clips"""
    frames: int = 16
    """frames of a clip, or images of a sequence"""
    batch: int = 256
    """sequences in a step"""
    micro_batch: int = 16
    """sequences in one forward pass; gradients of batch / micro_batch of them add up"""
    curriculum: tuple[tuple[float, int], ...] = ()
    """(until, frames): until that fraction of the steps, each sequence is cut into sequences of
    so many frames; afterwards sequences are whole"""
    validation_fraction: float = 0.01
    """part of the items, chosen by a hash of their keys, that is kept for validation where a data
    set does not name a split"""
    validation_sequences: int = 256
    """sequences of a validation"""

    def __post_init__(self) -> None:
        at_least(1, frames=self.frames, validation_sequences=self.validation_sequences)
        within(0, 1, validation_fraction=self.validation_fraction)
        if self.muon and self.model.mup_base is not None:
            raise UserError("muP's learning rates are AdamW's: train without muon, or without muP")
        check_batch(self.batch, self.micro_batch)
        if self.weights and len(self.weights) != len(self.data):
            raise UserError(f"{len(self.weights)} weights for {len(self.data)} data sets")
        if self.targets and len(self.targets) != len(self.data):
            raise UserError(f"{len(self.targets)} targets for {len(self.data)} data sets")
        for until, frames in self.curriculum:
            if not (0 < until <= 1 and 1 <= frames <= self.frames):
                raise UserError(
                    f"curriculum {until} {frames}: until a fraction of the steps in (0, 1], "
                    f"1 to {self.frames} frames"
                )


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """Training of a tokenizer on the frames of a source."""

    tokenizer: DVAESize | VQGANSize
    """shape of the tokenizer"""
    loop: Loop
    """the training loop"""
    optimizer: AdamW = field(default_factory=AdamW)
    """the optimizer"""
    source: tuple[str, ...] = ()
    """folders, files, or CSV files of `path label`"""
    size: int = 256
    """side of the frames in pixels"""
    stride: int = 4
    """every stride-th frame of a video is used"""
    zoom: tuple[float, float] = (1.0, 1.0)
    """bounds of the side, as a multiple of size, to which a frame is resized before size pixels of
    it are cut out, both drawn anew whenever it is seen; pictures smaller than that are enlarged"""
    flip: bool = False
    """whether half of the frames, drawn anew whenever they are seen, are mirrored"""
    held_out: float = 0.05
    """part of the items, chosen by a hash of their keys, that is kept for validation"""
    pool: int = 100_000
    """frames that are decoded once, spread evenly over the source, and drawn from in training"""
    batch: int = 512
    """frames in a step"""
    micro_batch: int = 8
    """frames in one forward pass; gradients of batch / micro_batch of them add up"""
    ema_decay: float = 0.999
    """decay of the running mean of the weights, which is what is saved"""
    validation_frames: int = 512
    """frames, from items that training does not see, of a validation"""

    def __post_init__(self) -> None:
        at_least(
            1,
            size=self.size,
            stride=self.stride,
            pool=self.pool,
            validation_frames=self.validation_frames,
        )
        check_batch(self.batch, self.micro_batch)
        fraction(held_out=self.held_out, ema_decay=self.ema_decay)
        if not 1 <= self.zoom[0] <= self.zoom[1]:
            raise UserError(f"zoom {self.zoom}: two numbers from 1 on, the smaller one first")
        if self.size % self.tokenizer.downsample:
            raise UserError(
                f"size {self.size} is no multiple of the {self.tokenizer.downsample} pixels a code"
            )

    @property
    def pool_size(self) -> int:
        """Side of the frames that are decoded once, in pixels."""
        return round(self.size * self.zoom[1])


@dataclass(frozen=True, kw_only=True)
class TrainDVAE(TrainTokenizer):
    """Training of a discrete VAE (Ramesh et al. 2021, section 2.1)."""

    tokenizer: DVAESize
    """shape of the tokenizer"""
    init_frames: int = 0
    """frames whose features are clustered to begin the codes with; 0 begins with random weights"""
    temperature: tuple[float, float] = (1.0, 1 / 16)
    """temperature of the Gumbel-softmax at the first step and after temperature_steps"""
    temperature_steps: int = 150_000
    """steps of the cosine between the two temperatures"""
    kl_weight: float = 6.6
    """final weight of the KL from each place's posterior to the uniform prior"""
    kl_steps: int = 5000
    """steps of the cosine from 0 to kl_weight"""
    usage_weight: float = 0.0
    """weight of the KL from the mean posterior of a micro-batch to the uniform prior"""
    least_log_scale: float = -20.0
    """lower bound of the likelihood's log scale: a higher one keeps flat backgrounds, which can be
    predicted almost exactly, from outweighing everything else"""

    def __post_init__(self) -> None:
        super().__post_init__()
        first, last = self.temperature
        positive(temperature=min(first, last))
        at_least(
            0,
            init_frames=self.init_frames,
            kl_weight=self.kl_weight,
            usage_weight=self.usage_weight,
        )
        at_least(1, temperature_steps=self.temperature_steps, kl_steps=self.kl_steps)


@dataclass(frozen=True, kw_only=True)
class TrainVQGAN(TrainTokenizer):
    """Training of a VQGAN (Esser et al. 2021; the defaults are CompVis')."""

    tokenizer: VQGANSize
    """shape of the tokenizer"""
    perceptual: Path | None = None
    """weights of LPIPS, which then adds to the absolute error; none is without"""
    perceptual_weight: float = 1.0
    """weight of LPIPS beside the absolute error"""
    commitment_weight: float = 1.0
    """weight of the latents' squared distance to their codes, which draws the latents"""
    codebook_weight: float = 0.25
    """weight of the same distance, which draws the codes"""
    revive_every: int = 0
    """steps between looks at which codes are used; those that are not are put where latents are far
    from theirs; 0 never looks"""
    revive_frames: int = 64
    """frames that are looked at"""
    adversarial_weight: float = 0.8
    """weight of the discriminator's opinion, once it pulls as hard as the reconstruction's error"""
    adversarial_start: int = 250_001
    """step from which on there is a discriminator"""
    discriminator_width: int = 64
    """channels after its first convolution; each further one doubles them, up to eightfold"""
    discriminator_layers: int = 3
    """its convolutions that halve the resolution"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(
            0,
            perceptual_weight=self.perceptual_weight,
            commitment_weight=self.commitment_weight,
            codebook_weight=self.codebook_weight,
            revive_every=self.revive_every,
            adversarial_weight=self.adversarial_weight,
        )
        at_least(
            1,
            revive_frames=self.revive_frames,
            discriminator_width=self.discriminator_width,
            discriminator_layers=self.discriminator_layers,
        )

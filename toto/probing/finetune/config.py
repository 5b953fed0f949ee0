"""What full fine-tuning is told."""

from dataclasses import dataclass, fields
from typing import Literal

from toto.errors import at_least, fraction, positive, within
from toto.training.config import AdamW, Loop, Running, check_batch, check_betas

AttentionKind = Literal["causal", "full"]
HeadPool = Literal["mean", "attention"]

# The step for which learning rates are given (facebookresearch/mae: main_finetune.py).
_BASE_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class FineTune(Running):
    """Full fine-tuning by labels: MAE's recipe for ViT-B, as far as it is not about pixels.

    (facebookresearch/mae: FINETUNE.md)
    """

    epochs: int = 100
    """passes over the training clips"""
    warmup_epochs: int = 5
    """passes of linear warm-up among them"""
    batch: int = 1024
    """clips in a step"""
    micro_batch: int = 64
    """clips in one forward pass; gradients of batch / micro_batch of them add up"""
    base_learning_rate: float = 5e-4
    """peak learning rate of a step of 256 clips; it grows in proportion to the batch"""
    final_learning_rate: float = 1e-6
    """learning rate of the last step"""
    layer_decay: float = 0.65
    """learning rate of each block as a factor of that of the block above"""
    weight_decay: float = 0.05
    """decay of matrices; vectors have none"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of the running means of gradient and squared gradient"""
    drop_path: float = 0.1
    """how often the last block's attention and MLP are left out for a clip; linear in the depth"""
    mixup: float = 0.8
    """alpha of the share by which two clips' embeddings are mixed; 0 never mixes them"""
    cutmix: float = 1.0
    """alpha of the part of the grid that another clip's codes fill; 0 never; given both, each clip
    gets one of them by chance"""
    label_smoothing: float = 0.1
    """part of the target that is spread over all classes"""
    attention: AttentionKind = "causal"
    """causal, as in pre-training; or full: every position sees all others"""
    pool: HeadPool = "mean"
    """what the classifier reads of the last layer after the final norm: the mean over the
    positions, or what AIM's attention pools"""
    rope_base: float | None = None
    """base of the rotary embedding where it is not the trunk's (the paper: 50,000 at 256 px)"""
    held_out: float = 0.2
    """part of the training clips that accuracy is watched on; nothing is chosen by it"""
    test_clips: int = 1
    """clips of each test video, evenly spaced; probabilities are averaged over them and over all
    stored crops"""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_batch(self.batch, self.micro_batch)
        at_least(1, epochs=self.epochs, test_clips=self.test_clips)
        positive(
            base_learning_rate=self.base_learning_rate,
            final_learning_rate=self.final_learning_rate,
            layer_decay=self.layer_decay,
            rope_base=self.rope_base,
        )
        within(0, 1, layer_decay=self.layer_decay)
        at_least(
            0,
            warmup_epochs=self.warmup_epochs,
            weight_decay=self.weight_decay,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )
        fraction(
            drop_path=self.drop_path,
            label_smoothing=self.label_smoothing,
            held_out=self.held_out,
        )
        check_betas(self.betas)

    def loop(self, clips: int, device: str = "auto") -> Loop:
        """The training loop for so many training clips."""
        steps = max(self.epochs * clips // self.batch, 1)
        running = {field.name: getattr(self, field.name) for field in fields(Running)}
        return Loop(steps=steps, device=device, validate_every=max(steps // 10, 1), **running)

    def optimizer(self, clips: int) -> AdamW:
        """The optimizer for so many training clips."""
        peak = self.base_learning_rate * self.batch / _BASE_BATCH
        return AdamW(
            learning_rate=peak,
            final_fraction=min(self.final_learning_rate / peak, 1.0),
            warmup_steps=self.warmup_epochs * clips // self.batch,
            betas=self.betas,
            weight_decay=self.weight_decay,
            clip=None,
        )

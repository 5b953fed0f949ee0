"""What the training of probes is told."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from toto.errors import UserError, at_least, fraction, positive
from toto.media.view import View
from toto.training.config import Loop

ProbeKind = Literal["attention", "mean", "last", "cross"]
TrunkUpdate = Literal["none", "next_token"]


@dataclass(frozen=True, kw_only=True)
class ProbeViews:
    """What is tokenized of media to train probes on and to test them on."""

    crops: int = 0
    """stored crops of each training item, of which each epoch sees one; 0: the square in the
    middle"""
    scale: tuple[float, float] | None = None
    """these crops are boxes of a random part of the area between these, like 0.08 1"""
    flip: bool = False
    """each of these crops is mirrored with probability one half"""
    test_crops: int = 1
    """crops of each test item, evenly from one end of its longer side to the other"""

    def __post_init__(self) -> None:
        at_least(1, test_crops=self.test_crops)

    def train(self, view: View) -> View:
        """The view of training items, where the model's own is `view`."""
        return replace(view, crops=self.crops, scale=self.scale, flip=self.flip)

    def test(self, view: View) -> View:
        """The view of test items."""
        if self.test_crops == 1:
            return view
        return replace(view, crops=self.test_crops, spread="even")


@dataclass(frozen=True, kw_only=True)
class ProbeTraining:
    """How probes are trained (AIM, Toto sections 4.1 and A)."""

    epochs: int = 10
    """passes over the training clips"""
    batch: int = 32
    """clips in a step"""
    probes: tuple[ProbeKind, ...] = ("attention",)
    """attention (pooling, AIM's), mean or last (code's state, and a linear classifier), cross
    (attention and an MLP, V-JEPA's); all are trained on every layer, the best counts"""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """each probe is trained with each of them; the best on the held-out part of train counts"""
    weight_decays: tuple[float, ...] = (0.01, 0.1)
    """decays of matrices: likewise, with each learning rate"""
    held_out: float = 0.2
    """part of the training clips that probe, layer, learning rate and decay are chosen on"""
    heads: int | None = None
    """heads of the attention; as many as the trunk has where none are given"""
    random_start: bool = False
    """a training clip of a video begins at a random frame in each epoch, and is not the middle
    one"""
    test_clips: int = 1
    """clips of each test video, evenly spaced; probabilities are averaged over them and over all
    stored crops"""
    trunk_update: TrunkUpdate = "none"
    """none: the model stays as it is; next_token: a copy goes on training by next-token loss on the
    training clips, without the probes' gradients, while they read its states of the moment"""
    trunk_learning_rate: float = 6e-5
    """peak learning rate of that training"""
    trunk_layer_decay: float = 0.9
    """learning rate of each of its blocks as a factor of that of the block above"""
    rope_base: float | None = None
    """base of the rotary embedding where it is not the model's (the paper: 50,000 at 256 px)"""
    seed: int = 0
    """seed of initial weights, of the order of the clips and of what an epoch sees of each"""

    def __post_init__(self) -> None:
        at_least(
            1,
            epochs=self.epochs,
            probes=len(self.probes),
            learning_rates=len(self.learning_rates),
            weight_decays=len(self.weight_decays),
            test_clips=self.test_clips,
        )
        at_least(2, batch=self.batch)  # batch norm needs two
        fraction(held_out=self.held_out)
        positive(
            learning_rates=min(self.learning_rates),
            heads=self.heads,
            trunk_learning_rate=self.trunk_learning_rate,
            trunk_layer_decay=self.trunk_layer_decay,
            rope_base=self.rope_base,
        )
        at_least(0, weight_decays=min(self.weight_decays))

    @property
    def changes_trunk(self) -> bool:
        """Whether a copy of the model is read that is no longer the same."""
        return self.trunk_update != "none" or self.rope_base is not None

    @property
    def grid(self) -> list[tuple[float, float]]:
        """Each learning rate with each weight decay."""
        return [*product(self.learning_rates, self.weight_decays)]

    def loop(self, clips: int, device: str = "auto") -> Loop:
        steps = max(self.epochs * clips // min(self.batch, clips), 1)
        return Loop(
            steps=steps,
            seed=self.seed,
            device=device,
            precision="fp32",
            log_every=max(steps // 20, 1),
            validate_every=steps,
            checkpoint_every=max(steps // 4, 1),
        )


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """How labels are carried on from frame to frame: as STC does on DAVIS, by default.

    (ajabri/videowalk: README.md, code/test.py)
    """

    queue: int = 20
    """last frames that labels are taken over from, beside the first"""
    top_k: int = 10
    """places among all these that a place takes labels over from"""
    keep_ties: bool = False
    """whether places that are as like as the last of these count, too, as equal codes are"""
    radius: float = 12.0
    """how far away they may be, in places"""
    neighbourhood: Literal["disc", "square"] = "disc"
    """what the radius is of"""
    near_first: bool = False
    """whether those of the first frame must be near, too"""
    repeat_first: bool = True
    """whether the last frames are at first copies of the first one"""
    temperature: float = 0.05
    """divides likenesses (cosines) before the softmax over the places"""
    soft_first: bool = True
    """whether the places of the first frame have parts of objects, or one each"""
    stretch: bool = False
    """whether each object's labels are stretched to 0 to 1 before the likeliest counts"""

    def __post_init__(self) -> None:
        at_least(1, queue=self.queue, top_k=self.top_k)
        positive(radius=self.radius, temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class Tracking(Propagation):
    """How objects are tracked by the states of an encoder (Toto, Table 10)."""

    split: str = "val"
    """sequences that are tracked: a list in ImageSets, or all that there are where none is"""
    layers: str = "all"
    """all, numbers like 0,4,8, or a depth between 0 and 1 like 0.5"""
    size: int | None = None
    """side of the square that frames are squeezed into, by default the model's own; the paper: 256
    and 512"""
    context: int = 1
    """frames that a model of videos reads at once, of which the last one's states count; 1: each
    frame by itself, as an image if the model knows images"""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, context=self.context)
        positive(size=self.size)
        if "/" in self.split:
            raise UserError(f"split {self.split!r}: the name of a list")

"""What recognition by probes is asked, and what of its items could not be read."""

from dataclasses import dataclass

from toto.config import differences, to_dict
from toto.errors import UserError
from toto.models.llama import Llama
from toto.probing.config import ProbeTraining
from toto.probing.encoder import Encoder, TrainedEncoder
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Kind


@dataclass(frozen=True)
class Question:
    """What is asked: how well the classes of items can be read from an encoder's states."""

    encoder: Encoder
    dataset: TokenDataset
    kind: Kind
    frames: int
    """of a clip; an image is one"""
    config: ProbeTraining
    test: TokenDataset | None = None
    """what is tested on, where that is a data set of its own"""
    left_out: str | None = None
    """the file whose items alone are tested on, whatever their split, and not trained on"""
    pixels: bool = True
    """whether the pictures are decoded and probed, too"""

    def __post_init__(self) -> None:
        if self.encoder.width % self.heads:
            raise UserError(
                f"{self.heads} probe heads do not divide the model's width {self.encoder.width}"
            )
        reads_tokens = isinstance(self.encoder, TrainedEncoder) and isinstance(
            self.encoder.model, Llama
        )
        if self.config.changes_trunk and not reads_tokens:
            raise UserError("trunk_update and rope_base are for models that read tokens")
        check_same_reading(self.dataset, self.tested)

    @property
    def tested(self) -> TokenDataset:
        """The data set that the test items are of."""
        return self.test or self.dataset

    @property
    def heads(self) -> int:
        """Of the probes' attention."""
        return self.config.heads or self.encoder.heads

    def settings(self) -> dict[str, object]:
        """All that the answer depends on."""
        return {
            "encoder": self.encoder.fingerprint,
            "data": self.dataset.fingerprint,
            "test": self.test and self.test.fingerprint,
            "kind": self.kind,
            "frames": self.frames,
            "left_out": self.left_out,
            "pixels": self.pixels,
            "training": to_dict(self.config),
        }


def check_same_reading(dataset: TokenDataset, tested: TokenDataset) -> None:
    """Refuse to test on codes that are of other frames, or another tokenizer's, than trained on."""
    own, its = ({"tokenizer": x.info.tokenizer, **x.reading} for x in (dataset, tested))
    if different := differences(its, own):
        raise UserError(
            f"{tested.folder} has {'; '.join(different)} of {dataset.folder}: what is trained on "
            "and what is tested on must agree"
        )


def unread_items(dataset: TokenDataset, test: TokenDataset | None = None) -> dict[str, list[str]]:
    """What could not be read, and why, by split; of a data set of its own, as "test"."""
    found: dict[str, list[str]] = {}
    for source in (dataset, test):
        for key, split, reason in source.unread() if source else ():
            name = "test" if source is test else split or "all"
            found.setdefault(name, []).append(f"{key}: {reason}")
    return found

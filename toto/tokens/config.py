"""How media become a token data set."""

from dataclasses import dataclass, field

from toto.errors import UserError, at_least
from toto.media.view import View
from toto.tokenizers.sizes import Precision


@dataclass(frozen=True)
class Ingest:
    """How media become a token data set; all of it decides the bytes that are written."""

    view: View = field(default_factory=View)
    batch: int = 32
    """frames in each pass through the tokenizer; the last one of a shard is padded"""
    shard_items: int = 256
    """items in each shard"""
    precision: Precision | None = None
    """of the tokenizer's products; by default what its folder names, fp32 at first"""
    compiled: bool = False
    """compile the tokenizer: quicker on a GPU, after a minute"""
    online: bool = False
    """only count the frames: training decodes and tokenizes them"""

    def __post_init__(self) -> None:
        at_least(1, batch=self.batch, shard_items=self.shard_items)
        if self.online and self.view.crops:
            raise UserError(f"crops {self.view.crops}: training cuts out its own of an online scan")
        if self.online and (self.compiled or self.batch != Ingest.batch):
            what = "compiled" if self.compiled else f"batch {self.batch}"
            raise UserError(f"{what}: an online scan tokenizes nothing, training does")

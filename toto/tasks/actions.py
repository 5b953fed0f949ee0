"""Action recognition by frozen probes (Toto, section 4.2)."""

from pathlib import Path

from toto.probing.config import ProbeTraining
from toto.probing.encoder import Encoder
from toto.tasks.question import Question
from toto.tasks.recognition import recognise
from toto.tasks.results import ProbeResult
from toto.tokens.store import TokenDataset
from toto.training.parallel import ALONE, World


def probe_actions(
    encoder: Encoder,
    dataset: TokenDataset,
    frames: int,
    out: Path,
    config: ProbeTraining,
    test: TokenDataset | None = None,
    world: World = ALONE,
) -> ProbeResult:
    """What `encoder` knows of the labels of videos, by clips of `frames` kept frames.

    Raises:
        UserError: labels are missing, there are too few videos, or `out` was begun with another
            encoder, other data or other settings.
    """
    return recognise(Question(encoder, dataset, "video", frames, config, test), out, world)

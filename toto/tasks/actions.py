"""Action recognition by frozen probes (Toto, section 4.2)."""

from pathlib import Path

from toto.models.llama import Backbone
from toto.probing.config import ProbeTraining
from toto.tasks.recognition import recognise
from toto.tasks.results import ProbeResult
from toto.tokens.store import TokenDataset


def probe_actions(
    model: Backbone, dataset: TokenDataset, frames: int, out: Path, config: ProbeTraining
) -> ProbeResult:
    """What `model` knows of the labels of videos, by the middle clip of each.

    Raises:
        UserError: labels are missing, there are too few videos, or `out` was begun with another
            model, other data or other settings.
    """
    return recognise(model, dataset, "video", frames, out, config)

"""Image recognition by frozen probes (Toto, section 4.1)."""

from pathlib import Path

from toto.models.llama import Backbone
from toto.probing.config import ProbeTraining
from toto.tasks.recognition import recognise
from toto.tasks.results import ProbeResult
from toto.tokens.store import TokenDataset


def probe_images(
    model: Backbone, dataset: TokenDataset, out: Path, config: ProbeTraining
) -> ProbeResult:
    """What `model` knows of the labels of images; each is a sequence of its own.

    Raises:
        UserError: labels are missing, there are too few images, or `out` was begun with another
            model, other data or other settings.
    """
    return recognise(model, dataset, "image", 1, out, config)

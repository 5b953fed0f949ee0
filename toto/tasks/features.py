"""Features of a data set's clips as files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from toto.api import Toto
from toto.config import begin
from toto.errors import UserError
from toto.files import only_writer
from toto.models.saved import weights_fingerprint
from toto.probing.baselines.base import Baseline
from toto.probing.clips import Clips, item_clips
from toto.probing.features import FrozenFeatures, Hidden, pick_layers
from toto.probing.pooling import POOLS
from toto.probing.probes import Features
from toto.progress import progress
from toto.tokens.patches import PatchGrid
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Vocabulary
from toto.training.device import autocast, pick_precision

_CLIPS = 64
# Clips whose states of all layers are in memory together.
_AT_ONCE = 8


def export_features(
    loaded: Toto | Baseline, dataset: TokenDataset, out: Path, layers: str, pool: str
) -> None:
    """Write hidden states of each item's middle clip: 64 clips to a file, `layer_I` by name.

    A clip has as many frames as the model reads, or as the longest item if that has fewer.

    `items.parquet` names the items in the order of the files. Files that are there are kept.

    Raises:
        UserError: no such layers or pooling, or `out` was begun with others.
    """
    if pool not in POOLS:
        raise UserError(f"pool {pool!r}: one of {', '.join(POOLS)}")
    count = loaded.layers if isinstance(loaded, Baseline) else loaded.model.size.layers
    chosen = pick_layers(layers, count)
    rows = np.flatnonzero(dataset.column("crop") == 0)
    frames = min(loaded.frames, int(dataset.column("frames").max()))
    clips = item_clips(dataset, rows, frames)
    settings = {
        "model": loaded.fingerprint
        if isinstance(loaded, Baseline)
        else weights_fingerprint(loaded.model),
        "data": dataset.fingerprint,
        "layers": chosen,
        "pool": pool,
    }
    with only_writer(out):
        begin(out / "features.json", settings)
        features = _features(loaded, clips, dataset.layout, chosen)
        with progress("features", len(clips), "clips") as advance:
            for number, rows in enumerate(torch.arange(len(clips)).split(_CLIPS)):
                path = out / f"{number:05d}.safetensors"
                if not path.exists():
                    parts = [_pooled(features(some), pool) for some in rows.split(_AT_ONCE)]
                    states = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
                    partial = out / f".{path.name}.partial"
                    save_file(states, partial)
                    partial.replace(path)
                advance(len(rows))
        rows_table = pa.table(
            {
                "key": [item.key for item in clips.items],
                "label": pa.array([item.label for item in clips.items], pa.string()),
                "split": pa.array([item.split for item in clips.items], pa.string()),
                "first_frame": list(clips.firsts),
            }
        )
        pq.write_table(rows_table, out / "items.parquet")


def _pooled(states: Hidden, pool: str) -> dict[str, Tensor]:
    return {
        f"layer_{layer}": POOLS[pool](hidden).contiguous().cpu() for layer, hidden in states.items()
    }


def _features(
    loaded: Toto | Baseline, clips: Clips, layout: Vocabulary | PatchGrid, layers: list[int]
) -> Features:
    """States by layer name, of the clips at given rows."""
    if isinstance(loaded, Toto):
        return FrozenFeatures(loaded.model, clips.tokens, layers)
    assert isinstance(layout, PatchGrid)
    encoder, grid = loaded, layout

    @torch.no_grad()
    def of_frames(rows: Tensor) -> Hidden:
        frames = grid.pixels(clips.tokens[rows][:, 1:-1])
        with autocast(encoder.device, pick_precision("auto", encoder.device)):
            hidden = encoder.hidden_states(frames, layers)
        return {str(layer): states.float() for layer, states in hidden.items()}

    return of_frames

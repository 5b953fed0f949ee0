"""Features of a data set's clips as files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from toto.api import Toto
from toto.config import begin
from toto.errors import UserError
from toto.files import only_writer
from toto.probing.baselines.base import Baseline
from toto.probing.clips import items_of
from toto.probing.features import FrozenFeatures, Hidden, pick_layers
from toto.probing.pooling import POOLS
from toto.progress import progress
from toto.tokens.store import TokenDataset
from toto.weights import write_weights

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
    chosen = pick_layers(layers, loaded.encoder.layers)
    rows = np.flatnonzero(dataset.column("crop") == 0)
    frames = min(loaded.frames, int(dataset.column("frames").max()))
    clips = items_of(dataset, rows, frames).middle()
    settings = {
        "model": loaded.encoder.fingerprint,
        "data": dataset.fingerprint,
        "layers": chosen,
        "pool": pool,
    }
    with only_writer(out):
        begin(out / "features.json", settings)
        features = FrozenFeatures(loaded.encoder, chosen)
        with progress("features", len(clips), "clips") as advance:
            for number, rows in enumerate(torch.arange(len(clips)).split(_CLIPS)):
                path = out / f"{number:05d}.safetensors"
                if not path.exists():
                    parts = [_pooled(features(clips[i]), pool) for i in rows.split(_AT_ONCE)]
                    states = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
                    write_weights(path, states)
                advance(len(rows))
        rows_table = pa.table(
            {
                "key": [item.key for item in clips.items],
                "label": pa.array([item.label for item in clips.items], pa.string()),
                "split": pa.array([item.split for item in clips.items], pa.string()),
                "first_frame": clips.firsts.tolist(),
            }
        )
        pq.write_table(rows_table, out / "items.parquet")


def _pooled(states: Hidden, pool: str) -> Hidden:
    return {
        f"layer_{layer}": POOLS[pool](hidden).contiguous().cpu() for layer, hidden in states.items()
    }

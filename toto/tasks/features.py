"""Features of a data set's clips as files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from toto.api import Toto
from toto.config import begin
from toto.errors import UserError
from toto.files import only_writer
from toto.probing.clips import items_of
from toto.probing.features import FrozenFeatures, pick_layers
from toto.probing.pooling import POOLS
from toto.progress import progress
from toto.tokens.store import TokenDataset

_CLIPS = 64


def export_features(loaded: Toto, dataset: TokenDataset, out: Path, layers: str, pool: str) -> None:
    """Write hidden states of each item's middle clip: 64 clips to a file, `layer_I` by name.

    `items.parquet` names the items in the order of the files. Files that are there are kept.

    Raises:
        UserError: no such layers or pooling, or `out` was begun with others.
    """
    if pool not in POOLS:
        raise UserError(f"pool {pool!r}: one of {', '.join(POOLS)}")
    chosen = pick_layers(layers, loaded.encoder.layers)
    rows = np.flatnonzero(dataset.column("crop") == 0)
    clips = items_of(dataset, rows, loaded.frames).middle()
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
                    states = {
                        f"layer_{layer}": POOLS[pool](hidden).contiguous().cpu()
                        for layer, hidden in features(clips[rows]).items()
                    }
                    partial = out / f".{path.name}.partial"
                    save_file(states, partial)
                    partial.replace(path)
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

"""Full fine-tuning on images of 16x16 codes: images/s with causal and with full attention.

Through the training loop, on random codes: drop path, mixup and CutMix are on. A GPU takes the
base model, a CPU the demo's.

    python benchmarks/finetune.py
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import commit, machine, random_dataset, write_result

from toto.models.llama import Llama
from toto.models.sizes import BASE
from toto.probing.clips import items_of
from toto.probing.finetune.config import FineTune
from toto.probing.finetune.objective import Examples, FineTuning
from toto.recipes.pretrain import demo
from toto.tokens.store import TokenDataset
from toto.training.loop import train
from toto.training.metrics import read_metrics

CLASSES = 1000


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[64, 128] if cuda else [4])
    parser.add_argument("--steps", type=int, default=30 if cuda else 6)
    parser.add_argument("--name", default="finetune")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        random_dataset(Path(folder) / "data", 0, 1, 16, 8192, images=1024)
        dataset = TokenDataset(Path(folder) / "data")
        for attention in ("causal", "full"):
            for micro_batch in arguments.micro_batches:
                for compiled in (False, True) if cuda else (False,):
                    config = FineTune(
                        batch=2 * micro_batch,
                        micro_batch=micro_batch,
                        attention=attention,
                        compile=compiled,
                        log_every=2,
                    )
                    row: dict[str, Any] = {"attention": attention, "micro_batch": micro_batch}
                    row |= {"compiled": compiled}
                    out = Path(folder) / f"run-{len(rows)}"
                    try:
                        row |= measure(config, dataset, out, arguments.steps)
                    except torch.OutOfMemoryError:
                        row |= {"error": "out of memory"}
                    rows.append(row)
                    print(row, flush=True)
                    write_result(arguments.name, summary(rows))


def measure(config: FineTune, dataset: TokenDataset, out: Path, steps: int) -> dict[str, float]:
    """Median images/s of the steps' second half, and the memory of the process."""
    torch.manual_seed(0)
    size = BASE if torch.cuda.is_available() else demo().model
    trunk = Llama(size, dataset.vocabulary.size)
    items = items_of(dataset, np.arange(len(dataset)), 1)
    seen = Examples(
        lambda rows, epoch: items[rows].drawn(0, epoch, True).inputs(),
        torch.arange(len(items)) % CLASSES,
    )
    watched = replace(seen, labels=seen.labels[:1])
    names = [str(i) for i in range(CLASSES)]
    fine = FineTuning(config, trunk, names, seen, watched, dataset, 1, "image")
    loop = replace(config.loop(len(items)), steps=steps, validate_every=steps, trackers=())
    train(fine, loop, out, "fine-tune")
    lines = [row for row in read_metrics(out) if "clips_per_second" in row]
    rates = [row["clips_per_second"] for row in lines]
    return {
        "images_per_second": round(median(rates[len(rates) // 2 :]), 2),
        "memory_bytes": lines[-1]["memory_bytes"],
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best of full attention against the best of causal attention."""
    best = {
        kind: max(
            (r.get("images_per_second", 0) for r in rows if r["attention"] == kind), default=0
        )
        for kind in ("causal", "full")
    }
    return {
        "name": "finetune",
        "value": best["full"],
        "unit": "images/s",
        "peer": "causal attention",
        "peer_value": best["causal"],
        "ratio": best["causal"] and round(best["full"] / best["causal"], 3),
        "machine": machine(),
        "commit": commit(),
        "rows": rows,
    }


if __name__ == "__main__":
    main()

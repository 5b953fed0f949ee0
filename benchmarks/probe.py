"""What probes on all layers cost beside the last layer's alone, trunk and data included.

Three trainings take turns, a step each: every layer's probes over the whole grid, the last layer's
over the same grid, and a single probe on the last layer. A step reads its images from a token data
set, runs the trunk once, and gives each point of the grid its optimizer's step.

    OMP_NUM_THREADS=1 python benchmarks/probe.py
"""

import argparse
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import commit, machine, random_dataset, write_result
from torch import Tensor

from toto.models.llama import Llama
from toto.models.sizes import BASE, LARGE, ONE_B
from toto.probing.clips import Items, items_of
from toto.probing.config import ProbeTraining
from toto.probing.encoder import TrainedEncoder
from toto.probing.features import FrozenFeatures
from toto.probing.pooling import build_bank
from toto.probing.probes import Labelled, Probes
from toto.tokens.store import TokenDataset
from toto.training.device import pick_device
from toto.training.optimizer import build_optimizers, clip_gradients

GRID, CODEBOOK, ITEMS, CLASSES = 16, 8192, 512, 100
SIZES = {"base": BASE, "large": LARGE, "1b": ONE_B}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--probes", nargs="+", default=["attention"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="probe", help="of the JSON file")
    arguments = parser.parse_args()
    config = ProbeTraining(batch=arguments.batch, probes=tuple(arguments.probes))
    single = replace(config, learning_rates=(1e-3,), weight_decays=(0.1,))
    with tempfile.TemporaryDirectory() as folder:
        random_dataset(Path(folder) / "data", 0, 1, GRID, CODEBOOK, images=ITEMS)
        dataset = TokenDataset(Path(folder) / "data")
        device = pick_device("auto")
        model = Llama(SIZES[arguments.size], dataset.vocabulary.size).eval().requires_grad_(False)
        model.to(device)
        last = [model.size.layers]
        contenders = [
            Contender("all layers, whole grid", model, dataset, [*range(last[0] + 1)], config),
            Contender("last layer, whole grid", model, dataset, last, config),
            Contender("last layer, one probe", model, dataset, last, single),
        ]
        for turn in range(arguments.rounds + 1):  # the first one warms up
            for contender in contenders:
                contender.step(turn)
    rows = [contender.row() for contender in contenders]
    write_result(arguments.name, summary(rows, contenders, vars(arguments)))


def summary(
    rows: list[dict[str, Any]], contenders: list["Contender"], settings: dict[str, Any]
) -> dict[str, Any]:
    """All layers against the last one, by the quickest step of each.

    Others on the same cores and memory only take time from a step.
    """
    ours, *peers = contenders
    for row, peer in zip(rows[1:], peers, strict=True):
        for clock in ("cpu", "wall"):
            cost = min(ours.times[clock]) / min(peer.times[clock])
            row[f"{clock}_of_all_layers"] = round(cost, 3)
    clock = ours.clock
    return {
        "name": "probe",
        "value": rows[0][f"{clock}_items_per_second"],
        "unit": "items/s",
        "peer": rows[1]["contender"],
        "peer_value": rows[1][f"{clock}_items_per_second"],
        # As elsewhere: ours over the peer's; its inverse is what all layers cost.
        "ratio": round(1 / rows[1][f"{clock}_of_all_layers"], 3),
        "cost": rows[1][f"{clock}_of_all_layers"],
        "cost_of_one_probe": rows[2][f"{clock}_of_all_layers"],
        "clock": clock,
        "settings": settings,
        "machine": machine() | {"threads": torch.get_num_threads()},
        "commit": commit(),
        "rows": rows,
    }


class Contender:
    """One training of probes, a step at a time."""

    def __init__(
        self,
        name: str,
        model: Llama,
        dataset: TokenDataset,
        layers: list[int],
        config: ProbeTraining,
    ) -> None:
        self.name, self.config = name, config
        items = items_of(dataset, np.arange(ITEMS), 1)
        width, heads, points = model.size.width, model.size.heads, len(config.grid)
        labelled = Labelled(
            partial(read, FrozenFeatures(TrainedEncoder(model), layers, exact=False), items),
            torch.arange(ITEMS).remainder(CLASSES),
        )
        banks = {
            f"{kind}/{layer}": partial(build_bank, kind, width, heads, CLASSES, points)
            for kind in config.probes
            for layer in layers
        }
        self.device = next(model.parameters()).device
        self.probes = Probes(config, labelled, labelled, banks)
        self.probes.modules.to(self.device)
        self.optimizers = [build_optimizers(p.module, p.optimizer) for p in self.probes.phases]
        self.times: dict[str, list[float]] = {"cpu": [], "wall": []}
        # Its own time, where that is all of it: others on the machine take none of that.
        alone = torch.get_num_threads() == 1 and self.device.type == "cpu"
        self.clock = "cpu" if alone else "wall"

    def step(self, turn: int) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        ((rows, epoch, count),) = self.probes.batches(turn)
        for phase, (optimizer,) in zip(self.probes.phases, self.optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss, _ = phase.loss((rows.to(self.device), epoch, count), turn)
            loss.backward()
            clip_gradients(phase.module, phase.optimizer.clip)
            optimizer.step()
        self.probes.after_step(turn)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(turn, self.name, {k: round(v, 3) for k, v in taken.items()}, flush=True)
        if turn:
            for clock, seconds in taken.items():
                self.times[clock].append(seconds)

    def row(self) -> dict[str, Any]:
        rates = {
            f"{clock}_items_per_second": round(self.config.batch / min(times), 3)
            for clock, times in self.times.items()
        }
        points, banks = len(self.config.grid), len(self.probes.banks)
        return {"contender": self.name, "probes": points * banks} | rates | self.times


def read(features: FrozenFeatures, items: Items, rows: Tensor, turn: int) -> dict[str, Tensor]:
    """Hidden states of the images at `rows`, from their codes on the disk on."""
    return features(items[rows].middle())


if __name__ == "__main__":
    main()

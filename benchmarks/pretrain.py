"""Training throughput: our loop against others over the same LLaMA and sequences, in one run.

Every contender is a process (`trainers.py`, `nano.py`) with bf16 products, fp32 weights, SDPA,
fused AdamW and clipping, at the best of the micro-batches of its size; a step has the same number
of sequences in all. On a CPU all are kept and take turns in rounds, so that a busy machine slows
all alike, and with one thread (`OMP_NUM_THREADS=1`) the process's own time is what counts. On a
GPU one is there at a time.

    python benchmarks/pretrain.py --sizes demo
    python benchmarks/pretrain.py --sizes base --seconds 450

litgpt wants other versions of transformers' packages: `LITGPT_PYTHON` names the Python of an
environment of its own, with torch, numpy and litgpt; without it the one that runs this.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import commit, machine, random_dataset, write_result
from trainers import CONTENDERS, OPTIONS

from toto.models.cost import gpu_of, training_flops
from toto.models.sizes import BASE, LARGE, ONE_B, LlamaSize
from toto.recipes.pretrain import demo
from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Vocabulary
from toto.training.device import pick_device, pick_precision

FRAMES, VIDEOS, HELD_OUT = 16, 512, 0.1
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Setup:
    """What is trained, and how it may be divided."""

    shape: LlamaSize
    vocabulary: Vocabulary
    batch: int
    """sequences in a step"""
    micro_batches: tuple[int, ...]
    """tried in this order, while there is time"""

    @property
    def positions(self) -> int:
        return self.vocabulary.length(FRAMES) - 2


SMALL, FULL = Vocabulary(256, 8, 8), Vocabulary(8192, 16, 16)
MID = LlamaSize(width=384, layers=6, heads=6, mlp_width=1536)
SETUPS = {
    "demo": Setup(demo().model, SMALL, 8, (8, 1)),
    "mid": Setup(MID, Vocabulary(8192, 8, 8), 4, (4, 1)),
    "base": Setup(BASE, FULL, 32, (16, 32, 8)),
    "large": Setup(LARGE, FULL, 32, (8, 16, 4)),
    "1b": Setup(ONE_B, FULL, 16, (4, 2, 8)),
}


class Trial:
    """One contender at one micro-batch, in a process that waits between its turns.

    Raises:
        RuntimeError: it ended: a package is not there, or there is not enough memory.
    """

    def __init__(self, contender: str, setup: Setup, micro_batch: int, folder: Path) -> None:
        self.contender, self.setup, self.micro_batch = contender, setup, micro_batch
        self.rates: list[float] = []
        task = {
            "contender": contender,
            "dataset": str(folder / "data"),
            "sequences": str(folder / "sequences.npy"),
            "shape": asdict(setup.shape),
            "vocabulary": setup.vocabulary.size,
            "positions": setup.positions,
            "frames": FRAMES,
            "held_out": HELD_OUT,
            "batch": setup.batch,
            "micro_batch": micro_batch,
            "bf16": pick_precision("auto", pick_device("auto")) == "bf16",
        }
        python = os.environ.get("LITGPT_PYTHON") if "litgpt" in contender else None
        command = [python or sys.executable, str(HERE / "trainers.py"), json.dumps(task)]
        self.log = folder / f"{contender} {micro_batch}.log"
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.first = self._answer()
        self.per_step = self._run(3)["time"] / 3

    def turn(self, seconds: float) -> None:
        """Train for about so many seconds."""
        answer = self._run(max(1, round(seconds / self.per_step)))
        tokens = answer["steps"] * self.setup.batch * self.setup.positions
        self.rates.append(tokens / answer["time"])
        self.memory = answer["memory_bytes"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    @property
    def rate(self) -> float:
        return median(self.rates)

    def row(self, size: str) -> dict[str, Any]:
        return {
            "size": size,
            "contender": self.contender,
            "tokens_per_second": round(self.rate),
            "turns": [round(rate) for rate in self.rates],
            "micro_batch": self.micro_batch,
            "batch": self.setup.batch,
            "first_step_seconds": round(self.first["seconds"], 1),
            "memory_bytes": self.memory,
            "settings": (CONTENDERS | OPTIONS)[self.contender].settings,
            "versions": self.first["versions"],
            **self._mfu(),
        }

    def _mfu(self) -> dict[str, float]:
        """Fractions of the data sheet's peak: attention counted whole, and causal (half)."""
        gpu = gpu_of(str(machine()["device"]))
        if gpu is None:
            return {}
        setup = self.setup
        flops = training_flops(setup.shape, setup.positions, setup.vocabulary.size)
        return {
            "mfu_full": round(flops.whole * self.rate / gpu.peak, 4),
            "mfu_causal": round(flops.causal * self.rate / gpu.peak, 4),
            "peak_flops": gpu.peak,
        }

    def _run(self, steps: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            said = [x for x in self.log.read_text().splitlines() if x.strip()]
            raise RuntimeError(said[-1][:200] if said else f"exit {self.process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        # Its own time, where that is all of it: others on the machine take none of that.
        alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
        return answer | {"time": answer["cpu_seconds" if alone else "seconds"]}


class Contest:
    """All contenders on one size."""

    def __init__(self, size: str, setup: Setup, folder: Path, turn: float, seconds: float) -> None:
        self.size, self.setup, self.folder = size, setup, folder
        self.turn, self.seconds = turn, seconds
        self.start, self.longest = time.monotonic(), 0.0
        self.best: dict[str, Trial] = {}
        self.tried: list[dict[str, Any]] = []
        self._write_sequences()

    @cached_property
    def takes_turns(self) -> bool:
        return not torch.cuda.is_available()

    def choose(self, contenders: Iterable[str]) -> Iterable[None]:
        """Find the best micro-batch of each; a yield after each trial."""
        for micro_batch in self.setup.micro_batches:
            for contender in contenders:
                begun = time.monotonic()
                if begun - self.start + self.longest > self.seconds:
                    print(f"{self.size} {contender} {micro_batch}: no time left", flush=True)
                    continue
                self._try(contender, micro_batch)
                self.longest = max(self.longest, time.monotonic() - begun)
                yield

    def rounds(self, count: int) -> None:
        """Turns of each, the first of a round another one each time."""
        trials = list(self.best.values())
        for trial in trials:
            trial.rates.clear()
        for i in range(count):
            first = i % len(trials)
            for trial in trials[first:] + trials[:first]:
                trial.turn(self.turn)

    def rows(self) -> list[dict[str, Any]]:
        rows = [trial.row(self.size) for trial in self.best.values()]
        for row in rows:
            row["tried"] = [t for t in self.tried if t["contender"] == row["contender"]]
        return rows + self._ratios()

    def close(self) -> None:
        for trial in self.best.values():
            trial.close()

    def _try(self, contender: str, micro_batch: int) -> None:
        try:
            trial = Trial(contender, self.setup, micro_batch, self.folder)
            for _ in range(3):
                trial.turn(self.turn)
        except RuntimeError as error:
            print(f"{self.size} {contender} {micro_batch}: {error}", flush=True)
            return
        tried = {"contender": contender, "micro_batch": micro_batch, "rate": round(trial.rate)}
        self.tried.append(tried)
        print(self.size, tried, flush=True)
        if not self.takes_turns:
            trial.close()
        best = self.best.setdefault(contender, trial)
        if best is trial:
            return
        if trial.rate > best.rate:
            self.best[contender], trial = trial, best
        trial.close()

    def _ratios(self) -> list[dict[str, Any]]:
        """Our best over each peer: of turns of the same round, where they took turns."""
        ours = [trial for name, trial in self.best.items() if name.startswith("toto")]
        if not ours:
            return []
        mine = max(ours, key=lambda trial: trial.rate)
        return [
            {
                "size": self.size,
                "contender": mine.contender,
                "peer": name,
                "ratio": round(
                    median(a / b for a, b in zip(mine.rates, trial.rates, strict=True)), 3
                ),
            }
            for name, trial in self.best.items()
            if not name.startswith("toto")
        ]

    def _write_sequences(self) -> None:
        """Random clips as a token data set, for us, and their sequences as one array."""
        grid = self.setup.vocabulary.rows
        codebook = self.setup.vocabulary.codebook_size
        random_dataset(self.folder / "data", VIDEOS, FRAMES, grid, codebook)
        dataset = TokenDataset(self.folder / "data")
        sequences = Sequences(freeze([dataset], (), FRAMES, 0, "train", HELD_OUT))
        rows = sequences.batch(0, sequences.clips).numpy().astype(np.uint16)
        np.save(self.folder / "sequences.npy", rows)


def summary(rows: list[dict[str, Any]], final: bool) -> dict[str, Any]:
    """The benchmark's JSON: our best against the best peer, for the last size."""
    last = [row for row in rows if row["size"] == rows[-1]["size"]]
    rates = {row["contender"]: row["tokens_per_second"] for row in last if "turns" in row}
    ratios = {row["peer"]: row["ratio"] for row in last if "peer" in row}
    peer = min(ratios, key=lambda name: ratios[name], default=None)
    return {
        "name": "pretrain",
        "value": max((rate for name, rate in rates.items() if name.startswith("toto")), default=0),
        "unit": "tokens/s",
        "peer": peer,
        "peer_value": peer and rates[peer],
        "ratio": peer and ratios[peer],
        "machine": machine() | {"threads": torch.get_num_threads()},
        "commit": commit(),
        "complete": final,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["demo"], choices=SETUPS)
    parser.add_argument(
        "--contenders", nargs="+", default=[*CONTENDERS], choices=[*CONTENDERS, *OPTIONS]
    )
    parser.add_argument("--micro-batches", nargs="+", type=int, help="instead of the size's own")
    parser.add_argument("--rounds", type=int, default=10, help="on a CPU, of turns")
    parser.add_argument("--turn", type=float, default=3.0, help="seconds of a turn")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="in which a size's micro-batches are tried"
    )
    parser.add_argument("--name", default="pretrain")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            setup = SETUPS[size]
            if arguments.micro_batches:
                setup = replace(setup, micro_batches=tuple(arguments.micro_batches))
            contest = Contest(size, setup, Path(folder), arguments.turn, arguments.seconds)
            try:
                for _ in contest.choose(arguments.contenders):
                    if contest.best:
                        write_result(arguments.name, summary(rows + contest.rows(), final=False))
                if not contest.best:
                    raise SystemExit(f"{size}: no contender can be run")
                if contest.takes_turns:
                    contest.rounds(arguments.rounds)
                rows += contest.rows()
            finally:
                contest.close()
    for row in rows:
        print(row, flush=True)
    write_result(arguments.name, summary(rows, final=True))


if __name__ == "__main__":
    main()

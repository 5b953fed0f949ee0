"""Training throughput: our loop against plain loops over transformers' LLaMA, in one run.

Every row trains the same shape on the same random codes, bf16 autocast, fused AdamW. Ours is
`toto.training.loop.train` itself, validation and checkpoints left out of the time. The peers are a
plain loop over `LlamaForCausalLM` with SDPA, eager and under torch.compile.

    python benchmarks/pretrain.py --sizes demo
    python benchmarks/pretrain.py --sizes base large 1b --seconds 40
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import commit, machine, random_dataset, write_result

from toto.models.cost import gpu_of, training_flops
from toto.models.sizes import BASE, LARGE, ONE_B, LlamaSize
from toto.recipes.pretrain import demo
from toto.tokens.loader import Sequences, freeze
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import inputs_and_targets
from toto.training.config import AdamW, Loop, Pretrain
from toto.training.device import autocast, pick_device, pick_precision
from toto.training.loop import train
from toto.training.metrics import read_metrics
from toto.training.objectives.next_token import NextToken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", nargs="+", default=["demo"], choices=["demo", "base", "large", "1b"]
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--name", default="pretrain")
    arguments = parser.parse_args()
    shapes = {"demo": demo().model, "base": BASE, "large": LARGE, "1b": ONE_B}
    micro_batches = {"demo": 8, "base": 16, "large": 16, "1b": 4}
    rows: list[dict[str, Any]] = []
    for size in arguments.sizes:
        for contender, measure in CONTENDERS.items():
            try:
                rate, memory = measure(
                    shapes[size], size == "demo", micro_batches[size], arguments.steps
                )
            except (ImportError, torch.OutOfMemoryError) as error:
                print(f"{size} {contender}: {type(error).__name__}: {str(error)[:120]}", flush=True)
                continue
            row = {"size": size, "contender": contender, "tokens_per_second": round(rate)}
            row |= {"micro_batch": micro_batches[size], "memory_bytes": memory}
            row |= mfu(shapes[size], size == "demo", rate)
            rows.append(row)
            print(row, flush=True)
            write_result(arguments.name, summary(rows, final=False))
    write_result(arguments.name, summary(rows, final=True))


def summary(rows: list[dict[str, Any]], final: bool) -> dict[str, Any]:
    """The benchmark's JSON: our best against the best peer, for the last size."""
    last = [row for row in rows if row["size"] == rows[-1]["size"]]
    ours = max(
        (r["tokens_per_second"] for r in last if r["contender"].startswith("toto")), default=0
    )
    peers = [r for r in last if not r["contender"].startswith("toto")]
    peer = max(peers, key=lambda r: r["tokens_per_second"], default=None)
    return {
        "name": "pretrain",
        "value": ours,
        "unit": "tokens/s",
        "peer": peer and peer["contender"],
        "peer_value": peer and peer["tokens_per_second"],
        "ratio": peer and round(ours / peer["tokens_per_second"], 3),
        "machine": machine(),
        "commit": commit(),
        "complete": final,
        "rows": rows,
    }


def mfu(shape: LlamaSize, small: bool, rate: float) -> dict[str, float]:
    """Fractions of the data sheet's peak: attention counted whole, and causal (half)."""
    gpu = gpu_of(str(machine()["device"]))
    if gpu is None:
        return {}
    flops = training_flops(shape, *((1024, 256) if small else (4096, 8192)))
    return {
        "mfu_full": round(flops.whole * rate / gpu.peak, 4),
        "mfu_causal": round(flops.causal * rate / gpu.peak, 4),
        "peak_flops": gpu.peak,
    }


def sequences(folder: Path, small: bool) -> tuple[Sequences, Sequences]:
    """Random clips to train and to validate on."""
    random_dataset(folder, 64, 16, *((8, 256) if small else (16, 8192)))
    dataset = TokenDataset(folder)
    train_on, validate_on = (
        Sequences(freeze([dataset], (), 16, 0, split, 0.1)) for split in ("train", "validation")
    )
    return train_on, validate_on


def ours(compile_: bool) -> Callable[[LlamaSize, bool, int, int], tuple[float, int]]:
    def measure(shape: LlamaSize, small: bool, batch: int, steps: int) -> tuple[float, int]:
        with tempfile.TemporaryDirectory() as folder:
            data = sequences(Path(folder) / "data", small)
            loop = Loop(
                steps=steps + 10,
                log_every=10,
                validate_every=10_000,
                checkpoint_every=10_000,
                compile=compile_,
            )
            config = Pretrain(
                model=shape, loop=loop, batch=batch, micro_batch=batch, validation_sequences=1
            )
            objective = NextToken(replace(config, optimizer=AdamW(warmup_steps=1)), *data)
            run = Path(folder) / "run"
            reset_memory()
            train(objective, loop, run, "toto compiled" if compile_ else "toto")
            rates = [r["tokens_per_second"] for r in read_metrics(run) if "tokens_per_second" in r]
            shutil.rmtree(run)
            # The first ten steps compile and warm up.
            return sum(rates[1:]) / len(rates[1:]), memory_used()

    return measure


def peer(compile_: bool) -> Callable[[LlamaSize, bool, int, int], tuple[float, int]]:
    def measure(shape: LlamaSize, small: bool, batch: int, steps: int) -> tuple[float, int]:
        from transformers import LlamaConfig, LlamaForCausalLM

        with tempfile.TemporaryDirectory() as folder:
            data, _ = sequences(Path(folder) / "data", small)
            device = pick_device("auto")
            precision = pick_precision("auto", device)
            config = LlamaConfig(
                vocab_size=data.vocabulary.size,
                hidden_size=shape.width,
                intermediate_size=shape.mlp_width,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                use_cache=False,
            )
            model: Any = LlamaForCausalLM(config)  # SDPA is its default
            model.to(device)
            optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
            forward = torch.compile(model) if compile_ else model
            reset_memory()
            for step in range(steps + 10):
                if step == 10:
                    synchronize()
                    start = time.perf_counter()
                tokens = data.batch(step * batch, batch).to(device)
                inputs, targets = inputs_and_targets(tokens)
                with autocast(device, precision):
                    logits = forward(input_ids=inputs).logits
                    loss = torch.nn.functional.cross_entropy(
                        logits.flatten(0, 1).float(), targets.flatten()
                    )
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            synchronize()
            positions = batch * steps * (data.vocabulary.length(16) - 2)
            return positions / (time.perf_counter() - start), memory_used()

    return measure


CONTENDERS = {
    "toto compiled": ours(compile_=True),
    "toto": ours(compile_=False),
    "transformers compiled": peer(compile_=True),
    "transformers": peer(compile_=False),
}


def reset_memory() -> None:
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory_used() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

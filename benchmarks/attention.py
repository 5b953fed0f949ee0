"""Causal attention forward and backward: the time of each backend of PyTorch's SDPA, in bf16.

Shapes of the paper's three models at 4,096 positions; FlashAttention-3 and -4 where this PyTorch
can switch to them and their package is installed. What PyTorch picks by itself is "default".

    python benchmarks/attention.py
    python benchmarks/attention.py --shapes demo
"""

import argparse
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from statistics import median
from typing import Any

import torch
from common import commit, machine, write_result
from torch.nn import attention
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from toto.models.cost import gpu_of

# Sequences, heads, positions, channels of a head.
SHAPES = {
    "demo": (8, 2, 1024, 64),
    "base": (16, 12, 4096, 64),
    "large": (16, 16, 4096, 64),
    "1b": (16, 16, 4096, 128),
}


def flash(name: str) -> AbstractContextManager:
    """SDPA's flash backend by another implementation, from now on."""
    activate(name)
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION)


@cache
def activate(name: str) -> None:
    """Raises ImportError or ValueError where there is none of that name."""
    if not hasattr(attention, "activate_flash_attention_impl"):
        raise ImportError(f"torch {torch.__version__} cannot switch to {name}")
    attention.activate_flash_attention_impl(name)


# The last two stay switched on.
BACKENDS: dict[str, Callable[[], AbstractContextManager]] = {
    "default": nullcontext,
    "flash": lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    "cudnn": lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
    "efficient": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    "math": lambda: sdpa_kernel(SDPBackend.MATH),
    "flash FA3": lambda: flash("FA3"),
    "flash FA4": lambda: flash("FA4"),
}


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=["base", "large", "1b"] if cuda else ["demo"]
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--name", default="attention")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for backend, use in BACKENDS.items():
        if backend == "math" and cuda:
            continue  # it writes out all pairs of positions
        for shape in arguments.shapes:
            row: dict[str, Any] = {"shape": shape, "backend": backend}
            try:
                with use():
                    row |= measure(SHAPES[shape], arguments.repeats)
            except (ImportError, RuntimeError, ValueError) as error:
                row |= {"error": str(error).splitlines()[0][:200]}
            rows.append(row)
            print(row, flush=True)
        write_result(arguments.name, summary(rows))


def measure(shape: tuple[int, int, int, int], repeats: int) -> dict[str, Any]:
    """Milliseconds of forward alone, and of forward and backward; and FLOP/s of both together."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sequences, heads, positions, channels = shape
    # The layout that a projection leaves: heads beside channels.
    q, k, v, gradient = (
        torch.randn(sequences, positions, heads, channels, device=device, dtype=torch.bfloat16)
        .transpose(1, 2)
        .requires_grad_(i < 3)
        for i in range(4)
    )

    def forward() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def both() -> None:
        torch.autograd.grad(forward(), (q, k, v), gradient)

    seconds = timed(both, repeats)
    # Two products forward and five backward, over half of the pairs.
    flops = 7 * 2 * sequences * heads * positions**2 * channels / 2
    row = {
        "forward_ms": round(timed(forward, repeats) * 1000, 3),
        "forward_backward_ms": round(seconds * 1000, 3),
        "tflops": round(flops / seconds / 1e12, 3),
    }
    gpu = gpu_of(str(machine()["device"]))
    return row | ({"of_peak": round(flops / seconds / gpu.peak, 4)} if gpu else {})


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median seconds."""
    times = []
    for i in range(repeats + 3):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        if i >= 3:
            times.append(time.perf_counter() - start)
    return median(times)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The last shape: the best backend against the one that PyTorch picks."""
    last: dict[str, float] = {
        row["backend"]: row["tflops"]
        for row in rows
        if row["shape"] == rows[-1]["shape"] and "tflops" in row
    }
    best = max(last.values(), default=0)
    default = last.get("default")
    return {
        "name": "attention",
        "value": best,
        "unit": "TFLOP/s",
        "best": next((name for name, value in last.items() if value == best), None),
        "peer": "default",
        "peer_value": default,
        "ratio": default and round(best / default, 3),
        "machine": machine(),
        "commit": commit(),
        "rows": rows,
    }


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()

"""The parts of `make gpu`: each runs alone on a GPU machine in under 8 minutes and leaves JSON."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import commit, machine, write_result

HERE = Path(__file__).parent


def tests() -> int:
    """The tests that need a GPU."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    print(done.stdout[-6000:], done.stderr[-2000:])
    result = {
        "name": "gpu-tests",
        "passed": done.returncode == 0,
        "summary": done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "",
        "seconds": round(time.monotonic() - start, 1),
        "machine": machine(),
        "commit": commit(),
    }
    write_result("gpu-tests", result)
    return done.returncode


def pretrain(size: str) -> int:
    """Training throughput of one of the paper's three sizes, ours beside others."""
    options = ["--name", f"gpu-pretrain-{size}", "--sizes", size, "--seconds", "440"]
    return _script("pretrain.py", *options)


def options() -> int:
    """What could make training of the base model faster, each beside the same loop without it."""
    contenders = ["toto compiled", "toto fused", "toto FA3", "toto fp8", "toto Muon"]
    arguments = ["--micro-batches", "16", "--seconds", "440", "--contenders", *contenders]
    return _script("pretrain.py", "--name", "gpu-options", "--sizes", "base", *arguments)


def attention() -> int:
    """Each backend of attention at the shapes of the paper's three sizes."""
    return _script("attention.py", "--name", "gpu-attention")


def tokenizer() -> int:
    """Encoding and decoding at DALL-E's size, ours beside the package's own."""
    return _script("tokenizer.py", "--name", "gpu-tokenizer", "--compile")


def finetune() -> int:
    """Full fine-tuning of the base model at 128 px, with causal and with full attention."""
    return _script("finetune.py", "--name", "gpu-finetune")


def probe() -> int:
    """Probes on all layers of the base model beside the last layer's alone."""
    return _script("probe.py", "--name", "gpu-probe", "--rounds", "20")


def _script(name: str, *options: str) -> int:
    return subprocess.run([sys.executable, str(HERE / name), *options], check=False).returncode


PARTS: dict[str, Callable[[], int]] = {
    "tests": tests,
    "pretrain": partial(pretrain, "base"),
    "pretrain-large": partial(pretrain, "large"),
    "pretrain-1b": partial(pretrain, "1b"),
    "options": options,
    "attention": attention,
    "tokenizer": tokenizer,
    "probe": probe,
    "finetune": finetune,
}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        sys.exit(f"usage: python benchmarks/gpu.py {'|'.join(PARTS)}")
    sys.exit(PARTS[sys.argv[1]]())

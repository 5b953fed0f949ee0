"""The parts of `make gpu`: each runs alone on a GPU machine in under 8 minutes and leaves JSON."""

import subprocess
import sys
import time
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


def pretrain() -> int:
    """Training throughput of the paper's three sizes."""
    script = [sys.executable, str(HERE / "pretrain.py"), "--name", "gpu-pretrain"]
    return subprocess.run([*script, "--sizes", "base", "large", "1b"], check=False).returncode


PARTS = {"tests": tests, "pretrain": pretrain}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PARTS:
        sys.exit(f"usage: python benchmarks/gpu.py {'|'.join(PARTS)}")
    sys.exit(PARTS[sys.argv[1]]())

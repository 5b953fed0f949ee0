"""How fast one core draws the embedded world; there is no peer to compare with.

python benchmarks/world.py [--videos 24]
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from toto.world.actions import ACTIONS, sample_scene
from toto.world.motion import upright
from toto.world.render import render
from toto.world.scenes import Scene, Trajectory

FRAMES = 64


def rate(work: Callable[[], int]) -> float:
    """Frames per second of one core's time (all threads count): the best of three."""
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        done = work()
        best = max(best, done / (time.process_time() - start))
    return best


def all_moving(scene: Scene) -> Scene:
    """A general scene: every solid turns, so that nothing is drawn only once."""
    turn = upright(np.linspace(0.1, 3, scene.frames))
    solids = [
        replace(s, trajectory=Trajectory(s.trajectory.positions, turn @ s.trajectory.rotations))
        for s in scene.solids
    ]
    return replace(scene, solids=tuple(solids))


def draw(scenes: list[Scene], size: int) -> int:
    return sum(len(render(scene, size)) for scene in scenes)


def commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=24)
    videos = parser.parse_args().videos

    def sample() -> int:
        for i in range(videos):
            sample_scene(1, i, ACTIONS[i % len(ACTIONS)], FRAMES)
        return videos

    scenes = [sample_scene(0, i, ACTIONS[i % len(ACTIONS)], FRAMES) for i in range(videos)]
    busy = [all_moving(scene) for scene in scenes]
    rows = {"scenes sampled": rate(sample)}
    for size in (64, 128):
        rows[f"actions, {size} px"] = rate(partial(draw, scenes, size))
        rows[f"all solids moving, {size} px"] = rate(partial(draw, busy, size))
    for name, value in rows.items():
        print(f"{name:<28}{value:>10,.0f} per second and core")
    machine = f"{platform.machine()}, {platform.system()}, one core"
    result = {
        "name": "world",
        "value": round(rows["actions, 128 px"], 1),
        "unit": "frames/s per core",
        "peer": None,
        "peer_value": None,
        "ratio": None,
        "machine": machine,
        "commit": commit(),
        "rows": {name: round(value, 1) for name, value in rows.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

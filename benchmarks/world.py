"""How fast one core draws the embedded world; there is no peer to compare with.

Every figure is of one core's time, whatever else the machine does: the best of three. Frames are
128 pixels square unless a row says otherwise.

python benchmarks/world.py [--videos 12]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from common import commit, machine, write_result

from toto.world.actions import ACTIONS, sample_scene
from toto.world.cater import sample_cater
from toto.world.crossings import sample_crossing
from toto.world.ego import INTERACTIONS, sample_ego
from toto.world.motion import upright
from toto.world.portraits import CLASSES, sample_portrait
from toto.world.render import Sides, render
from toto.world.scenes import Scene, Trajectory

FRAMES = 64
HEADLINE = "cater"


def rate(work: Callable[[], int]) -> float:
    """What is done in a second of one core's time (all threads count): the best of three."""
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


def action(index: int) -> Scene:
    """A scene of the layout `actions`; the ones below are of their names' layouts."""
    return sample_scene(0, index, ACTIONS[index % len(ACTIONS)], FRAMES)


def cater(index: int) -> Scene:
    return sample_cater(0, index).scene


def cater_max2action(index: int) -> Scene:
    return sample_cater(0, index, policy="max2action").scene


def cater_camera_motion(index: int) -> Scene:
    return sample_cater(0, index, camera_motion=True).scene


def image(index: int) -> Scene:
    return sample_portrait(0, index, index % len(CLASSES))


def davis(index: int) -> Scene:
    return sample_crossing(0, index, 40)


def ego4d(index: int) -> Scene:
    return sample_ego(0, index, *INTERACTIONS[index % len(INTERACTIONS)], 120, 30).scene


def drawing(scenes: list[Scene], size: int | Sides = 128) -> float:
    """Frames a second."""
    return rate(lambda: sum(len(render(scene, size)) for scene in scenes))


def sampling(sample: Callable[[int], Scene], count: int) -> float:
    """Scenes a second."""
    return rate(lambda: len([sample(i) for i in range(count)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=12)
    count = parser.parse_args().videos
    few = max(1, count // 2)  # of the long ones
    actions, caters = [action(i) for i in range(count)], [cater(i) for i in range(few)]
    rows = {
        "actions": drawing(actions),
        "actions, 64 px": drawing(actions, 64),
        "actions, all solids moving": drawing([all_moving(scene) for scene in actions]),
        "images": drawing([image(i) for i in range(16 * count)]),
        "davis": drawing([davis(i) for i in range(count)]),
        HEADLINE: drawing(caters),
        "cater, max2action": drawing([cater_max2action(i) for i in range(few)]),
        "cater, camera motion": drawing([cater_camera_motion(i) for i in range(few)]),
        "cater, 320 x 240": drawing(caters[: max(1, few // 2)], (240, 320)),
        "ego4d": drawing([ego4d(i) for i in range(few)]),
        "actions, scenes sampled": sampling(action, count),
        "cater, scenes sampled": sampling(cater, count),
    }
    for name, value in rows.items():
        print(f"{name:<28}{value:>10,.0f} per second and core")
    result = {
        "name": "world",
        "value": round(rows[HEADLINE], 1),
        "unit": "frames/s per core",
        "peer": None,
        "peer_value": None,
        "ratio": None,
        "machine": machine(),
        "commit": commit(),
        "rows": {name: round(value, 1) for name, value in rows.items()},
    }
    write_result("world", result)


if __name__ == "__main__":
    main()

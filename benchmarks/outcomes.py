"""What becomes of each file of a folder, as the table of docs/awkward.md.

python benchmarks/outcomes.py FOLDER [--seconds 20] [--memory 1]
"""

import argparse
from pathlib import PurePosixPath

from toto.media.pool import Chunk, DecodePool, End, Failure, Task
from toto.media.sources import read_source
from toto.media.view import Limits, View


def outcome(part: End | Failure) -> str:
    if isinstance(part, Failure):
        return f"not read: {part.reason}"
    info = part.info
    size = f"{info.width}x{info.height}"
    if info.kind == "image":
        return f"image, {size}"
    fps = f", {part.fps:.4g} frames/s" if part.fps else ""
    return f"video, {size}{fps}: {part.frames} frames"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--memory", type=float, default=1.0)
    options = parser.parse_args()
    items = read_source(options.folder)
    limits = Limits(options.seconds, options.memory)
    print("| from | file | outcome |\n|---|---|---|")
    with DecodePool(View(stride=1, size=64), 2, limits) as pool:
        for number, part in pool.stream(Task(item.location) for item in items):
            if not isinstance(part, Chunk):
                key = PurePosixPath(items[number].key)
                print(f"| {key.parts[0].replace('_', '/', 1)} | {key.name} | {outcome(part)} |")


if __name__ == "__main__":
    main()

"""Write the tables of README and docs from the JSON in benchmarks/results.

python benchmarks/readme.py [RUN]

RUN is the folder of a finished demo, whose figures and picture are taken over first.
"""

import base64
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    if len(sys.argv) > 1:
        take_over(Path(sys.argv[1]))
    pages: dict[str, dict[str, Callable[[Any], str]]] = {
        "README.md": {"demo": demo, "cpu": cpu_speed, "speed": speed, "data": data},
        "docs/world.md": {"world": world},
    }
    results = {"cpu": read("pretrain"), "data": read("loader"), "speed": gpu_speeds()}
    for page, tables in pages.items():
        path = HERE.parent / page
        text = path.read_text()
        for name, table in tables.items():
            before, _, rest = text.partition(f"<!-- {name} -->")
            block = f"<!-- {name} -->\n{table(results.get(name) or read(name))}\n<!-- /{name} -->"
            text = before + block + rest.partition(f"<!-- /{name} -->")[2]
        path.write_text(text)


def take_over(run: Path) -> None:
    shutil.copy(run / "summary.json", HERE / "results" / "demo.json")
    moving = re.search(r"data:image/gif;base64,([^\"]+)", (run / "report.html").read_text())
    assert moving is not None, "the report shows no future"
    (HERE.parent / "docs" / "demo.gif").write_bytes(base64.b64decode(moving[1]))


def read(name: str) -> Any:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def gpu_speeds() -> list[Any]:
    paths = (HERE / "results").glob("gpu-pretrain-*.json")
    results = [json.loads(path.read_text()) for path in paths]
    return sorted(results, key=lambda result: -result["value"])


def demo(figures: dict[str, Any]) -> str:
    later, tokenizer = figures["later_frames"], figures["tokenizer"]
    probe = figures["probe_accuracy"]
    rows = [
        "| | the demo's model | compare |",
        "|---|---|---|",
        f"| loss of held-out clips, nats a code | **{figures['validation_loss']:.3f}** | "
        f"previous frame {figures['previous_frame_loss']:.3f}, "
        f"unigram {figures['unigram_loss']:.3f}, uniform {figures['uniform_loss']:.3f} |",
        f"| the same, frames 2-16 | **{later['validation_loss']:.3f}** | "
        f"previous frame {later['previous_frame_loss']:.3f} |",
        f"| action read from layer {figures['best_layer']} of 0-{len(probe) - 1} | "
        f"**{figures['best_layer_accuracy']:.1%}** | "
        f"pixels by the same probe {figures['pixel_accuracy']:.1%}, "
        f"chance {figures['chance_accuracy']:.1%}; a linear classifier that knows each pixel's "
        f"place {figures['pixel_linear_accuracy']:.1%} |",
        f"| tokenizer, PSNR of held-out frames | **{tokenizer['psnr']:.1f} dB** | "
        f"mean colour {tokenizer['mean_colour_psnr']:.1f} dB; {tokenizer['codes_used']} of "
        f"{tokenizer['codebook_size']} codes used |",
        f"| time and memory | {sum(figures['seconds'].values()) / 60:.1f} minutes, "
        f"{figures['peak_memory_bytes'] / 2**30:.1f} GiB | "
        + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in figures["seconds"].items())
        + " |",
    ]
    versions = figures["versions"]
    machine = f"{versions['cores']} cores of {versions['processor']}, torch {versions['torch']}"
    machine += f", {versions['date']}"
    return "\n".join([*rows, "", f"On {machine}."])


def speed(results: list[dict[str, Any]]) -> str:
    """A row for each of the paper's sizes that a GPU has run."""
    contenders = ["toto compiled", "toto", "transformers compiled", "transformers"]
    lines = [
        "| tokens/s | " + " | ".join(contenders) + " | MFU, whole attention | on one |",
        "|---" * (len(contenders) + 3) + "|",
    ]
    for result in results:
        rates = {row["contender"]: row for row in result["rows"]}
        cells = [f"{rates[c]['tokens_per_second']:,}" if c in rates else "-" for c in contenders]
        machine, best = result["machine"], rates["toto compiled"]["mfu_full"]
        on_one = f"{machine['device']}, torch {machine['torch']}, {machine['date']}"
        size = result["rows"][0]["size"]
        lines.append(f"| {size} | {' | '.join(cells)} | {best:.1%} | {on_one} |")
    note = (
        "4,096 positions, bf16. A peer is a plain loop over transformers' `LlamaForCausalLM` at "
        "the same micro-batch; `-` did not fit."
    )
    return "\n".join([*lines, "", note])


def cpu_speed(result: dict[str, Any]) -> str:
    """Every contender of the last size, ours over it."""
    size = result["rows"][-1]["size"]
    last = [row for row in result["rows"] if row["size"] == size and "turns" in row]
    ratios = {row["peer"]: row["ratio"] for row in result["rows"] if "peer" in row}
    rows = [
        f"| {row['contender']} | {row['tokens_per_second']:,} | "
        f"{ratios.get(row['contender'], '')} |"
        for row in sorted(last, key=lambda row: -row["tokens_per_second"])
    ]
    machine = result["machine"]
    note = (
        f"The demo's model, bf16, {last[0]['batch']} sequences a step, in "
        f"turns on one thread; ratios are the medians of the turns. {on(machine)}"
    )
    table = ["| | tokens/s | toto compiled over it |", "|---|---|---|", *rows]
    return "\n".join([*table, "", note])


def on(machine: dict[str, Any]) -> str:
    cores = "CPU cores" if machine["device"] == "cpu" else f"cores of {machine['device']}"
    return f"On {machine['cores']} {cores}, torch {machine['torch']}, {machine['date']}."


def world(result: dict[str, Any]) -> str:
    rows = [f"| {name} | {value:,.0f} |" for name, value in result["rows"].items()]
    table = "\n".join(["| at 128 px unless said | a second |", "|---|---|", *rows])
    return f"{table}\n\n{on(result['machine'])}"


def data(loader: dict[str, Any]) -> str:
    ingest, world = read("ingest"), read("world")
    opened = next(row for row in loader["rows"] if row["contender"] == "toto opens")
    peers = [row for row in loader["rows"] if row["contender"] == "datasets"]
    plain = max(
        row["tokens_per_second"]
        for row in peers
        if row["format"] == "torch" and row["batches"] == "collated"
    )
    rows = [
        "| | measured | compare |",
        "|---|---|---|",
        f"| loader, tokens/s from local shards | {loader['value'] / 1e6:,.0f} million | "
        f"`DataLoader` over `datasets` as most run it {plain / 1e6:,.0f}, at its best settings "
        f"{loader['peer_value'] / 1e6:,.0f} million |",
        f"| opening {opened['items'] / 1e6:.0f} million items | {opened['seconds']:.1f} s, "
        f"{opened['peak_mib']:,.0f} MiB | |",
        f"| ingest, source frames/s ({ingest['rows']['files']} {ingest['rows']['media']} videos) "
        f"| {ingest['value']:,.0f} | bare decoding {ingest['peer_value']:,.0f} |",
        f"| embedded world, CATER look-alike at 128 px, frames/s of a core | {world['value']:,.0f} "
        "| |",
    ]
    return "\n".join([*rows, "", on(loader["machine"])])


if __name__ == "__main__":
    main()

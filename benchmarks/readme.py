"""Write the README's tables and picture from a demo's run and the JSON in benchmarks/results.

make demo && python benchmarks/readme.py runs/demo
"""

import base64
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    run = Path(sys.argv[1])
    shutil.copy(run / "summary.json", HERE / "results" / "demo.json")
    moving = re.search(r"data:image/gif;base64,([^\"]+)", (run / "report.html").read_text())
    assert moving is not None, "the report shows no future"
    (HERE.parent / "docs" / "demo.gif").write_bytes(base64.b64decode(moving[1]))
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    for name, table in {"demo": demo(read("demo")), "speed": speed(read("gpu-pretrain"))}.items():
        block = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
        before, _, rest = text.partition(f"<!-- {name} -->")
        text = before + block + rest.partition(f"<!-- /{name} -->")[2]
    readme.write_text(text)


def read(name: str) -> Any:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


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


def speed(result: dict[str, Any]) -> str:
    contenders = ["toto compiled", "toto", "transformers compiled", "transformers"]
    rates = {(row["size"], row["contender"]): row for row in result["rows"]}
    lines = ["| tokens/s | " + " | ".join(contenders) + " | MFU, whole attention |"]
    lines.append("|---" * (len(contenders) + 2) + "|")
    for size in dict.fromkeys(row["size"] for row in result["rows"]):
        cells = [
            f"{rates[size, name]['tokens_per_second']:,}" if (size, name) in rates else "-"
            for name in contenders
        ]
        best = rates.get((size, "toto compiled"), {}).get("mfu_full")
        lines.append(f"| {size} | {' | '.join(cells)} | {best:.1%} |" if best else "")
    machine = result["machine"]
    note = (
        f"On one {machine['device']}, torch {machine['torch']}, {machine['date']}, 4,096 "
        "positions, bf16. A peer is a "
        "plain loop over transformers' `LlamaForCausalLM` at the same micro-batch; `-` did not fit."
    )
    return "\n".join([*filter(None, lines), "", note])


if __name__ == "__main__":
    main()

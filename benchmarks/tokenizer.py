"""How fast a dVAE encodes and decodes, beside the DALL-E package's own on the same weights.

python benchmarks/tokenizer.py [--batch 8] [--size 128] [--runs 5] [--compile] [--device cuda]

The peer's encoder and decoder (`pip install --no-deps DALL-E==0.1 attrs requests`) take turns with
ours, at DALL-E's size, on random weights and frames. On a CPU one thread works and its own time
counts, on a GPU the time that passes. Ratios are the medians of those of each turn. The value is
frames a second that ours encodes in the peer's kind of precision: on a CPU that of fp32; on a GPU,
where the peer's convolutions are of fp16, that of bf16, compiled with --compile.
Rows: each way, and the share of codes that are those of the first. Weights that were not trained
say little of what bf16 does to codes.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch
from common import commit, machine, write_result
from torch import Tensor
from torch.nn import functional as F

from toto.tokenizers.dvae import DVAE
from toto.tokenizers.official import convert_dalle
from toto.tokenizers.sizes import DVAESize, Precision

try:
    import dall_e
except ImportError:
    dall_e = None

Way = Callable[[Tensor], Tensor]
Ways = dict[str, Way]


def peer(folder: Path, device: str) -> tuple[Way, Way]:
    """Encoding and decoding as in the package's notebook (usage.ipynb); its pickles in `folder`."""
    torch.manual_seed(0)
    encoder, decoder = dall_e.Encoder(), dall_e.Decoder()
    torch.save(encoder, folder / "encoder.pkl")
    torch.save(decoder, folder / "decoder.pkl")
    encoder, decoder = (module.to(device) for module in (encoder, decoder))

    def encode(frames: Tensor) -> Tensor:
        return torch.argmax(encoder(dall_e.map_pixels(frames.float() / 255)), dim=1)

    def decode(codes: Tensor) -> Tensor:
        z = F.one_hot(codes, decoder.vocab_size).permute(0, 3, 1, 2).float()
        return dall_e.unmap_pixels(torch.sigmoid(decoder(z).float()[:, :3]))

    return torch.no_grad()(encode), torch.no_grad()(decode)


def ways(folder: Path, device: str, compiled: bool) -> tuple[Ways, Ways]:
    """All ways to encode, and to decode, the peer's first if it is there."""
    encode: Ways = {}
    decode: Ways = {}
    if dall_e is None:
        print("left out: the DALL-E package is not installed")
        torch.manual_seed(0)
        DVAE(DVAESize()).save(folder / "ours")
    else:
        encode["peer"], decode["peer"] = peer(folder, device)
        convert_dalle(folder / "encoder.pkl", folder / "decoder.pkl", folder / "ours")
    for suffix in ("", ", compiled") if compiled else ("",):
        for precision in get_args(Precision):
            tokenizer = DVAE.load(folder / "ours", precision).to(device)
            if suffix:
                tokenizer.compile(dynamic=False)
            encode[precision + suffix] = tokenizer.encode
            decode[precision + suffix] = tokenizer.decode
    return encode, decode


def race(ways: Ways, given: Tensor, runs: int) -> list[dict[str, Any]]:
    """The ways in turns, beside the first."""
    results = {name: way(given) for name, way in ways.items()}  # compiles, picks kernels
    for way in ways.values():
        way(given)
    times = np.array([[seconds(way, given) for way in ways.values()] for _ in range(runs)])
    ratios = np.median(times[:, :1] / times, axis=0)
    first = next(iter(results.values()))
    rows = []
    for i, (name, result) in enumerate(results.items()):
        row = {"way": name, "frames/s": round(len(given) / float(np.median(times[:, i])), 3)}
        row["ratio"] = round(float(ratios[i]), 3)
        if first.dtype == torch.int64:
            row["same codes"] = round(float((result == first).float().mean()), 5)
        rows.append(row)
    return rows


def seconds(way: Way, given: Tensor) -> float:
    clock = time.perf_counter if given.is_cuda else time.process_time
    if given.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    way(given)
    if given.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="tokenizer")
    parser.add_argument("--batch", type=int, help="frames in each pass (8, on a GPU 256)")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="race compiled ways, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    on_gpu = options.device == "cuda"
    batch = options.batch or (256 if on_gpu else 8)
    with TemporaryDirectory() as folder:
        encode, decode = ways(Path(folder), options.device, options.compile)
    frames = torch.randint(256, (batch, 3, options.size, options.size), dtype=torch.uint8)
    frames = frames.to(options.device)
    codes = torch.randint(8192, (batch, options.size // 8, options.size // 8))
    rows = {"encode": race(encode, frames, options.runs)}
    rows["decode"] = race(decode, codes.to(options.device), options.runs)
    for what, found in rows.items():
        for row in found:
            print(f"{what:<8}{row['way']:<16}{row['frames/s']:>12.3f}/s{row['ratio']:>9.3f}x")
    encoding = {row["way"]: row for row in rows["encode"]}
    like_peers = ("bf16, compiled" if options.compile else "bf16") if on_gpu else "fp32"
    result = {
        "name": options.name,
        "value": encoding[like_peers]["frames/s"],
        "unit": "frames/s",
        "way": like_peers,
        "peer": "DALL-E package, encoder",
        "peer_value": encoding["peer"]["frames/s"] if dall_e else None,
        "ratio": encoding[like_peers]["ratio"] if dall_e else None,
        "size": options.size,
        "batch": batch,
        "machine": machine(),
        "commit": commit(),
        "rows": rows,
    }
    write_result(options.name, result)


if __name__ == "__main__":
    main()

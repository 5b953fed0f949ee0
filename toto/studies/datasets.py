"""What a token data set holds, in words and in pictures, and what a run reads of it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from toto.errors import UserError
from toto.tokenizers.base import frames_of, load_tokenizer
from toto.tokens.loader import Sequences
from toto.tokens.patches import PatchGrid
from toto.tokens.store import TokenDataset, unfinished
from toto.tokens.verify import verify

SUFFIXES = (".png", ".jpg", ".webp")
"""of pictures that a sheet can be"""

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 64  # of the histogram
_SHOWN = 12  # values of a column, and reasons of failures, that are named
_GAP = 2  # pixels between the pictures of a sheet


def describe_dataset(folder: Path, deep: bool) -> str:
    """Counts, hours, sources, codes and failures of a data set, finished or not.

    Raises:
        UserError: `deep`, and a part of it is not what was recorded.
    """
    begun = unfinished(folder)
    if begun is not None:
        return (
            f"token data set, unfinished: {begun.shards} of {begun.planned} shards\n"
            f"so far     {begun.read} rows, {begun.failed} failures\n"
            f"finish it with: {begun.command}"
        )
    dataset = TokenDataset(folder)
    if deep:
        verify(dataset)
    once = dataset.column("crop") == 0
    kinds = ", ".join(f"{n:,} {kind}s" for kind, n in _counts(dataset, "kind", once).items())
    crops = len(once) // max(int(once.sum()), 1)
    frames = int(dataset.column("frames")[once].sum())
    per_frame = dataset.layout.frame
    lines = [
        f"token data set, fingerprint {dataset.fingerprint}"
        + (", everything as recorded" if deep else ""),
        f"items      {once.sum():,} ({kinds})" + (f", {crops} crops of each" if crops > 1 else ""),
        f"frames     {frames:,} kept, one in {dataset.view.stride}; "
        f"{dataset.hours():.2f} hours of video",
        f"{'patches' if dataset.is_pixels else 'tokens'}".ljust(11)
        + f"{frames * per_frame:,}: {per_frame} a frame, a grid of "
        f"{'x'.join(map(str, dataset.info.grid))}",
        *_codebook(dataset),
        f"tokenizer  {dataset.info.tokenizer}",
    ]
    columns = {name: _counts(dataset, name, once) for name in ("source", "label", "split")}
    lines += [f"{name}s".ljust(11) + _listed(values) for name, values in columns.items() if values]
    return "\n".join([*lines, *_failures(dataset)])


def _codebook(dataset: TokenDataset) -> list[str]:
    if dataset.is_online:
        return ["codebook   no codes are stored: training decodes and tokenizes"]
    if isinstance(dataset.layout, PatchGrid):
        patch, size = dataset.layout.patch, dataset.view.size
        return [f"pixels     {size}x{size} a frame, in patches of {patch}x{patch}"]
    counts = dataset.code_counts()
    shares = np.sort(counts[counts > 0] / counts.sum())[::-1]
    perplexity = np.exp(-(shares * np.log(shares)).sum())
    return [
        f"codebook   {len(shares):,} of {len(counts):,} codes used, perplexity {perplexity:.1f}; "
        f"the most frequent is {shares[0]:.1%} of all",
        f"           {_histogram(counts)} by rank, log scale",
    ]


def _histogram(counts: Int[np.ndarray, " codes"]) -> str:
    """How often codes occur, from the most to the least frequent, in one line."""
    ranked = np.sort(counts)[::-1]
    parts = np.array_split(ranked, min(_COLUMNS, len(ranked)))
    heights = np.log1p([part.mean() for part in parts])
    levels = np.ceil(heights / max(heights.max(), 1e-9) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[level] for level in levels)


def _counts(dataset: TokenDataset, name: str, once: np.ndarray) -> dict[str, int]:
    """How many items have each value of a column."""
    values, places = dataset.encoded(name)
    counts = np.bincount(places[once] + 1, minlength=len(values) + 1)[1:]
    return dict(zip(values, counts.tolist(), strict=True))


def _listed(values: dict[str, int]) -> str:
    said = ", ".join(f"{value} {n:,}" for value, n in sorted(values.items())[:_SHOWN])
    return said + (f", and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")


def _failures(dataset: TokenDataset) -> list[str]:
    """By the first words of their reasons, each with one example."""
    failures = dataset.failures()
    kinds = Counter(reason.split(":")[0] for _, reason in failures)
    example = {reason.split(":")[0]: (key, reason) for key, reason in reversed(failures)}
    lines = [f"failures   {len(failures):,}"]
    for kind, n in kinds.most_common(_SHOWN):
        key, reason = example[kind]
        lines.append(f"  {n:7,} {kind}   e.g. {key}" + (f": {reason}" if reason != kind else ""))
    return lines


def describe_sequences(sequences: Sequences, count: int) -> str:
    """The first sequences of a run, with the items that they come from."""
    lines = []
    for index in range(count):
        items = sequences.describe(index)
        lines.append(f"sequence {index}")
        for item, first in items:
            crop = f", crop {item.crop}" if item.crop else ""
            last = min(first + sequences.manifest.frames, item.frames) - 1
            frames = f", kept frames {first} to {last}" if item.kind == "video" else ""
            lines.append(f"  {item.kind} {item.key}{frames}{crop}")
    return "\n".join(lines)


def sequence_sheet(sequences: Sequences, count: int, out: Path) -> None:
    """The decoded frames of the first sequences, one in a row."""
    folder = sequences.datasets[0].tokenizer_folder
    rows = [_decode(folder, sequences.codes(index)) for index in range(count)]
    _save(rows, sequences.manifest.frames, out)


def contact_sheet(dataset: TokenDataset, out: Path, rows: int = 6, cols: int = 10) -> None:
    """The middle frames of items spread evenly over the data set, decoded from their codes.

    Raises:
        UserError: no codes are stored.
    """
    if dataset.is_online:
        raise UserError(f"{dataset.folder} stores no codes: --sequences shows what training reads")
    chosen = np.unique(np.linspace(0, len(dataset) - 1, rows * cols).astype(int))
    items = dataset.items(chosen)
    codes = [dataset.codes(item, item.frames // 2, 1) for item in items]
    _save([_decode(dataset.tokenizer_folder, np.concatenate(codes))], cols, out)


def _decode(tokenizer: Path, codes: np.ndarray) -> UInt8[np.ndarray, "n 3 side side"]:
    return frames_of(load_tokenizer(tokenizer), codes)


def _save(rows: Sequence[UInt8[np.ndarray, "_ 3 side side"]], cols: int, out: Path) -> None:
    """Each group of pictures begins a line of at most `cols`."""
    lines = [group[i : i + cols] for group in rows for i in range(0, len(group), cols)]
    side = lines[0].shape[-1] + _GAP
    sheet = np.full((len(lines) * side + _GAP, cols * side + _GAP, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        for j, picture in enumerate(line):
            top, left = i * side + _GAP, j * side + _GAP
            sheet[top : top + side - _GAP, left : left + side - _GAP] = picture.transpose(1, 2, 0)
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(out)

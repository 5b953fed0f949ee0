"""Statistics of codes: `toto study tokens WHAT... --out DIR` (paper, figures 3, 12 and 13).

An n-gram is n consecutive codes of a frame in raster order; none spans two frames.
"""

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from toto.config import from_dict, read_json, write_json
from toto.errors import UserError
from toto.files import only_writer
from toto.media.sources import read_sources
from toto.progress import progress
from toto.studies.ngrams import Keys, Spectrum, Tally, counted
from toto.studies.token_plots import rank_frequency
from toto.tokens.config import Ingest
from toto.tokens.ingest import ingest, report_failures
from toto.tokens.reading import Codes
from toto.tokens.store import TokenDataset
from toto.training.device import pick_devices

COVERED = (50, 90, 99)
"""per cent of all occurrences"""

# Codes that are read at once.
_AT_ONCE = 2**20

Frames = Iterator[tuple[Codes, Bool[np.ndarray, " frames"]]]


@dataclass(frozen=True)
class Counted:
    """What was counted of n-grams, or of pairs of codes; entropies in bits."""

    spectrum: Spectrum
    before: float
    """entropy of all codes of an n-gram but the last"""
    last: float
    """entropy of the last code alone"""

    @property
    def given(self) -> float:
        """Entropy of the last code where those before it are known."""
        return max(self.spectrum.entropy - self.before, 0.0)  # rounding goes below

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "total": self.spectrum.total,
            "distinct": self.spectrum.distinct,
            "once": self.spectrum.once,
            "covering": {f"{p} %": self.spectrum.covering(p) for p in COVERED},
            "entropy": self.spectrum.entropy,
            "last": self.last,
            "given": self.given,
        }


@dataclass(frozen=True)
class TokenStatistics:
    """What was counted in one data set."""

    dataset: str
    tokenizer: str
    """its fingerprint"""
    codebook_size: int
    grid: tuple[int, int]
    ngrams: dict[int, Counted]
    """by n"""
    frame_pairs: Counted
    """a code, and that at the same place of the item's next frame"""

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        named = {f"{n}-grams": found for n, found in self.ngrams.items()}
        named["previous frame"] = self.frame_pairs
        return {
            "dataset": self.dataset,
            "tokenizer": self.tokenizer,
            "codebook_size": self.codebook_size,
            "grid": self.grid,
            **{name: found.summary() for name, found in named.items()},
        }

    def text(self) -> str:
        """A table of the n-grams, and what a code's neighbours say of it."""
        rows, cols = self.grid
        columns = ("total", "distinct", "once", *(f"{p} %" for p in COVERED), "entropy")
        lines = [
            f"{self.dataset}: {self.codebook_size:,} codes, {rows}x{cols} of them a frame",
            " " * 7 + "".join(f"{column:>14}" for column in columns),
        ]
        for n, found in self.ngrams.items():
            each = found.spectrum
            numbers = (each.total, each.distinct, each.once, *map(each.covering, COVERED))
            lines.append(
                f"{n}-grams" + "".join(f"{x:>14,}" for x in numbers) + f"{each.entropy:>9.2f} bits"
            )
        given = {
            "the code before": self.ngrams[2],
            "the same place of the frame before": self.frame_pairs,
        }
        lines += [
            f"a code given {name}: {found.given:.2f} bits, {found.last:.2f} without; "
            f"{found.spectrum.once / found.spectrum.total:.1%} of the pairs are seen once"
            for name, found in given.items()
            if found.spectrum.total
        ]
        return "\n".join(lines)


def tokenize_with(
    tokenizers: Sequence[Path],
    source: Sequence[str],
    out: Path,
    settings: Ingest,
    workers: int,
    device: str,
) -> tuple[Path, ...]:
    """A token data set below `out` of the same media by each tokenizer, called after its folder.

    Raises:
        UserError: a folder holds no tokenizer, or the source or settings are none.
    """
    if settings.online:
        raise UserError("online: codes that are counted are stored")
    items, devices = read_sources(source, out), pick_devices(device)
    folders = tuple(out / "-".join(p for p in one.parts if p != one.anchor) for one in tokenizers)
    for tokenizer, folder in zip(tokenizers, folders, strict=True):
        command = f"toto study tokens {tokenizer} --source {shlex.join(source)}"
        report_failures(ingest(items, tokenizer, folder, settings, command, workers, devices))
    return folders


def study_tokens(datasets: Sequence[Path], out: Path) -> list[TokenStatistics]:
    """Count the codes of token data sets in `out`: tokens.json, tokens.svg.

    What is counted is kept in `out/counts` by the data set's fingerprint, and not counted again.
    Memory stays under 0.4 GiB beside the columns of the index; while one data set is counted, `out`
    holds up to 12 bytes for each of its codes.

    Raises:
        UserError: one is no complete token data set, or stores no codes.
    """
    opened = [TokenDataset(path) for path in datasets]
    if not opened:
        raise UserError("no token data set: name one or more")
    with only_writer(out):
        (out / "counts").mkdir(exist_ok=True)
        found = [_statistics(dataset, out) for dataset in opened]
        write_json(out / "tokens.json", {"datasets": [each.summary() for each in found]})
        spectra = {
            each.dataset: {n: of.spectrum for n, of in each.ngrams.items()} for each in found
        }
        rank_frequency(spectra, out / "tokens.svg")
    return found


def _statistics(dataset: TokenDataset, out: Path) -> TokenStatistics:
    size = dataset.vocabulary.codebook_size

    def found(name: str, keys: Callable[[Frames], Iterator[Keys]]) -> Counted:
        path = out / "counts" / f"{dataset.fingerprint}-{name}.json"
        if not path.exists():
            write_json(path, _count(keys(_frames(dataset, name)), size, out / ".runs"))
        return from_dict(Counted, read_json(path, "counts of codes"), str(path))

    return TokenStatistics(
        dataset=str(dataset.folder),
        tokenizer=dataset.info.tokenizer,
        codebook_size=size,
        grid=dataset.info.grid,
        ngrams={n: found(f"{n}-grams", partial(_ngrams, n, size)) for n in (1, 2, 3)},
        frame_pairs=found("frames", partial(_frame_pairs, size)),
    )


def _count(keys: Iterator[Keys], codebook_size: int, scratch: Path) -> Counted:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    ngrams, before, last = Tally(), Tally(), np.zeros(codebook_size, np.int64)
    open_key, open_count = -1, 0
    for found, counts in counted(keys, scratch):
        ngrams.add(counts)
        last += np.bincount(found % codebook_size, counts, codebook_size).astype(np.int64)
        rest = found // codebook_size
        starts = np.flatnonzero(np.diff(rest, prepend=-1))
        sums = np.add.reduceat(counts, starts)
        # The last of a piece may go on in the next.
        if rest[0] == open_key:
            sums[0] += open_count
        else:
            before.add(np.array([open_count]))
        before.add(sums[:-1])
        open_key, open_count = rest[-1], sums[-1]
    before.add(np.array([open_count]))
    shutil.rmtree(scratch)
    return Counted(ngrams.spectrum, before.spectrum.entropy, Tally().add(last).spectrum.entropy)


def _ngrams(n: int, codebook_size: int, frames: Frames) -> Iterator[Keys]:
    """Each n-gram as a number of n digits in base `codebook_size`."""
    for codes, _ in frames:
        rows = codes.reshape(len(codes), -1).astype(np.int64)
        count = max(rows.shape[1] - n + 1, 0)
        keys = np.zeros((len(rows), count), np.int64)
        for i in range(n):
            keys = keys * codebook_size + rows[:, i : i + count]
        yield keys.reshape(-1)


def _frame_pairs(codebook_size: int, frames: Frames) -> Iterator[Keys]:
    """Each code with that of the item's frame before, as a number of two digits."""
    before: Codes | None = None
    for codes, begins in frames:
        previous = np.concatenate((codes[:1] if before is None else before, codes[:-1]))
        keys = previous.astype(np.int64) * codebook_size + codes
        yield keys[~begins].reshape(-1)
        before = codes[-1:]


def _frames(dataset: TokenDataset, what: str) -> Frames:
    """All stored frames, item by item, and whether each is the first of its item."""
    per_item = dataset.column("frames")
    most = max(_AT_ONCE // dataset.vocabulary.frame, 1)
    pieces = -(-per_item // most)
    rows = np.repeat(np.arange(len(per_item)), pieces)
    firsts = most * (np.arange(len(rows)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    frames = np.minimum(per_item[rows] - firsts, most)
    cuts = np.flatnonzero(np.diff(np.cumsum(frames) // most)) + 1
    with progress(what, int(per_item.sum()), "frames") as advance:
        for part in np.split(np.arange(len(rows)), cuts):
            at = np.cumsum(frames[part]) - frames[part]
            codes = dataset.empty(int(frames[part].sum()))
            dataset.gather(rows[part], firsts[part], frames[part], at, codes)
            begins = np.zeros(len(codes), bool)
            begins[at[firsts[part] == 0]] = True
            yield codes, begins
            advance(len(codes))

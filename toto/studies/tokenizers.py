"""How good tokenizers are, side by side: `toto tokenizer eval TOKENIZER... --source S`."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from toto.config import write_json
from toto.errors import UserError, at_least
from toto.files import file_atomically
from toto.media.frame_pool import frame_pool
from toto.media.item import Item
from toto.media.view import View
from toto.progress import progress
from toto.studies.frechet import Frechet, load_features
from toto.studies.jpeg import jpeg_within
from toto.tokenizers.base import Tokenizer, load_tokenizer
from toto.tokenizers.quality import psnr, usage
from toto.tokenizers.sizes import Precision

_AT_ONCE = 32  # frames that are compared at once
_COLOUR_BITS = 24.0
_SHOWN = 10  # frames of the sheet
_GAP = 2  # pixels between them
_TITLE = 16  # pixels of a line of words

Frames = UInt8[Tensor, "n 3 height width"]


@dataclass(frozen=True)
class Quality:
    """What is left of the frames, in the mean over them."""

    psnr: float
    """dB"""
    ssim: float
    bits: float
    """what a frame takes"""
    frechet: float | None = None
    """distance of all frames' features from those of the real ones; None if none were asked for"""


@dataclass(frozen=True)
class TokenizerResult:
    """One tokenizer on all frames."""

    tokenizer: str
    """its folder, and its precision where several were asked for"""
    fingerprint: str
    quality: Quality
    """its bits are those of codes that are equally likely: codes a frame, log2 codebook each"""
    codebook_size: int
    used: int
    """codes that occur in these frames"""
    dead: int
    """codes that do not"""
    perplexity: float
    """exp of the entropy of their use: so many equally likely codes would be as rich"""
    entropy_coded: float
    """bits a frame by an ideal coder that knows how often each code occurs, and no more"""
    encoded_per_second: float
    """frames, on their device already"""
    decoded_per_second: float
    same_codes: float | None = None
    """share of its codes that are those of the first precision; None where there is one alone"""
    jpeg: Quality | None = None
    """the best JPEG within the same bits; None if none is so small"""


@dataclass(frozen=True)
class Evaluation:
    """Several tokenizers on the same frames."""

    frames: int
    size: int
    """their side in pixels"""
    device: str
    mean_colour: Quality
    """each frame replaced by its mean colour"""
    tokenizers: list[TokenizerResult]
    features: str | None = None
    """what the Fréchet distances are of"""

    def text(self) -> str:
        """A table: a line for each tokenizer, and below it JPEG's."""
        names = ["mean colour", *(result.tokenizer for result in self.tokenizers)]
        wide = max(map(len, names)) + 2
        distances = () if self.features is None else ("Fréchet",)
        same = () if self.tokenizers[0].same_codes is None else ("same codes",)
        columns = ("PSNR", "SSIM", *distances, "bits", "coded", "used", "of", "dead", "perplexity")
        of = f"; Fréchet distances of {self.features}" if self.features else ""
        lines = [
            f"{self.frames} frames of {self.size} px, on {self.device}{of}",
            " " * wide + "".join(f"{x:>11}" for x in (*columns, "encode/s", "decode/s", *same)),
            _line("mean colour", wide, self.mean_colour),
        ]
        for one in self.tokenizers:
            lines.append(
                _line(one.tokenizer, wide, one.quality)
                + f"{one.entropy_coded:>11,.0f}{one.used:>11,}{one.codebook_size:>11,}"
                + f"{one.dead:>11,}{one.perplexity:>11,.1f}"
                + f"{one.encoded_per_second:>11,.1f}{one.decoded_per_second:>11,.1f}"
                + ("" if one.same_codes is None else f"{one.same_codes:>11.3%}")
            )
            if one.jpeg is not None:
                lines.append(_line("  JPEG", wide, one.jpeg))
        return "\n".join(lines)


def _line(name: str, wide: int, quality: Quality) -> str:
    distance = "" if quality.frechet is None else f"{quality.frechet:>11.3f}"
    seen = f"{quality.psnr:>11.2f}{quality.ssim:>11.4f}{distance}"
    return f"{name:<{wide}}{seen}{quality.bits:>11,.0f}"


def evaluate(
    folders: Sequence[Path],
    items: Sequence[Item],
    out: Path | None,
    count: int = 512,
    size: int = 128,
    batch: int = 32,
    workers: int = 2,
    device: str = "cpu",
    features: str | None = None,
    precisions: Sequence[Precision] = (),
) -> Evaluation:
    """Pass frames spread evenly over the items through each tokenizer, in its own precision.

    With `precisions`, through each of these, and codes are compared with those of the first.

    Writes `out/tokenizers.json` and `out/reconstructions.png`, if there is an `out`. Memory grows
    with `count` alone, by 0.3 MB a frame of 128 px, however many videos and tokenizers there are.
    With `features` (see `load_features`), Fréchet distances are measured too.

    Raises:
        UserError: a folder holds no tokenizer, frames of `size` do not fit one, no item can be
            read, or `features` names none.
    """
    at_least(1, frames=count, batch=batch)
    at_least(16, size=size)
    if not folders:
        raise UserError("no tokenizer: name the folders of one or more")
    several = len(precisions) > 1
    tokenizers = {
        (folder, f"{folder}, {precision}" if several else str(folder)): load_tokenizer(
            folder, device, precision
        )
        for folder in folders
        for precision in precisions or (None,)
    }
    for (_, name), tokenizer in tokenizers.items():
        if not tokenizer.codebook_size:
            raise UserError(f"{name} keeps the pixels as they are: there is nothing to judge")
    for tokenizer in tokenizers.values():  # a size that does not fit is told before all decoding
        tokenizer.encode(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device))
    network = None if features is None else load_features(features, device)
    frames = _frames(items, count, size, workers)
    distance = None if network is None else Frechet(network, frames, batch)
    shown = np.unique(np.linspace(0, len(frames) - 1, _SHOWN).astype(int))
    rows, results = {"frames": frames[shown]}, []
    jpegs: dict[int, Quality | None] = {}
    first: dict[Path, Tensor] = {}
    for (folder, name), tokenizer in tokenizers.items():
        result, codes, made = _evaluate(name, tokenizer, frames, batch, device, distance)
        if several:
            same = codes == first.setdefault(folder, codes)
            result = replace(result, same_codes=float(same.float().mean()))
        rows[name] = made[shown]
        bits = math.floor(result.quality.bits)
        if bits not in jpegs:
            jpegs[bits], of_jpeg = _jpeg(frames, bits, distance)
            if of_jpeg is not None:
                rows[f"JPEG, at most {bits} bits"] = of_jpeg[shown]
        results.append(replace(result, jpeg=jpegs[bits]))
    mean_colour = _quality(frames, _mean_colour(frames), _COLOUR_BITS, distance)
    evaluation = Evaluation(len(frames), size, device, mean_colour, results, features)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "tokenizers.json", evaluation)
        _write_sheet(rows, out / "reconstructions.png")
    return evaluation


def _frames(items: Sequence[Item], count: int, size: int, workers: int) -> Frames:
    """As many frames of each item as of any other; all, where there are fewer than `count`."""
    with tempfile.TemporaryDirectory() as folder:
        pool = frame_pool(items, View(size=size), count, Path(folder) / "frames.npy", workers)
        chosen = np.unique(np.linspace(0, len(pool) - 1, count).astype(int))
        return torch.from_numpy(pool[chosen])


def _evaluate(
    name: str,
    tokenizer: Tokenizer,
    frames: Frames,
    batch: int,
    device: str,
    distance: Frechet | None,
) -> tuple[TokenizerResult, Tensor, Frames]:
    """The result, without JPEG's, the codes, and the reconstructions."""
    _pass(tokenizer, frames[:batch].to(device))  # the first pass takes longer than others
    codes, made, seconds = [], [], np.zeros(2)
    with progress("reconstruct", len(frames), "frames") as advance:
        for part in frames.split(batch):
            its_codes, its_frames, its_seconds = _pass(tokenizer, part.to(device))
            codes.append(its_codes.cpu())
            made.append(its_frames.cpu())
            seconds += its_seconds
            advance(len(part))
    all_codes, all_made = torch.cat(codes), torch.cat(made)
    used, perplexity = usage(all_codes, tokenizer.codebook_size)
    places = all_codes[0].numel()
    return (
        TokenizerResult(
            tokenizer=name,
            fingerprint=tokenizer.fingerprint,
            quality=_quality(
                frames, all_made, places * math.log2(tokenizer.codebook_size), distance
            ),
            codebook_size=tokenizer.codebook_size,
            used=int(used),
            dead=tokenizer.codebook_size - int(used),
            perplexity=perplexity,
            entropy_coded=places * math.log2(perplexity),
            encoded_per_second=len(frames) / seconds[0],
            decoded_per_second=len(frames) / seconds[1],
        ),
        all_codes,
        all_made,
    )


def _pass(tokenizer: Tokenizer, frames: Frames) -> tuple[Tensor, Frames, tuple[float, float]]:
    """Codes, reconstructions, and the seconds that each of them took."""
    start = _now(frames.device)
    codes = tokenizer.encode(frames)
    middle = _now(frames.device)
    made = tokenizer.decode(codes)
    return codes, made, (middle - start, _now(frames.device) - middle)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def _quality(frames: Frames, made: Frames, bits: float, distance: Frechet | None) -> Quality:
    parts = list(zip(frames.split(_AT_ONCE), made.split(_AT_ONCE), strict=True))
    decibels = torch.cat([psnr(*part) for part in parts])
    similarities = torch.cat([ssim(*part) for part in parts])
    return Quality(
        float(decibels.mean()),
        float(similarities.mean()),
        bits,
        None if distance is None else distance(made),
    )


def ssim(frames: Frames, reconstructed: Frames) -> Float[Tensor, " n"]:
    """Structural similarity of each frame, in the mean over its channels (Wang et al. 2004).

    The Gaussian window has 11 pixels and sigma 1.5, and counts where all of it is in the frame.
    """
    _, everywhere = structural_similarity_index_measure(
        reconstructed.float(), frames.float(), data_range=255.0, return_full_image=True
    )
    return everywhere[..., 5:-5, 5:-5].mean((1, 2, 3))


def _mean_colour(frames: Frames) -> Frames:
    return frames.float().mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(frames)


def _jpeg(
    frames: Frames, bits: int, distance: Frechet | None
) -> tuple[Quality | None, Frames | None]:
    """What JPEG makes of the frames in so many bits each; nothing if one of them does not fit."""
    made, taken = [], []
    for frame in frames.numpy():
        found = jpeg_within(frame, bits)
        if found is None:
            return None, None
        made.append(found[0])
        taken.append(found[1])
    pictures = torch.from_numpy(np.stack(made))
    return _quality(frames, pictures, float(np.mean(taken)), distance), pictures


def _write_sheet(rows: Mapping[str, Frames], path: Path) -> None:
    """A line of pictures for each name, which stands above it."""
    lines = []
    for name, frames in rows.items():
        pictures = F.pad(frames, (0, _GAP, 0, _GAP), value=255).permute(2, 0, 3, 1).flatten(1, 2)
        title = Image.new("RGB", (pictures.shape[1], _TITLE), "white")
        ImageDraw.Draw(title).text((1, 1), name, "black", ImageFont.load_default(11))
        lines += [np.asarray(title), pictures.numpy()]
    with file_atomically(path) as file:
        Image.fromarray(np.concatenate(lines)).save(file, "PNG")

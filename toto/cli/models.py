"""Commands that ask a trained model."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from toto.cli.parse import Command, command
from toto.errors import MediaError, UserError
from toto.media.view import View
from toto.tokens.config import Ingest

if TYPE_CHECKING:
    from toto.media.item import Item
    from toto.tokens.store import TokenDataset


def adopt(
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")],
    data: Path,
    out: Path,
    frames: int = 16,
) -> None:
    """Make a saved model of a LLaMA that was trained elsewhere on the tokens of a data set.

    Args:
        model: folder of a LlamaForCausalLM, its weights in safetensors
        data: the token data set, whose tokenizer, grid and view the model gets
        out: folder to write to
        frames: frames of the longest clip that it reads
    """
    from toto.training.adopt import adopt as run

    run(model, data, out, frames)
    print(out)


def generate(
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")],
    prompt: Path,
    out: Path,
    frames: int = 8,
    prompt_frames: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Continue a video.

    Args:
        model: folder of a run or of a saved model
        prompt: a video; its first kept frames are read
        out: the video to write, .mp4 or .gif: what was read, as the tokenizer sees it, and what
            comes next
        frames: frames to imagine
        prompt_frames: kept frames to continue, by default half of what the model reads; of more
            than it reads the last ones count
        temperature: divides the logits; 0 always takes the most likely code
        top_k: draw from so many of the most likely codes only
        top_p: draw from the most likely codes that together have this probability only
        seed: seed of the draws
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    import numpy as np

    import toto
    from toto.generation.sampling import Sampling
    from toto.media.video import probe, read_clip
    from toto.media.write import write_gif, write_video
    from toto.progress import progress

    writers = {".mp4": write_video, ".gif": write_gif}
    if out.suffix not in writers:
        raise UserError(f"{out}: .mp4 or .gif can be written")
    for name, value in (("frames", frames), ("prompt_frames", prompt_frames)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: at least 1")
    loaded = toto.load(model, device)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    reads = prompt_frames or max(loaded.frames // 2, 1)
    try:
        seen = read_clip(str(prompt), 0, reads, loaded.view)
    except MediaError as error:
        raise UserError(f"{prompt}: {error}") from error
    with progress("imagine", frames, "frames") as advance:
        future = loaded.predict(seen, frames, len(seen), sampling, advance)
    read = loaded.tokenizer.decode(loaded.tokenize(seen)).cpu().numpy()
    fps = loaded.view.kept_rate(probe(str(prompt)).fps) or 30.0 / loaded.view.stride
    out.parent.mkdir(parents=True, exist_ok=True)
    writers[out.suffix](out, np.concatenate((read, future)), fps)
    print(out)


def features(
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")],
    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")],
    out: Path,
    layers: str = "all",
    pool: str = "mean",
    workers: int = 2,
    device: str = "auto",
) -> None:
    """Write hidden states of the clips of a source.

    Args:
        model: folder of a run or of a saved model, or another encoder like dinov2:FOLDER
        source: a token data set, or media, which are tokenized into OUT/tokens first
        out: folder to write to; begun there before, it goes on
        layers: all, numbers like 0,4,8, or a depth between 0 and 1 like 0.5
        pool: none (every code), mean, or last (the last code's, which has seen the whole clip)
        workers: processes that decode
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    from toto.tasks.features import export_features

    export_features(*model_and_tokens(model, source, out, workers, device), out, layers, pool)
    print(out)


def model_and_tokens(
    model: Path, source: str, out: Path, workers: int, device: str
) -> tuple[Any, Any]:
    """The model or other encoder, and the source as a token data set of what it reads."""
    loaded = open_model(model, device)
    if is_tokens(source):
        return loaded, tokens_for(loaded, Path(source))
    tokenize_for(loaded, read_media(source, out), out, out / "tokens", loaded.view, workers)
    return loaded, tokens_for(loaded, out / "tokens")


def open_model(model: Path, device: str) -> Any:
    """A trained model, or another encoder."""
    import toto
    from toto.probing.baselines import is_baseline, load_baseline
    from toto.training.device import pick_device

    if is_baseline(str(model)):
        return load_baseline(str(model), pick_device(device))
    return toto.load(model, device)


def is_tokens(source: str) -> bool:
    """Whether a source is a token data set, and no media."""
    return (Path(source) / "dataset.json").exists()


def read_media(source: str, out: Path) -> "Sequence[Item]":
    """The items of a source; its long lists are unpacked below `out`."""
    from toto.media.sources import read_sources

    return read_sources([source], out)


def tokenize_for(
    loaded: Any, items: "Sequence[Item]", out: Path, tokens: Path, view: View, workers: int
) -> None:
    """Make, or finish, a data set of what a model or other encoder reads."""
    from toto.api import Toto
    from toto.tokens.ingest import ingest, report_failures

    is_ours = isinstance(loaded, Toto)
    tokenizer = loaded.folder / "tokenizer" if is_ours else _patches(loaded.patch, out)
    command = f"toto {shlex.join(sys.argv[1:])}"
    devices = [str(loaded.device)]
    report_failures(ingest(items, tokenizer, tokens, Ingest(view), command, workers, devices))


def tokens_for(loaded: Any, folder: Path) -> "TokenDataset":
    """A data set that is of what a model or other encoder reads.

    Raises:
        UserError: it is not.
    """
    from toto.api import Toto
    from toto.tokens.store import TokenDataset

    dataset = TokenDataset(folder)
    if not isinstance(loaded, Toto):
        if not dataset.is_pixels:
            raise UserError(
                f"{folder} stores codes, this encoder reads pixels: give the media themselves, or "
                "a data set of a tokenizer that `toto tokenizer patches` makes"
            )
    elif dataset.info.tokenizer != loaded.tokenizer.fingerprint:
        raise UserError(
            f"{folder} was made by tokenizer {dataset.info.tokenizer}, "
            f"{loaded.folder} reads codes of {loaded.tokenizer.fingerprint}"
        )
    return dataset


def _patches(patch: int, out: Path) -> Path:
    """A tokenizer that keeps pixels, for an encoder of such patches."""
    from toto.tokenizers.patches import Patches
    from toto.tokenizers.sizes import PatchesSize

    folder = out / "tokenizer"
    Patches(PatchesSize(patch=patch)).save(folder)
    return folder


COMMANDS: dict[str, Command] = {
    "adopt": command(adopt),
    "generate": command(generate),
    "features": command(features),
}

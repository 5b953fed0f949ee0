"""Commands that ask a trained model."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from toto.cli.parse import Command, command
from toto.errors import MediaError, UserError
from toto.probing.config import ProbeTraining
from toto.tokens.config import Ingest

_PROBES = ProbeTraining()


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
        prompt_frames: kept frames to read; by default half of what the model reads
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
    fps = (probe(str(prompt)).fps or 30.0) / loaded.view.stride
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
        model: folder of a run or of a saved model
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


def probe_actions(
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")],
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")],
    out: Path,
    training: OmitArgPrefixes[ProbeTraining] = _PROBES,
    workers: int = 2,
    device: str = "auto",
) -> None:
    """Read actions from every layer by probes.

    Args:
        model: folder of a run or of a saved model
        data: a token data set with labels, or labelled media, which are tokenized into OUT/tokens
        out: folder to write to; begun there before, it goes on
        training: how the probes are trained
        workers: processes that decode
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    from toto.tasks.actions import probe_actions as run

    loaded, dataset = model_and_tokens(model, data, out, workers, device)
    print(run(loaded.encoder, dataset, loaded.frames, out, training).table())
    print(out)


def probe_images(
    model: Annotated[Positional[Path], tyro.conf.arg(metavar="MODEL")],
    data: Annotated[Positional[str], tyro.conf.arg(metavar="DATA")],
    out: Path,
    training: OmitArgPrefixes[ProbeTraining] = _PROBES,
    workers: int = 2,
    device: str = "auto",
) -> None:
    """Read the classes of images from every layer by probes.

    Args:
        model: folder of a run or of a saved model
        data: a token data set with labels, or labelled media, which are tokenized into OUT/tokens
        out: folder to write to; begun there before, it goes on
        training: how the probes are trained
        workers: processes that decode
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    from toto.tasks.images import probe_images as run

    loaded, dataset = model_and_tokens(model, data, out, workers, device)
    print(run(loaded.encoder, dataset, out, training).table())
    print(out)


def model_and_tokens(
    model: Path, source: str, out: Path, workers: int, device: str
) -> tuple[Any, Any]:
    """The model, and the source as a token data set of the model's own tokenizer."""
    import toto
    from toto.media.sources import read_sources
    from toto.tokens.ingest import ingest
    from toto.tokens.store import TokenDataset

    loaded = toto.load(model, device)
    if (Path(source) / "dataset.json").exists():
        dataset = TokenDataset(Path(source))
    else:
        dataset = ingest(
            read_sources([source], out),
            loaded.folder / "tokenizer",
            out / "tokens",
            Ingest(loaded.view),
            f"toto {shlex.join(sys.argv[1:])}",
            workers,
            [str(loaded.device)],
        )
    if dataset.info["tokenizer"] != loaded.tokenizer.fingerprint:
        raise UserError(
            f"{source} was made by tokenizer {dataset.info['tokenizer']}, "
            f"{model} reads codes of {loaded.tokenizer.fingerprint}"
        )
    return loaded, dataset


COMMANDS: dict[str, Command] = {
    "adopt": command(adopt),
    "generate": command(generate),
    "features": command(features),
    "probe actions": command(probe_actions),
    "probe images": command(probe_images),
}

"""What a folder or a file of ours holds, in words."""

from collections import Counter
from pathlib import Path

import numpy as np

from toto.config import read_json
from toto.errors import MediaError, UserError
from toto.media.video import probe
from toto.tokens.store import TokenDataset
from toto.training.metrics import read_metrics

_KINDS = "a token data set, a run, a model or a tokenizer"


def describe(path: Path, deep: bool = False) -> str:
    """A few lines about a token data set, a run, a saved model, a tokenizer or a media file.

    Raises:
        UserError: it is none of these, or `deep` finds a shard that has changed.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        try:
            info = probe(str(path))
        except MediaError as error:
            raise UserError(f"{path}: {error}") from error
        frames = "unknown" if info.frames is None else info.frames
        fps = f", {info.fps:g} frames/s" if info.fps else ""
        return f"{info.kind}, {info.width}x{info.height}, {frames} frames{fps}"
    if (path / "dataset.json").exists():
        return _dataset(path, deep)
    config = read_json(path / "config.json", _KINDS)
    if "recipe" in config:
        return _run(path, config)
    if "toto" in config:
        return _model(config)
    if "fingerprint" in config:
        return f"tokenizer {config['kind']}, fingerprint {config['fingerprint']}: {config['size']}"
    raise UserError(f"{path} is not {_KINDS}: its config.json is another's")


def _dataset(path: Path, deep: bool) -> str:
    if not (path / "index.parquet").exists():
        info = read_json(path / "dataset.json", "a token data set")
        done = len(list((path / "shards").glob("[0-9]*.parquet")))
        planned = -(-info["items"] // info["settings"]["shard_items"])
        return (
            f"token data set, unfinished: {done} of {planned} shards\n"
            f"finish it with: {info['command']}"
        )
    dataset = TokenDataset(path)
    if deep:
        dataset.verify()
    frames = int(dataset.column("frames").sum())
    stride = dataset.info["settings"]["view"]["stride"]
    counts = dataset.code_counts()
    shares = counts[counts > 0] / counts.sum()
    kinds = Counter(dataset.column("kind").tolist())
    lines = [
        f"token data set, fingerprint {dataset.fingerprint}"
        + (", every shard as recorded" if deep else ""),
        f"items      {len(dataset)} ({', '.join(f'{n} {kind}s' for kind, n in kinds.items())})",
        f"frames     {frames} kept, one in {stride}; {dataset.hours():.2f} hours of video",
        f"codes      {counts.sum()} on a grid of {'x'.join(map(str, dataset.info['grid']))}",
        f"codebook   {(counts > 0).sum()} of {len(counts)} codes used, "
        f"perplexity {np.exp(-(shares * np.log(shares)).sum()):.1f}",
        f"tokenizer  {dataset.info['tokenizer']}",
    ]
    for name in ("label", "split"):
        values = Counter(v for v in dataset.column(name).tolist() if v is not None)
        if values:
            said = ", ".join(f"{value} {n}" for value, n in sorted(values.items())[:12])
            lines.append(f"{name}s".ljust(11) + said)
    failures = dataset.failures()
    lines.append(f"failures   {len(failures)}")
    lines += [f"  {n:5} {reason}" for reason, n in Counter(r for _, r in failures).most_common()]
    return "\n".join(lines)


def _run(path: Path, config: dict) -> str:
    rows = read_metrics(path)
    steps = config["recipe"]["loop"]["steps"]
    step = rows[-1]["step"] if rows else 0
    lines = [f"{config['kind']} run, step {step} of {steps}"]
    latest: dict[str, float] = {}
    for row in rows:
        latest |= row
    lines += [f"  {name:<28} {value:g}" for name, value in latest.items()]
    return "\n".join(lines)


def _model(config: dict) -> str:
    details = config["toto"]
    layout = details["vocabulary"]
    return (
        f"LLaMA of width {config['hidden_size']}, {config['num_hidden_layers']} layers, "
        f"{config['num_attention_heads']} heads\n"
        f"reads clips of {details['frames']} frames of {details['size']} px at stride "
        f"{details['stride']}, {'x'.join(map(str, layout['grid']))} codes of "
        f"{layout['codebook_size']}\n"
        f"tokenizer {details['tokenizer']}"
    )

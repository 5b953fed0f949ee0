"""What a folder or a file of ours holds, in words."""

from contextlib import suppress
from pathlib import Path

from toto.config import from_dict, read_json
from toto.errors import MediaError, UserError
from toto.media.video import probe
from toto.models.llama import Llama
from toto.models.saved import read_model
from toto.studies.datasets import describe_dataset
from toto.tokens.loader import Sequences, freeze
from toto.tokens.mixture import Manifest
from toto.tokens.store import TokenDataset
from toto.training.metrics import read_metrics

_KINDS = "a token data set, a run, a model or a tokenizer"
_FRAMES = 16


def describe(path: Path, deep: bool = False) -> str:
    """A few lines about a token data set, a run, a saved model, a tokenizer or a media file.

    Raises:
        UserError: it is none of these, or `deep` finds a part that has changed.
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
        return describe_dataset(path, deep)
    config = read_json(path / "config.json", _KINDS)
    with suppress(KeyError, TypeError):  # it says less than ours do, or other things
        if "recipe" in config:
            return _run(path, config)
        if "toto" in config:
            return _model(path)
        if "fingerprint" in config:
            its = config["fingerprint"]
            return f"tokenizer {config['kind']}, fingerprint {its}: {config['size']}"
    raise UserError(f"{path} is not {_KINDS}: its config.json is another's")


def sequences_at(path: Path) -> Sequences:
    """The training sequences of a run, or of a data set by itself in clips of 16 frames.

    Raises:
        UserError: the path is neither, or its data are not there.
    """
    if (path / "dataset.json").exists():
        return Sequences(freeze([TokenDataset(path)], (), _FRAMES, 0, "train", 0.0))
    config = read_json(path / "config.json", "a token data set or a run")
    if "manifests" not in config:
        raise UserError(f"{path} is not a token data set, nor a run that reads one")
    return Sequences(from_dict(Manifest, config["manifests"]["train"], f"{path}/config.json"))


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


def _model(path: Path) -> str:
    model, details = read_model(path)
    if isinstance(model, Llama):
        layout = details["vocabulary"]
        kind, what = "LLaMA", f"codes of {layout['codebook_size']}"
    else:
        layout = details["patches"]
        kind, what = "LLaMA over patches", f"patches of {model.patch}x{model.patch} px"
        what += ", predicts their codes" if model.vocabulary else ", predicts them"
    return (
        f"{kind} of width {model.size.width}, {model.size.layers} layers, "
        f"{model.size.heads} heads\n"
        f"reads clips of {details['frames']} frames of {details['view']['size']} px at stride "
        f"{details['view']['stride']}, {'x'.join(map(str, layout['grid']))} {what}\n"
        f"tokenizer {details['tokenizer']}"
    )

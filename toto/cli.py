"""The command line. Parses, calls, prints; what is heavy is imported inside the commands."""

import contextlib
import errno
import functools
import io
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro
from tyro.conf import AvoidSubcommands, OmitArgPrefixes, Positional

from toto.errors import MediaError, UserError, at_least, unknown
from toto.media.view import LIMITS, Limits
from toto.probing.config import ProbeTraining
from toto.progress import console
from toto.recipes import demo as demo_recipes
from toto.recipes import pretrain as pretrain_recipes
from toto.recipes import tokenizer as tokenizer_recipes
from toto.recipes.demo import Demo
from toto.studies.config import MupStudy
from toto.tokens.config import Ingest
from toto.training.config import Pretrain, TrainDVAE, TrainVQGAN

# What a machine, and no mistake or bug, does to a run.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES),
    *(errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.ENOLCK, errno.EFBIG, errno.ECHILD),
    *(errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN),
    *(errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.ESHUTDOWN, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
}
# A path that was given is a file where a folder is needed, or the other way round.
_PATHS = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}

_PROBES = ProbeTraining()


def main() -> None:
    """Run a command. Exit code 2 after a user's mistake, 128 + n after signal n."""
    arguments = sys.argv[1:]
    try:
        _dispatch(arguments)
    except (UserError, MediaError) as error:
        _stop(str(error), 2)
    except FloatingPointError as error:
        _stop(str(error), 1)
    except KeyboardInterrupt:
        _stop("interrupted; run it again to continue", 130)
    except OSError as error:
        if error.errno in _PATHS:
            _stop(f"{error.filename}: {error.strerror}", 2)
        if error.errno not in _MACHINE and not isinstance(error, TimeoutError):
            raise
        what = error.strerror or str(error) or type(error).__name__
        where = f": {error.filename}" if error.filename else ""
        _stop(f"{what}{where}; run it again to continue", 1)


def _stop(message: str, code: int) -> None:
    print(f"toto: {message}", file=sys.stderr)
    raise SystemExit(code)


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return
    for words in (3, 2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            COMMANDS[name](arguments[words:], f"toto {name}")
            return
    same = [name for name in COMMANDS if name.split()[0] == arguments[0]]
    if same:
        raise UserError(f"no command {' '.join(arguments[:3])!r}: there is {', '.join(same)}")
    raise unknown("command", arguments[0], COMMANDS)


def _overview() -> str:
    lines = ["usage: toto COMMAND ...", ""]
    lines += [f"  {name:<24} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "Each command has --help."])


Command = Callable[[list[str], str], None]


def _command(function: Callable[..., None]) -> Command:
    """A command whose arguments are the function's."""

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> functools.partial:
        return functools.partial(function, *args, **kwargs)

    def command(arguments: list[str], prog: str) -> None:
        _parse(bind, arguments, prog)()

    command.__doc__ = (function.__doc__ or "").splitlines()[0]
    return command


def _parse(target: Any, arguments: list[str], prog: str, default: Any = tyro.MISSING) -> Any:
    """Parse with tyro, its box of an error made one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if default is tyro.MISSING:
                return tyro.cli(target, args=arguments, prog=prog)
            return tyro.cli(target, args=arguments, prog=prog, default=default)
    except SystemExit as exit_:
        if exit_.code:
            raise UserError(_one_line(said.getvalue(), prog)) from None
        raise


def _one_line(box: str, prog: str) -> str:
    sections: list[list[str]] = [[]]
    for line in box.splitlines()[1:]:
        words = line.strip(" │╭╮╰╯")
        if words.startswith("──"):
            sections.append([])
        elif words:
            sections[-1].append(words)
    message = " ".join(sections[0])
    if len(sections) > 1 and sections[1][:1] == ["Perhaps you meant:"]:
        message += f" (perhaps you meant {sections[1][1]})"
    return f"{message} ({prog} --help says what there is)"


@dataclass(frozen=True)
class _Resumed:
    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """folder of the run, which goes on with the settings it was begun with"""
    workers: int = 2
    """processes that decode media"""
    profile: bool = False
    """say where the time of a step goes, and write RUN/profile.json"""


@dataclass(frozen=True)
class _Pretrain:
    result: ClassVar[str] = "model"
    recipe: OmitArgPrefixes[Pretrain]
    run: Path
    """folder of the run; begun there before, it goes on"""
    workers: int = 2
    """processes that decode, for data sets that store no codes"""
    profile: bool = False
    """say where the time of a step goes, and write RUN/profile.json"""

    def start(self) -> Path:
        from toto.training.runs import pretrain

        pretrain(self.recipe, self.run, self.workers, self.profile)
        return self.run / self.result


@dataclass(frozen=True)
class _TrainTokenizer:
    result: ClassVar[str] = "tokenizer"
    recipe: OmitArgPrefixes[AvoidSubcommands[TrainDVAE | TrainVQGAN]]
    run: Path
    """folder of the run; begun there before, it goes on"""
    workers: int = 2
    """processes that decode media"""
    profile: bool = False
    """say where the time of a step goes, and write RUN/profile.json"""

    def start(self) -> Path:
        from toto.training.runs import train_tokenizer

        train_tokenizer(self.recipe, self.run, self.workers, self.profile)
        return self.run / self.result


def _recipe_command(
    about: str,
    kind: type[_Pretrain] | type[_TrainTokenizer],
    recipes: Mapping[str, Callable[[], Any]],
) -> Command:
    """A command `RECIPE --run DIR`, any field of the recipe overridden, or `--resume DIR`."""

    def command(arguments: list[str], prog: str) -> None:
        if arguments[:1] == ["--resume"]:
            from toto.training.runs import resume

            resumed = _parse(_Resumed, arguments[1:], f"{prog} --resume")
            resume(resumed.run, resumed.workers, resumed.profile)
            print(resumed.run / kind.result)
            return
        usage = f"usage: {prog} RECIPE --run DIR [fields]\n       {prog} --resume DIR"
        name = _recipe_name(arguments, prog, usage, recipes)
        if name:
            default = kind(recipe=recipes[name](), run=tyro.MISSING)
            print(_parse(kind, arguments[1:], f"{prog} {name}", default).start())

    command.__doc__ = about
    return command


def _recipe_name(
    arguments: list[str], prog: str, usage: str, recipes: Mapping[str, Callable[[], Any]]
) -> str | None:
    """The recipe that the arguments begin with; None if its help was asked for and given."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(f"{usage}\n")
        for known, recipe in recipes.items():
            print(f"  {known:<9} {(recipe.__doc__ or '').splitlines()[0]}")
        print(f"\n{prog} RECIPE --help explains every field.")
        return None
    if name not in recipes:
        raise unknown("recipe", name, recipes)
    return name


@dataclass(frozen=True)
class _Planned:
    recipe: OmitArgPrefixes[Pretrain]
    gpu: str
    """kind of GPU: a100-40, a100-80, h100, h200, b200, l40s, rtx4090"""
    gpus: int = 1
    """how many of them"""
    codes: int = 8192
    """codes of the tokenizer, where no data are given"""
    grid: int = 16
    """codes a side of a frame, where no data are given: 32 for the recipes at 256 px"""


def plan(arguments: list[str], prog: str) -> None:
    """Say what a pre-training run will take: data, compute, memory, disk, days."""
    recipes = pretrain_recipes.RECIPES
    usage = f"usage: {prog} RECIPE --gpus N --gpu KIND [fields]"
    name = _recipe_name(arguments, prog, usage, recipes)
    if name is None:
        return
    default = _Planned(recipe=recipes[name](), gpu=tyro.MISSING)
    asked = _parse(_Planned, arguments[1:], f"{prog} {name}", default)
    from toto.studies.plan import plan as make_plan
    from toto.tokens.store import TokenDataset
    from toto.tokens.vocabulary import Vocabulary

    datasets = [TokenDataset(path) for path in asked.recipe.data]
    vocabulary = Vocabulary(asked.codes, asked.grid, asked.grid)
    print(make_plan(asked.recipe, asked.gpus, asked.gpu, datasets, vocabulary).text())


def world_make(
    layout: Annotated[Positional[str], tyro.conf.arg(metavar="LAYOUT")],
    out: Annotated[Positional[Path], tyro.conf.arg(metavar="OUT")],
    count: int = 1000,
    seed: int = 0,
    size: int | None = None,
    frames: int | None = None,
    fps: int | None = None,
    policy: str | None = None,
    camera_motion: bool = False,
    workers: int = 2,
) -> None:
    """Render labelled pictures or videos of the embedded world, as a real data set is published.

    Args:
        layout: what is written: actions (Kinetics CSV), images (ImageFolder), davis, cater, ego4d
        out: folder to write to
        count: videos, sequences or pictures
        seed: seed of all scenes
        size: height of the frames in pixels (actions, images: 128; others: 240)
        frames: frames of each video (actions: 61, davis: 40, cater: 301, ego4d: 120)
        fps: frames a second (actions, ego4d: 30; davis, cater: 24)
        policy: cater alone: who moves at once, all_actions (the default) or max2action
        camera_motion: cater alone: the camera moves
        workers: processes that render
    """
    from toto.world.layouts import LAYOUTS, write_world

    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    at_least(1, count=count, workers=workers)
    given = {"policy": policy, "camera_motion": camera_motion or None}
    options = {name: value for name, value in given.items() if value is not None}
    write_world(LAYOUTS[layout], out, count, seed, size, frames, fps, workers, **options)
    print(out)


def tokenize(
    source: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE")],
    tokenizer: Path,
    out: Path,
    settings: OmitArgPrefixes[Ingest] = Ingest(),  # noqa: B008
    limits: OmitArgPrefixes[Limits] = LIMITS,
    workers: int = 2,
    device: str = "auto",
    engine: str = "local",
) -> None:
    """Turn media into a token data set.

    Args:
        source: folders, files, lists: LAYOUT:LOCATION?OPTION=VALUE, see docs/data.md
        tokenizer: folder of the tokenizer
        out: folder of the data set; begun there before, it goes on
        settings: what is written
        limits: what one file may take
        workers: processes that decode, for each device
        device: auto (every GPU, or mps, or cpu), or devices like cuda:0,cuda:1; not with ray
        engine: local, or ray: the GPUs or cores of a Ray cluster
    """
    from toto.media.sources import read_sources
    from toto.tokens.ingest import ingest, report_failures
    from toto.training.device import pick_devices

    if engine == "ray" and device != "auto":
        raise UserError(f"device {device!r}: with engine 'ray', the cluster says what there is")
    command = f"toto {shlex.join(sys.argv[1:])}"
    items = read_sources(source, out)
    devices = pick_devices(device) if engine != "ray" else []
    dataset = ingest(items, tokenizer, out, settings, command, workers, devices, engine, limits)
    report_failures(dataset)
    print(out)


def tokenizer_convert_dalle(encoder: Path, decoder: Path, out: Path) -> None:
    """Make a tokenizer of OpenAI's pickled dVAE; nothing in the pickles runs.

    Args:
        encoder: encoder.pkl of the release
        decoder: decoder.pkl of the release
        out: folder of the tokenizer
    """
    from toto.tokenizers.official import convert_dalle as run

    run(encoder, decoder, out)
    print(out)


def tokenizer_convert_taming(
    checkpoint: Annotated[Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    out: Path,
    config: Path | None = None,
    perceptual: Path | None = None,
) -> None:
    """Make a tokenizer of a VQGAN checkpoint of CompVis or LlamaGen; nothing in it runs.

    Args:
        checkpoint: what torch.save wrote, like last.ckpt or vq_ds16_c2i.pt
        out: folder of the tokenizer
        config: the model.yaml beside it, for a check; the weights say what their shape is
        perceptual: file to write the weights of LPIPS to, which CompVis' checkpoints hold beside
    """
    from toto.tokenizers.taming import convert_taming as run

    run(checkpoint, config, out, perceptual)
    print(out)


def tokenizer_fetch_dalle(
    out: Path,
    encoder: str = "https://cdn.openai.com/dall-e/encoder.pkl",
    decoder: str = "https://cdn.openai.com/dall-e/decoder.pkl",
) -> None:
    """Download OpenAI's dVAE, 390 MB, and make it a tokenizer.

    Args:
        out: folder of the tokenizer; a download that was broken off goes on
        encoder: address of encoder.pkl
        decoder: address of decoder.pkl
    """
    from toto.tokenizers.official import fetch_dalle as run

    run(out, encoder, decoder)
    print(out)


def manifest(
    kind: Annotated[Positional[str], tyro.conf.arg(metavar="KIND")],
    file: Annotated[Positional[str], tyro.conf.arg(metavar="FILE")],
    videos: str,
    out: Path,
) -> None:
    """List the videos of a released collection that are on disk, as a source.

    Args:
        kind: howto100m (HowTo100M_v1.csv) or ego4d (ego4d.json)
        file: the released list
        videos: folder of the videos
        out: the Parquet manifest to write
    """
    from toto.media.manifests import make_manifest

    made = make_manifest(kind, file, videos, out)
    console.print(f"{len(made.table)} videos; {made.missing} more are listed, but have no file")
    print(out)


def inspect(
    path: Annotated[Positional[Path], tyro.conf.arg(metavar="PATH")],
    deep: bool = False,
    sequences: int = 0,
    sheet: Path | None = None,
) -> None:
    """Say what a folder or file of ours holds.

    Args:
        path: a token data set, a run, a saved model, a tokenizer, or a media file
        deep: compare all of a token data set with what was recorded of it
        sequences: of a token data set or a run, name the items of so many training sequences
        sheet: a picture to write: decoded samples of a token data set, or those sequences
    """
    from toto.studies import datasets
    from toto.studies.inspect import describe, sequences_at
    from toto.tokens.store import TokenDataset

    at_least(0, sequences=sequences)
    if sheet is not None and sheet.suffix not in datasets.SUFFIXES:
        raise UserError(f"{sheet}: {', '.join(datasets.SUFFIXES)} can be written")
    print(describe(path, deep))
    if sequences:
        with sequences_at(path) as read:
            print(datasets.describe_sequences(read, sequences))
            if sheet is not None:
                datasets.sequence_sheet(read, sequences, sheet)
    elif sheet is not None:
        datasets.contact_sheet(TokenDataset(path), sheet)


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

    export_features(*_model_and_tokens(model, source, out, workers, device), out, layers, pool)
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

    loaded, dataset = _model_and_tokens(model, data, out, workers, device)
    print(run(loaded.model, dataset, loaded.frames, out, training).table())
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

    loaded, dataset = _model_and_tokens(model, data, out, workers, device)
    print(run(loaded.model, dataset, out, training).table())
    print(out)


def _model_and_tokens(
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


def demo(
    settings: Annotated[Demo, tyro.conf.arg(name="")] = demo_recipes.demo(),  # noqa: B008
    videos: Path | None = None,
    out: Path = Path("runs/demo"),
) -> None:
    """Do the main job in small: videos to a trained model and a report.

    Args:
        settings: what is made and trained
        videos: a folder of videos of your own in place of the embedded world
        out: folder to write to; begun there before, it goes on
    """
    from toto.demo import run_demo

    print(run_demo(settings, videos, out))


def tokenizer_eval(
    tokenizer: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TOKENIZER")],
    source: tuple[str, ...],
    out: Path | None = None,
    frames: int = 512,
    size: int = 128,
    batch: int = 32,
    workers: int = 2,
    device: str = "auto",
) -> None:
    """Say how good tokenizers are, side by side; see docs/tokenizers.md.

    Args:
        tokenizer: folders of tokenizers
        source: what they are shown: folders, files, lists, see docs/data.md
        out: folder to write tokenizers.json and reconstructions.png to
        frames: how many frames, spread evenly over the items
        size: side of the frames in pixels
        batch: frames that are encoded and decoded at once
        workers: processes that decode media
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    from toto.media.sources import read_sources
    from toto.studies.tokenizers import evaluate
    from toto.training.device import pick_device

    items = read_sources(source, out)
    picked = str(pick_device(device))
    print(evaluate(tokenizer, items, out, frames, size, batch, workers, picked).text())
    if out is not None:
        print(out)


def study_mup(
    out: Path,
    settings: OmitArgPrefixes[MupStudy] = MupStudy(),  # noqa: B008
) -> None:
    """Check at small widths that muP keeps the best learning rate; see docs/mup.md.

    Args:
        out: folder to write to; begun there before, it goes on
        settings: what is trained
    """
    from toto.studies.mup import study_mup as run

    print(run(settings, out).text())
    print(out)


def study_curves(
    run: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")], out: Path
) -> None:
    """Draw losses and gradient norms of pre-training runs; see docs/training.md.

    Args:
        run: folders of runs, under way or done
        out: the picture to write, .svg
    """
    from toto.studies.curves import draw_curves

    draw_curves(run, out)
    print(out)


def study_tokens(
    dataset: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DATASET")],
    out: Path,
) -> None:
    """Count n-grams of codes, and what a code's neighbours say of it; see docs/tokenizers.md.

    Args:
        dataset: token data sets, one for each tokenizer that is compared
        out: folder to write to; what was counted there is not counted again
    """
    from toto.studies.tokens import study_tokens as run

    for found in run(dataset, out):
        print(found.text())
    print(out)


COMMANDS: dict[str, Command] = {
    "demo": _command(demo),
    "world make": _command(world_make),
    "tokenizer train": _recipe_command(
        "Train a tokenizer on the frames of a source.",
        _TrainTokenizer,
        tokenizer_recipes.RECIPES,
    ),
    "tokenizer convert dalle": _command(tokenizer_convert_dalle),
    "tokenizer convert taming": _command(tokenizer_convert_taming),
    "tokenizer fetch dalle": _command(tokenizer_fetch_dalle),
    "tokenizer eval": _command(tokenizer_eval),
    "tokenize": _command(tokenize),
    "manifest": _command(manifest),
    "inspect": _command(inspect),
    "pretrain": _recipe_command(
        "Train a model to predict the next token.",
        _Pretrain,
        pretrain_recipes.RECIPES,
    ),
    "adopt": _command(adopt),
    "plan": plan,
    "generate": _command(generate),
    "features": _command(features),
    "probe actions": _command(probe_actions),
    "probe images": _command(probe_images),
    "study mup": _command(study_mup),
    "study tokens": _command(study_tokens),
    "study curves": _command(study_curves),
}

"""Run folders: a recipe becomes a run, and a run is rebuilt from its config.json alone."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toto.config import differences, from_dict, read_json, to_dict, write_json
from toto.errors import UserError
from toto.media.frame_pool import frame_pool
from toto.media.sources import read_sources
from toto.media.view import View
from toto.progress import console
from toto.tokens.loader import Sequences, freeze
from toto.tokens.mixture import Manifest, in_validation
from toto.tokens.store import TokenDataset
from toto.training.config import Pretrain, TrainDVAE, TrainTokenizer, TrainVQGAN
from toto.training.device import pick_device
from toto.training.initial import check_init_from
from toto.training.loop import train
from toto.training.objectives.dvae import TrainDVAEObjective
from toto.training.objectives.next_patch import NextPatch
from toto.training.objectives.next_token import NextToken
from toto.training.objectives.perceptual import Perceptual
from toto.training.objectives.vqgan import TrainVQGANObjective
from toto.training.world import World, in_turn, join_world, one_writer

# What config.json calls a run, by its recipe.
_KINDS = {"pretrain": Pretrain, "dvae": TrainDVAE, "vqgan": TrainVQGAN}
# Fields of the loop that a run may go on with others of: they change none of its numbers, or only
# rounding.
_FREE = {
    *("device", "compile", "sharding", "recompute", "skip_bad_steps", "trackers"),
    *("log_every", "validate_every", "checkpoint_every", "keep_checkpoints", "keep_hours"),
}
_OBJECTIVES = {TrainDVAE: TrainDVAEObjective, TrainVQGAN: TrainVQGANObjective}


@dataclass(frozen=True)
class _Manifests:
    train: Manifest
    validation: Manifest


def versions() -> dict[str, str]:
    """What a result depends on beside the code's own configuration."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def pretrain(config: Pretrain, run: Path, workers: int = 2, profile: bool = False) -> None:
    """Begin or continue pre-training in `run`; `run/model` is the result.

    `workers` decode the clips of data sets that store no codes; `profile` says where time goes.

    Raises:
        UserError: the run was begun with other settings, or the data do not fit.
    """
    device = pick_device(config.loop.device)
    with join_world(device) as world, one_writer(run, world):
        shares = shares_of(config.batch, config.micro_batch, "sequences", world)
        manifests = _frozen(config, run)
        how = str(device), workers
        with (
            Sequences(manifests.train, *how) as seen,
            Sequences(manifests.validation, *how) as held_out,
        ):
            kind = NextPatch if seen.datasets[0].is_pixels else NextToken
            objective = kind(config, seen, held_out)
            check_init_from(config, objective.model, objective.details)
            in_turn(world, lambda: _begin(config, run, {"manifests": to_dict(manifests)}))
            if world.is_first:
                console.print("\n".join([shares + _divided(config, world), *_paces(seen)]))
            train(objective, config.loop, run, "pre-train", world, profile)


def train_tokenizer(config: TrainTokenizer, run: Path, workers: int, profile: bool = False) -> None:
    """Begin or continue the training of a tokenizer in `run`; `run/tokenizer` is the result.

    Raises:
        UserError: the run was begun with other settings, or the source cannot be used.
    """
    device = pick_device(config.loop.device)
    if config.loop.sharding != "none":
        raise UserError("sharding is for models: every process holds a tokenizer whole")
    if not config.source:
        raise UserError("no source is given: a folder, a file, or a CSV file")
    with join_world(device) as world, one_writer(run, world):
        shares = shares_of(config.batch, config.micro_batch, "frames", world)
        if isinstance(config, TrainVQGAN) and config.perceptual:
            Perceptual(config.perceptual)  # says what is wrong with it before all decoding
        pools = in_turn(world, lambda: _pools(config, run, workers))
        objective = _OBJECTIVES[type(config)](config, *pools)
        if world.is_first:
            console.print(shares)
        train(objective, config.loop, run, "train tokenizer", world, profile)


def resume(
    kind: type[Pretrain | TrainTokenizer], run: Path, workers: int = 2, profile: bool = False
) -> None:
    """Continue the run in a folder from its config.json.

    Raises:
        UserError: the folder is no run, or one of another kind.
    """
    values = read_json(run / "config.json", "a run")
    where = f"{run}/config.json"
    if values.get("kind") not in _KINDS or "recipe" not in values:
        raise UserError(f"{run} is no run that can be continued")
    its = _KINDS[values["kind"]]
    if not issubclass(its, kind):
        raise UserError(f"{run} is a run of another kind: {values['kind']}")
    recipe = from_dict(its, values["recipe"], where)
    if isinstance(recipe, Pretrain):
        pretrain(recipe, run, workers, profile)
    else:
        train_tokenizer(recipe, run, workers, profile)


def shares_of(batch: int, micro_batch: int, what: str, world: World) -> str:
    """How the processes share a step, in words.

    Raises:
        UserError: they cannot.
    """
    each = micro_batch * world.size
    if batch % each:
        raise UserError(
            f"batch {batch} is no multiple of micro_batch {micro_batch} x {world.size} processes"
        )
    return f"a step: {batch} {what} = {world.size} processes x {batch // each} x {micro_batch}"


def _paces(sequences: Sequences) -> list[str]:
    """Which data sets keep frames at another pace than the first, whose view the model records."""
    first, lines = sequences.datasets[0], {}
    for dataset in sequences.datasets:
        if different := differences(dataset.reading, first.reading):
            lines[dataset.folder] = (
                f"{dataset.folder}: {'; '.join(different)} of {first.folder}, as the model will say"
            )
    return list(lines.values())


def _divided(config: Pretrain, world: World) -> str:
    if config.loop.sharding == "none" or world.size > 1:
        return ""
    return f"; sharding {config.loop.sharding}: one process holds all"


def _frozen(config: Pretrain, run: Path) -> _Manifests:
    """The manifests that the run was begun with, or those to begin it with."""
    if (run / "config.json").exists():
        values = _begun(config, run)
        return from_dict(_Manifests, values["manifests"], f"{run}/config.json")
    datasets, targets = (
        [TokenDataset(path) for path in paths] for paths in (config.data, config.targets)
    )
    _check_reads(config, datasets, targets)
    return _Manifests(
        *(
            freeze(
                datasets,
                config.weights,
                config.frames,
                config.loop.seed,
                split,
                config.validation_fraction,
                targets,
            )
            for split in ("train", "validation")
        )
    )


def _check_reads(
    config: Pretrain, datasets: list[TokenDataset], targets: list[TokenDataset]
) -> None:
    """Refuse data that are not those of a recipe that says which it is of."""
    for dataset in datasets:
        its = "patches" if dataset.is_pixels else "codes"
        if config.reads not in ("any", its, f"{its}_to_codes"):
            raise UserError(f"{dataset.folder} holds {its}, this recipe reads {config.reads}")
        if config.kind and (others := set(dataset.encoded("kind")[0]) - {config.kind}):
            raise UserError(
                f"{dataset.folder} holds {others.pop()}s, this recipe reads {config.kind}s alone"
            )
        grid = config.grid, config.grid
        if config.grid and dataset.info.grid != grid:
            raise UserError(
                f"{dataset.folder} has a grid of {dataset.info.grid}, this recipe reads {grid}"
            )
    if config.reads == "patches_to_codes" and not targets:
        raise UserError("this recipe predicts codes of patches: give them as targets")
    if config.reads == "patches" and targets:
        raise UserError("this recipe predicts patches: give no targets")
    for dataset in targets or datasets:
        size = dataset.info.codebook_size
        if config.codebook_size and size != config.codebook_size:
            raise UserError(
                f"{dataset.folder} has {size} codes, this recipe is of {config.codebook_size}"
            )


def _pools(config: TrainTokenizer, run: Path, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames to train on and to validate on; once decoded, the source is not needed."""
    train, validation = run / "frames.npy", run / "validation.npy"
    decoded = train.exists() and validation.exists()
    items = [] if decoded else read_sources(config.source, run)
    _begin(config, run, {})
    # A source too small to spare an item is validated on what it is trained on.
    held_out = [item for item in items if in_validation(item.group, config.held_out)] or items
    kept = {item.key for item in held_out} if len(held_out) < len(items) else set()
    seen = [item for item in items if item.key not in kept]
    view = View(config.stride, config.size)
    # Squares to train on lie anywhere along the longer side.
    squares = View(config.stride, config.pool_size, crops=1)
    return (
        frame_pool(seen, squares, config.pool, train, workers),
        frame_pool(held_out, view, config.validation_frames, validation, workers),
    )


def _begin(config: Any, run: Path, more: dict[str, Any]) -> dict[str, Any]:
    """Write config.json, or check that the run was begun with the same recipe."""
    (kind,) = (name for name, recipe in _KINDS.items() if recipe is type(config))
    path = run / "config.json"
    values = {"kind": kind, "recipe": to_dict(config)}
    if not path.exists():
        write_json(path, values | more | {"versions": versions()})
    before = _begun(config, run)
    if before["recipe"] != values["recipe"]:
        changed = differences(before["recipe"], values["recipe"])
        console.print(f"{run} goes on with {'; '.join(changed)}")
        write_json(path, before | values)
    return before


def _begun(config: Any, run: Path) -> dict[str, Any]:
    """config.json of a run that is the recipe's, but for what may be otherwise.

    Raises:
        UserError: it is another one's.
    """
    before = read_json(run / "config.json", "a run")
    kind = str(before.get("kind"))
    if _KINDS.get(kind) is not type(config):
        raise UserError(f"{run} is a run of another kind: {kind}")
    old, new = (_of_experiment(recipe, kind) for recipe in (before.get("recipe"), to_dict(config)))
    if different := differences({"recipe": old}, {"recipe": new}):
        raise UserError(
            f"{run} was begun with other settings ({', '.join(different[:4])}): choose another "
            "folder, or continue it as it is with --resume"
        )
    return before


def _of_experiment(recipe: Any, kind: str) -> Any:
    """A recipe without what is of the machine, and of what is kept and told of a run."""
    if not isinstance(recipe, dict) or not isinstance(recipe.get("loop"), dict):
        return recipe
    loop = {name: value for name, value in recipe["loop"].items() if name not in _FREE}
    # A tokenizer's losses are of micro-batches.
    free = {"micro_batch"} if kind == "pretrain" else set()
    return {name: recipe[name] for name in recipe.keys() - free} | {"loop": loop}

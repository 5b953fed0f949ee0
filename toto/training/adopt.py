"""A LLaMA that was trained elsewhere, on the tokens of a data set, as a saved model."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toto.config import read_json, to_dict
from toto.errors import UserError, at_least
from toto.models.llama import Llama
from toto.models.saved import check_table, load_model, save_model
from toto.tokens.store import TokenDataset


def details_of(
    dataset: TokenDataset,
    frames: int,
    target: TokenDataset | None = None,
    kinds: Iterable[str] | None = None,
) -> dict[str, Any]:
    """What a saved model says of what it reads, `dataset` in clips of up to `frames`, and predicts.

    Its tokens are under "vocabulary", patches under "patches"; tokens of a `target` that patches
    predict under "target". "kinds" are those of its sequences, by default all of the data set.
    """
    details = {
        "patches" if dataset.is_pixels else "vocabulary": dataset.layout.to_dict(),
        "frames": frames,
        "kinds": sorted(dataset.encoded("kind")[0] if kinds is None else set(kinds)),
        # Stored crops are a matter of training alone.
        "view": to_dict(dataset.view.without_crops()),
        "tokenizer": dataset.info.tokenizer,
    }
    if target is not None:
        tokens = {"vocabulary": target.vocabulary.to_dict(), "tokenizer": target.info.tokenizer}
        details["target"] = tokens
    return details


def adopt(folder: Path, data: Path, out: Path, frames: int) -> None:
    """Write the LLaMA in `folder` to `out`, with the tokenizer, grid and view of a data set.

    Args:
        folder: config.json of a LlamaForCausalLM, and its weights in safetensors.
        data: the token data set that it was trained on.
        out: folder to write to.
        frames: frames of the longest clip that it reads.

    Raises:
        UserError: ours computes no such LLaMA, or the data set's ids or clips of so many frames do
            not fit it.
    """
    at_least(1, frames=frames)
    if out.exists():
        raise UserError(f"{out} exists: choose another folder")
    dataset = TokenDataset(data)
    model, before = load_model(folder)
    if not isinstance(model, Llama) or dataset.is_pixels:
        raise UserError(f"{folder} and {data}: a LLaMA and a data set of codes can be adopted")
    details = {**before, **details_of(dataset, frames)}
    for what in ("tokenizer", "vocabulary", "view"):
        if before.get(what, details[what]) != details[what]:
            raise UserError(
                f"{folder} was trained with {what} {before[what]}, {data} has {details[what]}"
            )
    check_table(folder, model.vocabulary, details["vocabulary"])
    positions = read_json(folder / "config.json", "a saved model").get("max_position_embeddings")
    rows, cols = details["vocabulary"]["grid"]
    if positions is not None and positions < frames * rows * cols:
        raise UserError(
            f"{folder} reads {positions} positions (max_position_embeddings): {frames} frames of "
            f"{rows}x{cols} codes are {frames * rows * cols}"
        )
    save_model(model, details, dataset.tokenizer_folder, out)

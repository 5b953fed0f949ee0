"""Official weights of others as tokenizers of ours."""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from toto.errors import UserError
from toto.files import only_writer, refuse_occupied
from toto.tokenizers.download import download
from toto.tokenizers.dvae import DVAE, ResidualBlock
from toto.tokenizers.pickles import Inert, describe, load_pickle
from toto.tokenizers.sizes import DVAESize

# What a module of OpenAI's release is made of (openai/DALL-E: dall_e/{encoder,decoder,utils}.py).
_DALLE = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.decoder.Decoder",
    "dall_e.decoder.DecoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.*",
)


def convert_dalle(encoder: Path, decoder: Path, out: Path) -> None:
    """Make a tokenizer of the two pickles of OpenAI's release, or of others of their classes.

    The shape is read off the weights.

    Raises:
        UserError: a file is something else, see also `load_pickle`; or `out` holds something.
    """
    refuse_occupied(out)
    modules = dict(_modules(_read(encoder, "dall_e.encoder.Encoder"), "encoder"))
    modules |= dict(_modules(_read(decoder, "dall_e.decoder.Decoder"), "decoder"))
    weights = {
        f"{name}.{parameter}": value
        for name, module in modules.items()
        for parameter, value in _entries(module, "_parameters", Tensor)
    }
    where = f"{encoder} with {decoder}"
    tokenizer = DVAE.of_weights(_size(weights, where), weights, where)
    for name, block in tokenizer.named_modules():
        if isinstance(block, ResidualBlock):
            gain = vars(modules[name]).get("post_gain")
            if gain != block.post_gain:
                raise UserError(
                    f"{where}: post_gain of {name} is {gain!r:.50}, not {block.post_gain}"
                )
    tokenizer.save(out)


def fetch_dalle(out: Path, encoder: str, decoder: str) -> None:
    """Download OpenAI's release from the addresses of its two files, and make it a tokenizer.

    The downloads are kept in `OUT.download` until the tokenizer is there.

    Raises:
        UserError: see `convert_dalle` and `download`.
        OSError: the connection failed; the next run continues.
    """
    refuse_occupied(out)
    folder = out.with_name(f"{out.name}.download")
    with only_writer(folder):
        files = folder / "encoder.pkl", folder / "decoder.pkl"
        for url, path in zip((encoder, decoder), files, strict=True):
            download(url, path)
        try:
            convert_dalle(*files, out)
        except UserError:
            shutil.rmtree(folder)  # going on with other files would end here again
            raise
        shutil.rmtree(folder)


def _read(path: Path, expected: str) -> Inert:
    found = load_pickle(path, _DALLE)
    if not isinstance(found, Inert) or describe(found) != expected:
        raise UserError(f"{path} holds {describe(found)}, where {expected} was expected")
    return found


def _modules(root: Inert, name: str) -> Iterator[tuple[str, Inert]]:
    """A module and those in it, each once, with their full names."""
    seen, left = set(), [(name, root)]
    while left:
        name, module = left.pop()
        if id(module) not in seen:
            seen.add(id(module))
            yield name, module
            left += [(f"{name}.{key}", child) for key, child in _entries(module, "_modules", Inert)]


def _entries(module: Inert, attribute: str, kind: type) -> Iterator[tuple[str, Any]]:
    """Those of an attribute, a dict, that are of a kind."""
    entries = vars(module).get(attribute)
    for key, value in entries.items() if isinstance(entries, dict) else ():
        if isinstance(value, kind):
            yield str(key), value


def _size(weights: Mapping[str, Tensor], where: str) -> DVAESize:
    """The shape of the tokenizer with these weights."""
    rows = {}
    for name in ("encoder.blocks.input", "encoder.blocks.output.conv", "decoder.blocks.input"):
        weight = weights.get(f"{name}.w")
        if weight is None or weight.ndim != 4 or len(weight) < 4:
            raise UserError(f"{where} does not fit: {name}.w is missing or no convolution's")
        rows[name] = len(weight)
    group = "encoder.blocks.group_1."
    return DVAESize(
        codebook_size=rows["encoder.blocks.output.conv"],
        width=rows["encoder.blocks.input"],
        groups=4,  # of a module of those classes always
        blocks=len({name.split(".")[3] for name in weights if name.startswith(group)}),
        decoder_input=rows["decoder.blocks.input"],
    )

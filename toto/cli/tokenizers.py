"""Commands that bring and judge tokenizers."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from toto.cli.parse import Command, command
from toto.tokenizers.sizes import Precision


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
    """Make a tokenizer of a VQGAN of CompVis, LlamaGen or diffusers; nothing in its file runs.

    Args:
        checkpoint: what torch.save wrote, like last.ckpt or vq_ds16_c2i.pt, or safetensors
        out: folder of the tokenizer
        config: the model.yaml beside it, for a check; the weights say what their shape is. A
            VQModel of diffusers needs its config.json
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


def tokenizer_patches(out: Path, patch: int = 8) -> None:
    """Make the continuous tokenizer: frames stay pixels, in patches; see docs/tokenizers.md.

    Args:
        out: folder of the tokenizer, which holds nothing yet
        patch: side of a patch in pixels
    """
    from toto.files import refuse_occupied
    from toto.tokenizers.patches import Patches
    from toto.tokenizers.sizes import PatchesSize

    refuse_occupied(out)
    Patches(PatchesSize(patch=patch)).save(out)
    print(out)


def tokenizer_eval(
    tokenizer: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="TOKENIZER")],
    source: tuple[str, ...],
    out: Path | None = None,
    frames: int = 512,
    size: int = 128,
    batch: int = 32,
    features: str | None = None,
    precision: tuple[Precision, ...] = (),
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
        features: what Fréchet distances are of: inception:FILE, or another encoder like
            dinov2:FOLDER; by default there are none
        precision: fp32 bf16, say, to compare each tokenizer's codes in both; by default it is the
            tokenizer's own
        workers: processes that decode media
        device: auto (cuda, mps, cpu in that order) or a device's name
    """
    from toto.media.sources import read_sources
    from toto.studies.tokenizers import evaluate
    from toto.training.device import pick_device

    items = read_sources(source, out)
    picked = str(pick_device(device))
    found = evaluate(
        tokenizer, items, out, frames, size, batch, workers, picked, features, precision
    )
    print(found.text())
    if out is not None:
        print(out)


COMMANDS: dict[str, Command] = {
    "tokenizer convert dalle": command(tokenizer_convert_dalle),
    "tokenizer convert taming": command(tokenizer_convert_taming),
    "tokenizer fetch dalle": command(tokenizer_fetch_dalle),
    "tokenizer patches": command(tokenizer_patches),
    "tokenizer eval": command(tokenizer_eval),
}

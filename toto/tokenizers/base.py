"""What every tokenizer offers, and how one is found in a folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8, UInt16
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from toto.config import fingerprint, from_dict, read_json, to_dict, write_json
from toto.errors import UserError, unknown
from toto.files import folder_atomically
from toto.tokenizers.sizes import Precision
from toto.weights import unfilled, weights_fingerprint, write_weights

Kind = TypeVar("Kind", bound="TokenizerModule")

_FILES = _CONFIG, _WEIGHTS = "config.json", "model.safetensors"

Codes = Int[Tensor, "n rows cols"] | UInt8[Tensor, "n 3 height width"]
"""What a tokenizer makes of frames: codes; the kind `patches` leaves them pixels."""
StoredCodes = UInt16[np.ndarray, "n rows cols"] | UInt8[np.ndarray, "n 3 height width"]
"""The same as data sets store it."""


@runtime_checkable
class Tokenizer(Protocol):
    """Frames to codes and back. It lives in a folder with `config.json` and `model.safetensors`."""

    codebook_size: int
    downsample: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits of weights, configuration and precision."""
        ...

    def encode(self, frames: UInt8[Tensor, "n 3 height width"]) -> Codes:
        """Codes of each frame."""
        ...

    def decode(self, codes: Codes) -> UInt8[Tensor, "n 3 height width"]:
        """Frames that the codes stand for."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer's folder, whole or not at all."""
        ...

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile encoding and decoding, see `torch.compile`."""
        ...


class TokenizerModule(nn.Module):
    """A tokenizer of learned weights; a kind of them says what the codes are.

    Weights are kept in fp32. In precision "bf16" the products are of bf16: the codes are others
    where the two nearest are about as near, so the fingerprint is another, too.
    """

    kind: ClassVar[str]
    """what `config.json` calls it"""
    size_kind: ClassVar[type]
    """the dataclass of its shape"""
    codebook_size: int
    downsample: int

    def __init__(self, size: Any, precision: Precision = "fp32") -> None:
        super().__init__()
        self.size, self.precision = size, precision
        self.codebook_size, self.downsample = size.codebook_size, size.downsample

    def to_codes(self, frames: UInt8[Tensor, "n 3 height width"]) -> Codes:
        """What `encode` gives."""
        raise NotImplementedError

    def to_frames(self, codes: Codes) -> UInt8[Tensor, "n 3 height width"]:
        """What `decode` gives."""
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "n 3 height width"]) -> Codes:
        """The codes of each frame, computed in the tokenizer's own precision.

        Raises:
            UserError: the frames' sides are no multiples of `downsample`.
        """
        height, width = frames.shape[-2:]
        if height % self.downsample or width % self.downsample:
            raise UserError(
                f"frames of {height}x{width}: this tokenizer needs multiples of {self.downsample}"
            )
        with self._own_precision(frames.device):
            return self.to_codes(frames)

    @torch.no_grad()
    def decode(self, codes: Codes) -> UInt8[Tensor, "n 3 height width"]:
        """The frames that the codes stand for, computed in the tokenizer's own precision."""
        with self._own_precision(codes.device):
            return self.to_frames(codes)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile encoding and decoding, each when it is first used.

        Rounding is another than without: a code may differ where two are equally near.
        """
        self.to_codes = torch.compile(self.to_codes, *args, **kwargs)  # type: ignore[method-assign]
        self.to_frames = torch.compile(self.to_frames, *args, **kwargs)  # type: ignore[method-assign]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits: equal codes need equal weights, configuration and precision."""
        return fingerprint([to_dict(self.size), self.precision, weights_fingerprint(self)])

    def save(self, folder: Path) -> None:
        """Write the tokenizer's folder, whole or not at all; one that was there is replaced.

        Raises:
            UserError: the folder holds something else.
        """
        if folder.exists() and any(path.name not in _FILES for path in folder.iterdir()):
            raise UserError(f"{folder} holds something else: choose another folder")
        config = {"kind": self.kind, "size": to_dict(self.size), "precision": self.precision}
        with folder_atomically(folder) as partial:
            write_weights(partial / _WEIGHTS, self.state_dict())
            write_json(partial / _CONFIG, config | {"fingerprint": self.fingerprint})

    @classmethod
    def load(cls: type[Kind], folder: Path, precision: Precision | None = None) -> Kind:
        """Read what `save` wrote; `precision` is by default the one that the folder names.

        Raises:
            UserError: the folder holds no such tokenizer, or its weights do not fit its
                configuration.
        """
        path = folder / _CONFIG
        config = read_json(path, "a tokenizer")
        size: Any = from_dict(cls.size_kind, config.get("size"), str(path))
        precision = precision or config.get("precision", "fp32")
        if precision not in get_args(Precision):
            raise unknown("precision", str(precision), get_args(Precision))
        weights = folder / _WEIGHTS
        try:
            return cls.of_weights(size, load_file(weights), str(weights), precision)
        except (OSError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{weights} does not fit: {reason}") from error

    @classmethod
    def of_weights(
        cls: type[Kind],
        size: Any,
        weights: Mapping[str, Tensor],
        where: str,
        precision: Precision = "fp32",
    ) -> Kind:
        """The tokenizer with these weights; `where` names them in an error.

        Raises:
            UserError: they are not exactly those of that size, or no numbers.
        """
        with unfilled():
            tokenizer = cls(size, precision)
        refuse_misfits(weights, tokenizer.state_dict(), where)
        floats = {name: value.float().contiguous() for name, value in weights.items()}
        for name, value in floats.items():
            if not value.isfinite().all():
                raise UserError(f"{where} is of no use: {name} holds NaN or infinity")
        tokenizer.load_state_dict(floats, assign=True)
        return tokenizer.eval().requires_grad_(False)

    @contextmanager
    def _own_precision(self, device: torch.device) -> Iterator[None]:
        """Whatever training is around, and whether or not it may round to TF32.

        In "bf16" what is left of fp32, like the product that decides a code, may be: its operands
        have been rounded to less.
        """
        convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
        before = convolutions.allow_tf32, products.allow_tf32
        convolutions.allow_tf32 = products.allow_tf32 = self.precision == "bf16"
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                yield
        finally:
            convolutions.allow_tf32, products.allow_tf32 = before


def refuse_misfits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Compare weights by name, shape and kind of number.

    Raises:
        UserError: one is missing, unknown or different; the first three are named.
    """
    misfits = [f"{name} is missing" for name in expected if name not in found]
    misfits += [f"{name} is unknown" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        shape, wanted = [*found[name].shape], [*expected[name].shape]
        if shape != wanted:
            misfits.append(f"{name} is {shape}, not {wanted}")
        elif not found[name].is_floating_point():
            misfits.append(f"{name} is of {found[name].dtype}, not floating point")
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        first = " ".join("; ".join(sorted(misfits)[:3]).split())
        raise UserError(f"{where} does not fit: {first:.500}{more}")


def codes_of(
    tokenizer: Tokenizer, frames: UInt8[np.ndarray, "n 3 height width"], device: str
) -> StoredCodes:
    """The codes of frames as they are stored; `device` is the tokenizer's."""
    codes = tokenizer.encode(torch.from_numpy(frames).to(device)).cpu().numpy()
    return codes if codes.dtype == np.uint8 else codes.astype(np.uint16)


def frames_of(tokenizer: Tokenizer, codes: StoredCodes) -> UInt8[np.ndarray, "n 3 height width"]:
    """The frames that stored codes stand for, of a tokenizer on the CPU."""
    codes = codes if codes.dtype == np.uint8 else codes.astype(np.int64)
    return tokenizer.decode(torch.from_numpy(codes)).numpy()


def load_tokenizer(
    folder: Path, device: str = "cpu", precision: Precision | None = None
) -> Tokenizer:
    """Open the tokenizer in `folder` on `device`; its own precision is what the folder names.

    Raises:
        UserError: the folder holds no tokenizer, or one of a kind that is not known.
    """
    from toto.tokenizers.dvae import DVAE
    from toto.tokenizers.patches import Patches
    from toto.tokenizers.vqgan import VQGAN

    kinds: dict[str, type[TokenizerModule]] = {"dvae": DVAE, "patches": Patches, "vqgan": VQGAN}
    for own in (folder / "tokenizer", folder / "model" / "tokenizer"):
        if (own / _CONFIG).exists():
            raise UserError(f"{folder} is no tokenizer: its own is {own}")
    kind = str(read_json(folder / _CONFIG, "a tokenizer").get("kind"))
    if kind not in kinds:
        raise unknown("kind of tokenizer", kind, kinds)
    return kinds[kind].load(folder, precision).to(device)

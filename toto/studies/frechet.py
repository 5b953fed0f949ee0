"""Fréchet distances: how far what was made lies from what is real, as sets of features.

Of Inception's features it is the FID (Heusel et al. 2017); of a folder of any other encoder it is
the same distance in another space (Stein et al. 2023 argue for DINOv2's).
"""

from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from toto.errors import UserError
from toto.probing.baselines import load_baseline
from toto.probing.baselines.base import Baseline

Frames = UInt8[Tensor, "n 3 height width"]


class Frechet:
    """Distances of sets of frames to the `real` ones, whose features are computed once.

    Raises:
        UserError: there are fewer than two real frames.
    """

    def __init__(self, features: nn.Module, real: Frames, batch: int) -> None:
        if len(real) < 2:
            raise UserError(f"frames {len(real)}: a Fréchet distance needs at least 2")
        self.features, self.batch = features, batch
        self.real = self._of(real)

    def __call__(self, made: Frames) -> float:
        """How far `made` lies from the real frames; 0 if they are the same."""
        return frechet_distance(self.real, self._of(made))

    @torch.no_grad()
    def _of(self, frames: Frames) -> Float[Tensor, "n c"]:
        return torch.cat([self.features(part) for part in frames.split(self.batch)])


def frechet_distance(one: Float[Tensor, "n c"], two: Float[Tensor, "m c"]) -> float:
    """`|m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2))`, of the features' means and covariances.

    With S = R'R the last trace is the nuclear norm of R1 R2'. That is exact where there are fewer
    frames than features, and quick: of 2,048 features torchmetrics' eigenvalues take a minute.
    """
    one, two = one.double(), two.double()
    r1, r2 = _factor(one), _factor(two)
    means = (one.mean(0) - two.mean(0)).square().sum()
    traces = r1.square().sum() + r2.square().sum()
    return max(float(means + traces - 2 * torch.linalg.matrix_norm(r1 @ r2.T, "nuc")), 0.0)


def _factor(features: Float[Tensor, "n c"]) -> Float[Tensor, "r c"]:
    """R of the covariance R'R."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R


def load_features(name: str, device: str) -> nn.Module:
    """What gives features of frames: `inception:FILE`, or another encoder by its name.

    Raises:
        UserError: see `load_baseline`, or the file holds no TorchScript.
    """
    kind, _, place = name.partition(":")
    if kind == "inception":
        return _Inception(Path(place), device)
    return _Means(load_baseline(name, device))


class _Means(nn.Module):
    """The mean over the places of an encoder's last layer."""

    def __init__(self, encoder: Baseline) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Frames) -> Float[Tensor, "n c"]:
        last = self.encoder.layers
        return self.encoder.hidden_states(frames[:, None], [last])[last].mean(1).cpu()


class _Inception(nn.Module):
    """Inception v3 of TensorFlow's FID, as TorchScript (NVlabs/stylegan2-ada-pytorch: metrics/).

    It resizes frames to 299 px by itself.
    """

    def __init__(self, path: Path, device: str) -> None:
        super().__init__()
        if not path.is_file():
            raise UserError(f"{path}: no such file, for Inception in TorchScript")
        try:
            self.network = torch.jit.load(path, map_location=device).eval()
        except RuntimeError as error:
            raise UserError(f"{path} holds no TorchScript") from error
        self.device = device

    def forward(self, frames: Frames) -> Float[Tensor, "n c"]:
        return self.network(frames.to(self.device), return_features=True).cpu()

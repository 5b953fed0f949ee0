"""What a planned run reads: the user's data sets, or those of the paper."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from toto.tokens.loader import freeze
from toto.tokens.patches import PatchGrid
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Layout, Vocabulary
from toto.training.config import Pretrain

CODE_BYTES = 2  # of a stored code, uint16

_PAPER = Vocabulary(8192, 16, 16)


@dataclass(frozen=True)
class Source:
    """One source of a mixture."""

    name: str
    kind: str
    """"video" or "image\""""
    weight: int
    """sequences from it in every block"""
    clips: float
    """clips, or images, in an epoch"""

    def frames(self, recipe: Pretrain) -> float:
        """Frames in an epoch, short clips padded."""
        return self.clips * (recipe.frames if self.kind == "video" else 1)


@dataclass(frozen=True)
class Data:
    """All that a run reads."""

    known: str
    """where it is known from"""
    sources: tuple[Source, ...]
    layout: Layout
    """of its frames"""
    target: Vocabulary | None
    """of the tokens that patches predict; None: of what is read"""
    stored: int | float
    """bytes on disk"""


def of_the_paper(recipe: Pretrain, patch: int) -> Data:
    """The paper's sources of the kind that a recipe reads, in frames as it reads them."""
    grid = recipe.grid or _PAPER.rows
    codes = Vocabulary(recipe.codebook_size or _PAPER.codebook_size, grid, grid)
    reads_patches = recipe.reads.startswith("patches")
    layout = PatchGrid(patch, grid, grid) if reads_patches else codes
    sources = tuple(s for s in _mixture(recipe.frames) if recipe.kind in (None, s.kind))
    what = sources[0].name if len(sources) == 1 else "mixture"
    return Data(
        known=f"the paper's {what} and sizes, at stride 4 (Table 2)",
        sources=sources,
        layout=layout,
        target=codes if recipe.reads == "patches_to_codes" else None,
        stored=_bytes_of(layout) * layout.frame * sum(s.frames(recipe) for s in sources),
    )


def of_data_sets(
    recipe: Pretrain, datasets: Sequence[TokenDataset], targets: Sequence[TokenDataset]
) -> Data:
    """Data sets, in the proportions of a recipe.

    Raises:
        UserError: they do not fit together.
    """
    return Data(
        known="your data sets",
        sources=_sources(recipe, datasets),
        layout=datasets[0].layout,
        target=targets[0].vocabulary if targets else None,
        stored=_stored(datasets),
    )


def _mixture(frames: int) -> tuple[Source, ...]:
    """Toto, Table 2, in clips of so many frames.

    It counts tokens of all frames of a video; every fourth is kept.
    """
    clip = 4 * frames * _PAPER.frame
    return (
        Source("ImageNet", "image", 2, 3.6e9 / _PAPER.frame),
        Source("Kinetics-600", "video", 1, 41.3e9 / clip),
        Source("Ego4D", "video", 1, 103e9 / clip),
        Source("HowTo100M", "video", 6, 2560e9 / clip),
    )


def _bytes_of(layout: Layout) -> int:
    """Of a stored code, or patch."""
    return layout.values if isinstance(layout, PatchGrid) else CODE_BYTES


def _sources(recipe: Pretrain, datasets: Sequence[TokenDataset]) -> tuple[Source, ...]:
    manifest = freeze(
        datasets,
        recipe.weights,
        recipe.frames,
        recipe.loop.seed,
        "train",
        recipe.validation_fraction,
    )
    folders = {str(dataset.folder.absolute()): str(dataset.folder) for dataset in datasets}
    kinds = Counter(entry.path for entry in manifest.entries)
    return tuple(
        Source(
            # A data set can hold both kinds.
            folders[entry.path] + (f" ({entry.kind}s)" if kinds[entry.path] > 1 else ""),
            entry.kind,
            entry.weight,
            float(entry.clips),
        )
        for entry in manifest.entries
    )


def _stored(datasets: Sequence[TokenDataset]) -> int:
    stored = [dataset for dataset in datasets if not dataset.is_online]
    return sum(
        _bytes_of(dataset.layout) * int(dataset.column("frames").sum()) * dataset.layout.frame
        for dataset in stored
    )

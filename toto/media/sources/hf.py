"""Hugging Face `datasets` with a column of images or videos."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toto.errors import UserError, unknown
from toto.media.file import short
from toto.media.item import Item
from toto.media.sources.layout import Layout, split_of
from toto.media.sources.places import name_of

_MARKS = ("dataset_dict.json", "state.json")


@dataclass(frozen=True, kw_only=True)
class HuggingFace(Layout):
    """A dataset of the hub or of `load_dataset` (`owner/name`), or a folder of `save_to_disk`.

    Files within the dataset are read in place from its Arrow files, those beside it by their
    paths. Names of classes are the labels. A key is `<name>/<split>/<row>`.

    Attributes:
        split: which split to read, as the dataset calls it; all of them if not given.
        config: which configuration of the dataset.
        column: the column of images or videos, where there are several.
        label: the column of labels.
    """

    config: str | None = None
    column: str | None = None
    label: str = "label"

    def items(self) -> Iterator[Item]:
        for split, dataset in self._splits():
            files, before = _files(self.location, dataset), 0
            for file in files:
                yield from self._file(file, split, before)
                before += files[file]

    def split_for(self, key: str, told: str | None) -> str | None:
        return told

    def _file(self, place: str, split: str | None, before: int) -> Iterator[Item]:
        import pyarrow as pa

        from toto.media.sources.cells import Cells, choose_column, label_names, media_columns

        with pa.memory_map(place) as mapped:
            reader = pa.ipc.open_stream(mapped)
            schema = reader.schema
            cells = Cells(
                layout=self,
                place=place,
                column=choose_column(media_columns(schema), self.column, self.location),
                prefix="/".join(filter(None, (name_of(self.location), split))),
                label=self.label,
                names=label_names(schema, self.label),
                split=split_of(split or ""),
                before=before,
            )
            others = [self.label] if self.label in schema.names else []
            yield from cells.items(
                (batch.column(cells.column), batch.select(others)) for batch in reader
            )

    def _splits(self) -> list[tuple[str | None, Any]]:
        try:
            from datasets import DatasetDict, load_dataset, load_from_disk
        except ImportError:
            raise UserError("source hf: needs the package datasets: toto[hf]") from None
        if self.split is not None and not self.split.isidentifier():
            raise UserError(f"split {self.split!r}: the name of one split, without slices")
        try:
            if is_saved(self.location):
                found = load_from_disk(self.location)
            else:
                found = load_dataset(self.location, self.config)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"hf:{self.location}: {short(error)}") from None
        if not isinstance(found, DatasetDict):
            return [(self._only(found), found)]
        if self.split is None:
            return list(found.items())
        if self.split not in found:
            raise unknown(f"split of {self.location!r}:", self.split, found)
        return [(self.split, found[self.split])]

    def _only(self, dataset: Any) -> str | None:
        """The split of a dataset that is one: what it says, or what the user says."""
        told = None if dataset.split is None else str(dataset.split)
        if told and self.split and split_of(told) != split_of(self.split):
            raise UserError(f"{self.location!r} is split {told!r}, not {self.split!r}")
        return told or self.split


def is_saved(folder: str) -> bool:
    """Whether it is a folder that `save_to_disk` has written."""
    return any((Path(folder) / mark).is_file() for mark in _MARKS)


def _files(location: str, dataset: Any) -> dict[str, int]:
    """The Arrow files that a dataset consists of, in order, and how many rows each has."""
    import pyarrow as pa

    files = {}
    for file in dataset.cache_files:
        with pa.memory_map(file["filename"]) as mapped:
            files[file["filename"]] = pa.ipc.open_stream(mapped).read_all().num_rows
    if dataset._indices is not None or sum(files.values()) != len(dataset):
        raise UserError(
            f"{location!r} is a selection or another order of its files' rows: "
            "write it with save_to_disk first"
        )
    return files

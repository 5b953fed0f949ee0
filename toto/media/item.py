"""What a source lists: items, and where their frames are."""

from dataclasses import dataclass

from toto.errors import UserError


def is_url(place: str) -> bool:
    """Whether fsspec opens it."""
    return "://" in place


@dataclass(frozen=True, slots=True)
class Location:
    """Where the frames of one item are.

    Attributes:
        path: a file, a folder of numbered frames, or a URL that fsspec opens.
        part: what of the file it is; None: all of it. "bytes:OFFSET+SIZE" of an uncompressed
            archive, "member:NAME" of a compressed one, "row:N:COLUMN" of a table of files' bytes,
            "frames": the folder is one video, a file a frame.
        start: seconds from the first frame; None: from the first frame on.
        end: seconds from the first frame, exclusive; None: to the last frame.
        fps: frames a second that the source tells; overrides what the file says of itself.
    """

    path: str
    part: str | None = None
    start: float | None = None
    end: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        start = self.start or 0.0
        if not start >= 0 or (self.end is not None and not self.end > start):
            raise UserError(f"{self.path!r}: a segment from {self.start} to {self.end} s")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UserError(f"{self.path!r}: {self.fps} frames a second")

    @property
    def is_random_access(self) -> bool:
        """Whether it can be read without reading what lies before it."""
        return self.part is None or not self.part.startswith("member:")


@dataclass(frozen=True, slots=True)
class Item:
    """One image, one video, or one segment of a video.

    Attributes:
        location: where its frames are.
        key: what it is called within its sources, with forward slashes; unique among them.
        label: its class, where the source tells.
        split: "train", "val" or "test", where the source tells.
        source: the source that listed it, as the user named it.
    """

    location: Location
    key: str
    label: str | None = None
    split: str | None = None
    source: str = ""

    @property
    def group(self) -> str:
        """What it stays together with when items are held out: its file's key, of a segment."""
        if self.location.start is None and self.location.end is None:
            return self.key
        return self.key.rpartition("@")[0] or self.location.path

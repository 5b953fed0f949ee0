"""Videos found by their ids, wherever they lie below a folder."""

from toto.errors import UserError
from toto.media.sources.layout import VIDEOS, suffix_of
from toto.media.sources.places import files_below


class Stems:
    """Finds `ID.mp4` (or .webm, .mkv ...) anywhere below a folder by its ID."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._paths: dict[str, str] = {}
        self._twins: dict[str, str] = {}
        for path in files_below(folder):
            if suffix_of(path) in VIDEOS:
                stem = path.rpartition("/")[2].rpartition(".")[0]
                if self._paths.setdefault(stem, path) != path:
                    self._twins[stem] = path

    def find(self, stem: str) -> str | None:
        """The path of a video, relative to the folder.

        Raises:
            UserError: there are two.
        """
        if stem in self._twins:
            raise UserError(
                f"folder {self.folder!r}: both {self._paths[stem]!r} and {self._twins[stem]!r} "
                f"are {stem!r}: name a folder that holds one of them"
            )
        return self._paths.get(stem)

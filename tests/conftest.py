import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Iterator[Warm]:
    process = Warm(tmp_path_factory.mktemp("warm"))
    yield process
    process.close()


@pytest.fixture(scope="session")
def real() -> Path:
    folder = os.environ.get("TOTO_REAL_DATA")
    if not folder:
        pytest.skip("TOTO_REAL_DATA is not set")
    return Path(folder)

import os
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(scope="session")
def real():
    folder = os.environ.get("TOTO_REAL_DATA")
    if not folder:
        pytest.skip("TOTO_REAL_DATA is not set")
    return Path(folder)


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]

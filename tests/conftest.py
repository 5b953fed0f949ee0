from collections.abc import Iterator

import pytest

from tests.commands import Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Iterator[Warm]:
    process = Warm(tmp_path_factory.mktemp("warm"))
    yield process
    process.close()

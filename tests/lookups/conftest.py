"""The region that the models of models/lookup_path.py see."""

import pytest

from ..models import current


@pytest.fixture(autouse=True)
def first_region():
    current["region"] = "eu"
    yield
    current["region"] = "eu"

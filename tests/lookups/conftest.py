"""The current region of the models in models/lookup_path.py."""

import pytest

from ..models import current


@pytest.fixture(autouse=True)
def first_region():
    current["region"] = "eu"
    yield
    current["region"] = "eu"

"""
The columns of all contenders. Their tables are twins. Only the managers
differ.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import models

from .cases import MIXES

# The tables of each contender, and how many rows they have: one is read, one
# is written, and one has only the rows that a call creates. Each mix has its
# own table, because a process decides by its earlier lookups of a model
# whether to read the cache.
TABLES = {
    "read": 1_000,
    "written": 10_000,
    "created": 0,
    "large": 1_000_000,
    **dict.fromkeys(MIXES, 10),
}


class Row(models.Model):
    name = models.CharField(max_length=50, unique=True)
    description = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    active = models.BooleanField()
    added = models.DateTimeField()
    count = models.IntegerField()

    class Meta:
        abstract = True

    def __str__(self):
        return self.name


def make_model(contender, table, manager):
    """Return a model with the columns of Row and a table of its own."""
    name = f"{contender}_{table}".replace("-", "_")
    return type(Row)(name, (Row,), {"__module__": __name__, "objects": manager})


def rows_of(numbers, value=0):
    """Return (name, defaults) of rows, as get_or_create() takes them."""
    return [
        (
            f"row-{number}",
            {
                "description": f"Row {number}, with as much text as a title has.",
                "price": Decimal(number % 1_000_000).scaleb(-2),
                "active": number % 2 == 0,
                "added": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
                "count": value,
            },
        )
        for number in numbers
    ]

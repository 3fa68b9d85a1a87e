"""Its SELECTs are logged as they are executed."""

from django.db.models.sql.compiler import (
    SQLAggregateCompiler,
    SQLDeleteCompiler,
    SQLInsertCompiler,
    SQLUpdateCompiler,
)
from django.db.models.sql.compiler import SQLCompiler as DjangoCompiler

__all__ = [
    "SQLAggregateCompiler",
    "SQLCompiler",
    "SQLDeleteCompiler",
    "SQLInsertCompiler",
    "SQLUpdateCompiler",
]


class SQLCompiler(DjangoCompiler):
    executed = []

    def execute_sql(self, *args, **kwargs):
        self.executed.append(self.as_sql())
        return super().execute_sql(*args, **kwargs)

"""SQLite, with the compiler beside this module."""

from django.db.backends.sqlite3 import base
from django.db.backends.sqlite3.operations import DatabaseOperations


class Operations(DatabaseOperations):
    compiler_module = "tests.selects.backend.compiler"


class DatabaseWrapper(base.DatabaseWrapper):
    ops_class = Operations

"""A database backend whose compiler has its own execute_sql()."""

"""A database backend whose compiler has an execute_sql() of its own."""

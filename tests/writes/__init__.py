"""The effects of each kind of SQL on the rows in the cache."""

"""What each kind of SQL does to the rows in the cache."""

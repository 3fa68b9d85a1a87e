"""bulk_get_or_create(): its rows, its statements and its races."""

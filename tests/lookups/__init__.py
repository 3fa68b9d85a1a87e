"""Which lookups and values are one, and how rows are stored."""

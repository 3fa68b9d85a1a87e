"""Equal lookups and values, and the form in which rows are stored."""

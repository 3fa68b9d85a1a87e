"""get_or_create() and update_or_create(), next to twins of Django."""

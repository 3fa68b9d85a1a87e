"""What get_or_create() and update_or_create() do, next to twins of Django."""

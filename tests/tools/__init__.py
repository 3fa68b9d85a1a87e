"""The admin, checks, commands, panel, signals, triggers and test helpers."""

"""
What the tools report: why a call is a hit or a miss, which managers and caches
a model has, and which of their settings do harm.

Only tools import it: explaining, checks, admin, panels and the commands. It
may know all of the engine, and imports none of the tools. It reads the cache
and never changes it; it sends no query.
"""

WIDTH = 80  # columns of a text for a terminal

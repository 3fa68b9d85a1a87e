"""Databases, caches, processes and tenants of a process."""

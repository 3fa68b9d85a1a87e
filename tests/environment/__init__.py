"""Databases, caches, processes and tenants that a test run has."""

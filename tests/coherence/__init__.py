"""Reads of the cache during writes, transactions, failures and upgrades."""

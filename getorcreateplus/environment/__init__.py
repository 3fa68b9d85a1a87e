"""
Where the process runs: what of it may change, fail or interrupt a call.

These modules know Django's settings, the signals of the operating system, and
the objects in ``django.db.connections`` and ``django.core.cache.caches``. They
know no model, no lookup and no statement, and import nothing of the package.
"""

"""
The environment of the process, and what may change, fail or interrupt a call.

These modules know Django's settings, signal handlers, and the objects in
``django.db.connections`` and ``django.core.cache.caches``. They know no
lookup and no statement, and import nothing else of the package.

``aliases``           which caches and databases can be used
``databases``         which database an alias shows
``cache_keys``        which keys a cache makes
``cached_functions``  results that are kept until models or settings change
``failures``          errors of a cache in words
``interruptions``     exceptions of time limits, which are not failures
``forks``             what a child process renews
"""

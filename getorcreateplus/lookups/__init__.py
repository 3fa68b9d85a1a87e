"""
What a lookup is, and what a row is.

The modules here are pure: they see fields, queries and values, and neither a
cache, nor the state of a connection, nor a transaction. They import nothing of
the package but ``environment``.

``conditions``      the lookup that keyword arguments and filters make
``canonical``       values of which equal ones have one form
``queryset_shape``  what a query selects
``django_path``     whether a queryset runs Django's own steps, or others
``origin``          whose code a function is
``rows``            a row as plain data
``fingerprints``    what marks the rows of a release's fields
"""

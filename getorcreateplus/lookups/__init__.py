"""
Lookups, and rows as plain data.

The modules here are pure: they see fields, queries and values, but no cache,
no state of a connection and no transaction. They import only ``environment``
of this package.

``conditions``      the lookup that keyword arguments and filters make
``canonical``       values of which equal ones have one form
``queryset_shape``  what a query selects
``django_path``     whether a queryset runs Django's own steps, or others
``origin``          whose code a function is
``rows``            a row as plain data
``fingerprints``    what marks the rows of a release's fields
"""

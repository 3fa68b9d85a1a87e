"""
The SELECT of get(), compiled once.

Django builds a query and compiles it for each call of get(). That takes about
two thirds of the call's time, although the SQL is the same as in the last call
with these arguments. This folder keeps the SQL. The database is queried each
time, with Django's cursor and Django's parameters.

``shapes``      which calls have the same SQL
``parameters``  what Django sends for the values of a call
``compiling``   how Django compiles the SQL of a shape, and when it is kept
``running``     run a SELECT, and return its rows

These modules see querysets, connections and models, but no caches and no
transactions. They import ``lookups`` and the folders below it.
"""

"""
The SELECT of get(), compiled once.

Django builds a query and compiles it for each call of get(), which takes about
two thirds of the call's time, although the SQL is the same as in the last call
with these arguments. This folder keeps that SQL. The database is queried
each time, by Django's cursor, and with Django's parameters.

``shapes``      which calls have the same SQL
``parameters``  what Django sends for the values of a call
``compiling``   how Django compiles the SQL of a shape, and when it is kept
``running``     run a SELECT, and return its rows

These modules see querysets, connections and models, and neither caches nor
transactions. They import ``lookups`` and what is below it.
"""

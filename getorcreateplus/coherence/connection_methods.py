"""
Functions of this package that replace a connection's methods.

commit(), rollback() and others of a connection are replaced on the connection
itself, because Django sends no signal at the end of a transaction.
"""

from functools import partial, wraps

replacements = []  # (name of a connection's method, its replacement)


def watch_connection(connection):
    """Detect the end of each of its transactions."""
    known = vars(connection)
    count = known.get("getorcreateplus_replaced", 0)
    # unittest.mock deletes a method that it has temporarily replaced.
    lost = {name for name, _ in replacements[:count]} - known.keys()
    if lost or count < len(replacements):
        connection.getorcreateplus_replaced = len(replacements)
        for i, (name, replace) in enumerate(replacements):
            if i >= count or name in lost:
                replace(connection)


def replacing(name):
    """
    Decorate a function that replaces a connection's method. Its arguments are
    the connection, the method as other code has left it, and the method's own.
    """

    def decorate(function):
        def replace(connection):
            replaced = vars(connection).get(name)

            @wraps(getattr(connection, name))
            def method(*args, **kwargs):
                plain = replaced or partial(getattr(type(connection), name), connection)
                return function(connection, plain, *args, **kwargs)

            setattr(connection, name, method)

        replacements.append((name, replace))
        return function

    return decorate

"""Execute wrappers that go when their block ends, whatever others do."""


class Wrapper:
    """
    A context manager that watches the statements of a connection.

    connection.execute_wrapper() removes the last one of the list. That is
    another's, where somebody has appended or removed one in the block.
    """

    is_open = False

    def __init__(self, connection):
        self.connection = connection

    def __enter__(self):
        self.connection.execute_wrappers.append(self)
        self.is_open = True
        return self

    def __exit__(self, *exc_info):
        self.remove()

    def remove(self):
        """Return whether it was there, and so has seen all statements."""
        self.is_open = False
        wrappers = self.connection.execute_wrappers
        for place in range(len(wrappers) - 1, -1, -1):
            if wrappers[place] is self:
                del wrappers[place]
                return True
        return False

    def __call__(self, execute, sql, params, many, context):
        if not self.is_open:
            self.remove()  # Somebody has put an earlier list back.
            return execute(sql, params, many, context)
        return self.on_statement(execute, sql, params, many, context)

    def on_statement(self, execute, sql, params, many, context):
        raise NotImplementedError

"""Execute wrappers that last for one block, even if others change the list."""


class Wrapper:
    """
    A context manager that watches the statements of a connection.

    It removes itself by identity. Django's connection.execute_wrapper()
    removes the last wrapper in the list, which is the wrong one if other code
    has appended or removed a wrapper in the block.
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
        """
        Remove it. Return True if it was in the list, and saw all statements.
        """
        self.is_open = False
        wrappers = self.connection.execute_wrappers
        for place in range(len(wrappers) - 1, -1, -1):
            if wrappers[place] is self:
                del wrappers[place]
                return True
        return False

    def __call__(self, execute, sql, params, many, context):
        if not self.is_open:
            self.remove()  # Other code has put an earlier list back.
            return execute(sql, params, many, context)
        return self.on_statement(execute, sql, params, many, context)

    def on_statement(self, execute, sql, params, many, context):
        raise NotImplementedError

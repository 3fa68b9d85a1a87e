"""
Who is told of the commands that a transport gives to a server past Django's
cache API: getorcreateplus.test, which captures them.
"""

listeners = []  # functions of (alias, name of the command, keys)


def tell(alias, name, keys):
    for listener in listeners:
        listener(alias, name, list(keys))

"""
The listeners that a transport notifies of commands which it sends to a server
without Django's cache API. getorcreateplus.test captures them.
"""

listeners = []  # functions of (alias, name of the command, keys)


def notify(alias, name, keys):
    for listener in listeners:
        listener(alias, name, list(keys))

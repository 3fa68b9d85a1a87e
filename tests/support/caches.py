from getorcreateplus.test import CaptureCacheCommands


def commands(call):
    """Return the commands that the caches are given by a call, their names."""
    with CaptureCacheCommands() as made:
        call()
    return [command.method for command in made]

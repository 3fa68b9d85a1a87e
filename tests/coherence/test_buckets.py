"""
GETORCREATEPLUS_BUCKETS: the rows of a model on all servers of a cluster, and
the tests of a cluster with buckets.
"""

import itertools
import os
import signal
import threading
from contextlib import contextmanager

import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from getorcreateplus import invalidate
from getorcreateplus.coherence.entries import Entries, is_hint_key
from getorcreateplus.coherence.transports import redis_identity, transport_of
from getorcreateplus.coherence.transports.packets import Line
from getorcreateplus.writes.registry import region_of

from ..models import Paper
from ..support.papers import pages, save
from ..support.servers import another_process
from . import test_clusters

pytestmark = test_clusters.pytestmark
COUNT = 32
TITLES = [f"{number}" for number in range(30)]  # some on each server


@pytest.fixture(autouse=True)
def buckets():
    labels = {"tests.Paper": COUNT, "TESTS.sheet": COUNT}
    with override_settings(GETORCREATEPLUS_BUCKETS=labels):
        yield


@pytest.fixture(params=["epoch", "version"])
def slot_of_papers(request):
    """Return a function that returns a slot of the cached row."""

    def slot_of(cluster):
        region = region_of(Paper.objects.all())
        key = region.epoch_key
        if request.param == "version":
            key = region.version_key(f"{Paper._base_manager.earliest('pk').pk}")
        return cluster.slot(caches["default"].make_key(key))

    return slot_of


# Tests of a cluster without buckets

cluster, rows, own_cache, waits_for_less = (
    test_clusters.cluster,
    test_clusters.rows,
    test_clusters.own_cache,
    test_clusters.waits_for_less,
)
test_write = test_clusters.test_write
test_payload_on_another_server = test_clusters.test_payload_on_another_server
test_packets = test_clusters.test_packets
test_keys_are_moved = test_clusters.test_keys_are_moved
test_version_that_was_moved_alone = test_clusters.test_version_that_was_moved_alone
test_transaction_while_keys_are_moved = (
    test_clusters.test_transaction_while_keys_are_moved
)
test_primary_dies = test_clusters.test_primary_dies


class TestUnansweredWithBuckets(test_clusters.TestUnanswered):
    pass


class TestGuaranteesWithBuckets(test_clusters.TestGuarantees):
    pass


# The names of the entries


def entries_of_papers(count=COUNT, **options):
    options = {"has_own_cache": False, "version_per_row": True} | options
    return Entries(Paper, ["db"], has_hash_tag=True, buckets=count, **options)


def tag_of(key):
    """Return the part of a key from which a server computes the slot."""
    return key.partition("{")[2].partition("}")[0]


@pytest.mark.parametrize("pk", ["1", "a}b{c}", "{x}", "}", "é", "\ud800", "x" * 300])
def test_tag_of_a_row(pk):
    keys = entries_of_papers()
    payload, version, epoch = keys.keys_of_row(pk)
    assert tag_of(payload) == tag_of(version)
    assert tag_of(payload).startswith(f"{keys.tag}.")
    assert tag_of(epoch) == tag_of(keys.clock_key) == keys.tag
    assert [payload, version] == [keys.payload_key(pk), keys.version_key(pk)]
    assert len({payload, version, *entries_of_papers(1).keys_of_row(pk)}) == 5


def test_names_never_change():
    """Other releases, and other machines, share the cache."""
    keys = entries_of_papers(8)
    found = keys.payload_key("17"), keys.hint_key((("title", "a"),))
    assert found == (
        f"{{{keys.tag}.2}}:17",
        f"{{{keys.tag}.6}}#54cd0030558cf762f015",
    )


def test_hint_key_is_known():
    keys = entries_of_papers(12_345)
    found = [keys.hint_key((("title", title),)) for title in TITLES]
    assert all(map(is_hint_key, found))
    assert len(set(map(tag_of, found))) == len(TITLES)


def test_shared_version_is_one():
    keys = entries_of_papers(version_per_row=False)
    versions = {keys.version_key(pk) for pk in TITLES}
    assert versions == {keys.keys_of_row("1")[1]} == {keys.shared_version_key}
    assert tag_of(keys.shared_version_key) == keys.tag


@pytest.mark.parametrize("number", [0, "8", 2.0, True, None])
def test_number_of_no_sense(rows, number):
    message = rf"^GETORCREATEPLUS_BUCKETS\['Tests.paper'\] is {number!r}\. Use an int"
    with override_settings(GETORCREATEPLUS_BUCKETS={"Tests.paper": number}):
        with pytest.raises(ImproperlyConfigured, match=message):
            region_of(Paper.objects.all())
        with test_clusters.using(default={"BACKEND": LOCMEM}):
            assert "{" not in region_of(Paper.objects.all()).payload_key("1")


LOCMEM = "django.core.cache.backends.locmem.LocMemCache"


# Rows on all servers


@pytest.fixture
def papers(rows):
    """Rows that are cached, by title."""
    wanted = [{"title": title} for title in TITLES]
    found = Paper.objects.bulk_get_or_create(wanted, unique_fields=["title"])
    created = [paper for paper, _ in found]
    assert [pages(title=title) for title in TITLES] == [(None, 0)] * len(TITLES)
    assert len({port_of(rows, paper) for paper in created}) == 3
    return created


def port_of(cluster, paper):
    """Return the port of the primary that has a row."""
    key = region_of(Paper.objects.all()).payload_key(f"{paper.pk}")
    server, _ = cluster.primary_of(cluster.slot(caches["default"].make_key(key)))
    return server.port


def are_read(expected):
    """Return True if each process reads these pages, in the end with hits."""
    for _ in range(2):
        with another_process():
            assert [pages(title=title)[0] for title in TITLES] == expected
    with another_process():
        assert [pages(title=title) for title in TITLES] == [(n, 0) for n in expected]
    with another_process(), CaptureQueriesContext(connection) as queries:
        found = Paper.objects.bulk_get_or_create(
            [{"title": title} for title in TITLES], unique_fields=["title"]
        )
    return [paper.pages for paper, _ in found] == expected and not len(queries)


def save_each(papers):
    for paper in papers:
        save(paper, 2)


def save_each_in_one_transaction(papers):
    with transaction.atomic():
        save_each(papers)


def update_by_query(papers):
    Paper.objects.filter(pk__in=[paper.pk for paper in papers]).update(pages=2)


def bulk_update(papers):
    for paper in papers:
        paper.pages = 2
    Paper.objects.bulk_update(papers, ["pages"])


def update_behind_its_back(papers):
    with connection.cursor() as cursor:
        cursor.cursor.execute(f"UPDATE {Paper._meta.db_table} SET pages = 2")
    invalidate(Paper.objects.all())


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    "write_all",
    [
        save_each,
        save_each_in_one_transaction,
        update_by_query,
        bulk_update,
        update_behind_its_back,
    ],
)
def test_rows_on_all_servers(papers, write_all, is_late, request):
    if is_late:
        request.getfixturevalue("waits_for_less")
    write_all(papers)
    assert are_read([2] * len(TITLES))


def test_rows_that_are_deleted(papers):
    for paper in papers:
        paper.delete()
    assert [pages(title=title)[0] for title in TITLES] == [0] * len(TITLES)
    Paper.objects.all().delete()
    with transaction.atomic():
        rows = [{"title": title, "pages": 3} for title in TITLES]
        Paper.objects.bulk_get_or_create(rows, unique_fields=["title"])
    assert are_read([3] * len(TITLES))


@pytest.mark.usefixtures("waits_for_less")
def test_rows_that_other_threads_create(rows):
    """
    The first token that a thread sets on a server names it, so the row is a
    hit.
    """
    for title in TITLES:
        thread = threading.Thread(target=create_in_own_thread, args=[title])
        thread.start()
        thread.join()
    with another_process():
        assert [pages(title=title) for title in TITLES] == [(None, 0)] * len(TITLES)


def create_in_own_thread(title):
    with transaction.atomic():
        Paper.objects.get_or_create(title=title)
    connection.close()


# Commands, and when they are waited for


@contextmanager
def captured_wire():
    """Yield a list of (port, commands of a packet), and (port, "answer")."""
    events, write, read = [], Line.write, Line.read

    def writing(line, commands):
        events.append((line.connection.port, *map(in_words, commands)))
        write(line, commands)

    def reading(line, count):
        events.append((line.connection.port, "answer"))
        return read(line, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Line, "write", writing)
        patch.setattr(Line, "read", reading)
        # the servers are not queried again
        patch.setattr(redis_identity, "MAX_AGE", 60)
        yield events


KINDS = {"@epoch": "epoch", "@clock": "clock", "!": "version", ":": "payload"}


def in_words(command):
    """Return the name of a command, and the kinds of its keys."""
    name, *keys = command
    ends = [key.rpartition("}")[2] for key in (keys if name == "MGET" else keys[:1])]
    kinds = [next((KINDS[k] for k in KINDS if k in end), "hint") for end in ends]
    return " ".join([name, *kinds])


def sent_and_answered(events):
    """Return the packets, with their servers as letters in their order."""
    letters = dict(zip(dict.fromkeys(port for port, *_ in events), "ABC", strict=False))
    return [", ".join([letters[port], *what]) for port, *what in events]


@pytest.fixture
def far_paper(rows):
    """
    Return a row that is on another server than the epoch and the clock, and
    than the hint.
    """
    region = region_of(Paper.objects.all())
    transport = transport_of("default")

    def place(key):
        [made] = transport.keys([key])
        return transport.cluster.pool_of(made)[0].port

    def is_far(paper):
        row, epoch = place(region.payload_key(f"{paper.pk}")), place(region.epoch_key)
        hint = place(region.hint_key((("title", paper.title),)))
        return row != epoch and hint == epoch

    titles = map(str, itertools.count())
    created = (Paper.objects.get_or_create(title=title)[0] for title in titles)
    paper = next(filter(is_far, created))
    assert pages(title=paper.title)[1] == 0
    return paper


def test_hit_waits_once(far_paper):
    with captured_wire() as events:
        assert pages(title=far_paper.title)[1] == 0
    (first, *_), (second, *_) = events[:2]
    assert first != second
    assert sorted(what for _, *what in events[:2]) == [
        ["MGET epoch"],
        ["MGET payload version"],
    ]
    assert events[2:] == [(first, "answer"), (second, "answer")]


def test_batch_waits_once(papers):
    with captured_wire() as events:
        found = Paper.objects.bulk_get_or_create(
            [{"title": title} for title in TITLES], unique_fields=["title"]
        )
    assert not any(created for _, created in found)
    assert len({port for port, *_ in events[:3]}) == 3
    assert ["answer" in what for _, *what in events] == [False] * 3 + [True] * 3


def drop_entries(paper):
    region = region_of(Paper.objects.all())
    region.client.delete(region.keys_of_row(f"{paper.pk}")[:2])


@pytest.mark.usefixtures("waits_for_less")
def test_miss(far_paper):
    """The clock is read after the answer for the version."""
    drop_entries(far_paper)
    region = region_of(Paper.objects.all())
    region.client.delete([region.hint_key((("title", far_paper.title),))])
    with another_process(), captured_wire() as events:
        assert pages(title=far_paper.title)[1] == 1
    *found, one, other = sent_and_answered(events)
    assert found == [
        "A, MGET hint, MGET epoch clock",
        "A, answer",
        "B, SET version, MGET version",
        "B, answer",
        "A, MGET clock",
        "A, answer",
    ]
    assert {one, other} == {"B, SET payload", "A, SET hint"}


@pytest.mark.usefixtures("waits_for_less")
def test_miss_by_primary_key(far_paper):
    drop_entries(far_paper)
    with captured_wire() as events:
        Paper.objects.get_or_create(pk=far_paper.pk)
    assert sent_and_answered(events[4:]) == [
        "A, SET version, MGET version",
        "A, answer",
        "A, SET payload",
    ]


def test_write_is_sent_in_order(far_paper):
    with captured_wire() as events:
        save(far_paper)
    assert sent_and_answered(events) == [
        "A, SET version",
        "A, answer",
        "B, SET clock",
        "B, answer",
        "A, SET version, DEL payload",
        "A, answer",
    ]


def test_writes_take_few_packets(papers):
    """There is one to each server for each step; some are for two steps."""
    with captured_wire() as events:
        save_each_in_one_transaction(papers)
    packets = [what for _, *what in events if what != ["answer"]]
    [first] = [n for n, packet in enumerate(packets) if packet[0] == "SET clock"]
    kinds = [kind for packet in packets[first:] for kind in packet]
    count = len(TITLES)
    assert kinds == ["SET clock", *["SET version"] * count, *["DEL payload"] * count]
    assert len(packets) - first <= 7


# Servers that fail, and slots that are moved

MOVED = 8  # more than the redirects of one command


def test_answer_that_was_not_read(rows, papers):
    """It is not used as the answer to the next command."""
    region, transport = region_of(Paper.objects.all()), transport_of("default")
    keys = {port_of(rows, paper): [] for paper in papers}
    for paper in papers:
        keys[port_of(rows, paper)].append(region.payload_key(f"{paper.pk}"))
    some = [own[0] for own in keys.values()]
    expected = transport.look(some)
    for port, own in keys.items():
        others = [each[-1] for each in keys.values() if each is not own]
        payloads = transport.look(others)
        process = rows.server_at(port).process
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Exception, match="Timeout"):
                transport.look(some)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert transport.look(others) == payloads
        assert transport.look(some) == expected


def test_many_buckets_are_moved(rows, papers):
    """One read finds the servers of all of them."""
    region, transport = region_of(Paper.objects.all()), transport_of("default")
    keys = [region.payload_key(f"{paper.pk}") for paper in papers]
    expected = transport.look(keys)
    primaries = sorted(port for port, _, flags, *_ in rows.nodes() if "master" in flags)
    slots = {rows.slot(caches["default"].make_key(key)) for key in keys}
    for slot in sorted(slots)[:MOVED]:
        source, _ = rows.primary_of(slot)
        to = primaries[primaries.index(source.port) - 1]
        for _ in rows.move(slot, to):
            pass
    assert transport.look(keys) == expected
    save_each(papers)
    assert are_read([2] * len(TITLES))

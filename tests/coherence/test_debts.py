"""Every debt to a cache is paid: no debt is lost."""

import linecache
import re
import sys
import threading
import uuid

import pytest
from django.core.cache import caches
from django.db import connection, transaction
from django.test import override_settings

from getorcreateplus import invalidate
from getorcreateplus.coherence import clients, debts, faults, outages
from getorcreateplus.writes.registry import region_of

from ..models import Paper, Sheet
from ..support.caches import Switch, SwitchedCache
from ..support.papers import pages, save, store, warm
from ..support.servers import another_process
from ..support.threads import start

pytestmark = pytest.mark.django_db(transaction=True)


class Interrupt(BaseException):
    """Like KeyboardInterrupt, SystemExit and gevent.Timeout."""


class ManyKeysCache(SwitchedCache):
    """A command for many keys is one command."""

    def set_many(self, data, *args, **kwargs):
        self.check()
        return super().set_many(data, *args, **kwargs)

    def delete_many(self, keys, *args, **kwargs):
        self.check()
        return super().delete_many(keys, *args, **kwargs)


@pytest.fixture(autouse=True)
def two_caches(monkeypatch):
    monkeypatch.setattr(Switch, "failure", None)
    monkeypatch.setattr(clients, "by_alias", clients.Clients())
    monkeypatch.setattr(clients.CacheClient, "FIRST_PAUSE", 1000)
    monkeypatch.setattr(clients.CacheClient, "MAX_PAUSE", 1000)
    name = f"{ManyKeysCache.__module__}.{ManyKeysCache.__qualname__}"
    with override_settings(
        CACHES={
            alias: {"BACKEND": name, "LOCATION": uuid.uuid4().hex}
            for alias in ("default", "paper")
        }
    ):
        yield


def pause_is_over():
    for each in clients.by_alias.values():
        if each.down_until is not None:
            each.down_until = 0


def test_debt_is_paid_that_is_noted_as_the_cache_comes_back(monkeypatch):
    """
    The writer has found that the cache is not used. Before it records its
    debt, a reader finds that the cache answers again and is owed nothing.
    """
    paper = warm()
    store().mark_down(ConnectionError())
    refused, back = threading.Event(), threading.Event()
    owe = store().owe_release

    def owe_late(*args):
        refused.set()
        assert back.wait(10)
        owe(*args)

    monkeypatch.setattr(store(), "owe_release", owe_late)
    # The writer's own attempt fails, too.
    monkeypatch.setattr(store(), "hangs", True)
    thread = start(lambda: save(paper))
    assert refused.wait(10)
    pause_is_over()
    Paper.objects.get_or_create(title="b")
    assert store().down_until is None
    back.set()
    thread.join(10)
    assert store().debts.releases
    assert pages() == (2, 1)
    assert store().debts.releases == {}
    assert pages() == (2, 0)


@pytest.mark.parametrize("all_rows", [False, True])
def test_debt_of_the_same_rows_that_is_made_while_they_are_paid(all_rows, monkeypatch):
    """They are written again, after their release, before it is recorded."""
    paper = warm()
    region = region_of(Paper.objects.all())
    pks = None if all_rows else [f"{paper.pk}"]
    store().mark_down(ConnectionError())
    store().owe_release(region, pks)
    release_now = region.release_now

    def release_and_owe(*args):
        release_now(*args)
        store().owe_release(region, pks)

    monkeypatch.setattr(region, "release_now", release_and_owe)
    pause_is_over()
    store().try_again()
    monkeypatch.undo()
    assert region in store().debts.releases


def test_two_threads_that_pay(monkeypatch):
    """The second payment begins when the first is about to be recorded."""
    paper = warm()
    region = region_of(Paper.objects.all())
    store().mark_down(ConnectionError())
    store().owe_release(region, [f"{paper.pk}"])
    paid, go_on = threading.Event(), threading.Event()
    clear = store().debts._clear

    def clear_late(*args):
        if not paid.is_set():
            paid.set()
            assert go_on.wait(10)
        clear(*args)

    monkeypatch.setattr(store().debts, "_clear", clear_late)
    pause_is_over()
    thread = start(lambda: store().try_again())
    assert paid.wait(10)
    pause_is_over()
    store().try_again()
    assert store().debts.releases == {}
    store().owe_release(region, None)  # of a third one
    go_on.set()
    thread.join(10)
    assert store().debts.releases == {region: None}
    assert pages() == (1, 1)
    assert store().debts.releases == {}


def test_failure_while_another_thread_finds_the_cache_back(monkeypatch):
    paper = warm()
    store().mark_down(ConnectionError())
    region = region_of(Paper.objects.all())
    pay = store().debts.pay

    def pay_and_fail(*args):
        pay(*args)
        Switch.failure = ConnectionError()
        region.release(connection, [f"{paper.pk}"])

    monkeypatch.setattr(store().debts, "pay", pay_and_fail)
    pause_is_over()
    store().try_again()
    assert store().debts.releases == {region: {f"{paper.pk}"}}
    assert store().down_until is not None


def test_interrupted_payment_is_still_owed():
    paper = warm()
    store().mark_down(ConnectionError())
    Switch.failure = ConnectionError()
    save(paper)
    assert store().debts.releases
    for _ in range(2):
        Switch.failure = Interrupt()
        pause_is_over()
        with pytest.raises(Interrupt):
            pages()
        Switch.failure = None
        assert store().debts.releases
    assert pages() == (2, 1)  # no pause, because the cache has not failed
    assert store().debts.releases == {}
    assert pages() == (2, 0)


def test_interrupted_release_is_owed(caplog):
    paper = warm()
    region = region_of(Paper.objects.all())
    Switch.failure = Interrupt()
    with pytest.raises(Interrupt):
        region.release(connection, [f"{paper.pk}"])
    Switch.failure = None
    assert store().debts.releases == {region: {f"{paper.pk}"}}
    assert pages() == (1, 1)
    assert store().debts.releases == {}
    assert caplog.records == []


def test_exit_of_a_thread_is_no_failure_of_the_cache(caplog):
    paper = warm()
    region = region_of(Paper.objects.all())

    def release():
        Switch.failure = SystemExit()
        with pytest.raises(SystemExit):
            region.release(connection, [f"{paper.pk}"])

    start(release).join(10)
    Switch.failure = None
    assert store().debts.releases == {region: {f"{paper.pk}"}}
    assert caplog.records == []


def save_both(paper, sheet):
    save(paper)
    save(sheet)


def save_in_transaction(paper, sheet):
    with transaction.atomic():
        save_both(paper, sheet)


def save_in_savepoints(paper, sheet):
    with transaction.atomic():
        with transaction.atomic():
            save(paper)
        with transaction.atomic():
            save(sheet)


def update_in_transaction(paper, sheet):
    with transaction.atomic():
        save(paper)
        Paper.objects.update(pages=2)
        Sheet.objects.update(pages=2)


def update_or_create(paper, sheet):
    with transaction.atomic():
        Paper.objects.update_or_create(title="a", defaults={"pages": 2})
        Sheet.objects.update_or_create(title="a", defaults={"pages": 2})


takes_lock = re.compile(r"with .*lock:").search


class Interrupter:
    """
    Raise Interrupt at the n-th line of these modules after the start of a
    release.
    """

    files = {clients.__file__, debts.__file__, outages.__file__}

    def __init__(self, number):
        self.number = number
        self.has_begun = False

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.trace)

    def __exit__(self, *args):
        sys.settrace(self.before)

    def trace(self, frame, event, arg):
        code = frame.f_code
        if code.co_filename in self.files:
            self.has_begun |= code.co_name == "release_rows"
            return self.trace_line
        return None

    def trace_line(self, frame, event, arg):
        # Python raises no signal's exception between a lock and its block.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and self.has_begun and not takes_lock(line):
            self.number -= 1
            if self.number == 0:
                raise Interrupt
        return self.trace_line


def is_interrupted(write, number):
    """Return True if a call has reached its n-th line, and was interrupted."""

    def call():
        try:
            with Interrupter(number):
                write()
        except Interrupt:
            yield True
        else:
            yield False

    # In a generator, because an exception that is raised at the end of an
    # except block leaves the block's one behind, as one that is handled.
    return next(call())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "failure"),
    [
        (save_in_transaction, None),
        pytest.param(
            save_in_savepoints, ConnectionError("refused"), marks=pytest.mark.slow
        ),
        pytest.param(
            update_in_transaction, ConnectionError("refused"), marks=pytest.mark.slow
        ),
        (update_or_create, None),
    ],
)
def test_no_release_of_a_commit_is_lost_at_any_line(write, failure, monkeypatch):
    """
    This concerns the rows that were being released and those that were to
    follow, in both caches.
    """
    rows = warm(Paper), warm(Sheet)
    for number in range(1, 1000):
        for row in rows:
            save(row, 1)
        pages(Paper), pages(Sheet)
        with another_process():
            assert pages(Paper) == pages(Sheet) == (1, 0)
        Switch.failure = failure
        was_interrupted = is_interrupted(lambda: write(*rows), number)
        Switch.failure = None
        pause_is_over()
        assert pages(Paper)[0] == pages(Sheet)[0] == 2, number
        with another_process():
            assert pages(Paper)[0] == pages(Sheet)[0] == 2, number
        assert [each.debts.releases for each in clients.by_alias.values()] == [{}, {}]
        if not was_interrupted:
            break
    assert 10 < number < 999


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["pk", "all"])
def test_no_release_of_a_statement_is_lost_at_any_line(rows):
    paper = warm()

    def write():
        save(paper) if rows == "pk" else Paper.objects.update(pages=2)

    for number in range(1, 1000):
        save(paper, 1)
        pages()
        Switch.failure = ConnectionError("refused")
        was_interrupted = is_interrupted(write, number)
        Switch.failure = None
        pause_is_over()
        assert pages()[0] == 2, number
        with another_process():
            assert pages()[0] == 2, number
        assert store().debts.releases == {}
        if not was_interrupted:
            break
    assert 30 < number < 999


def test_statement_that_is_interrupted_after_it_was_done_stays_locked():
    """
    Only this process can release it. It is unknown whether the write was done.
    """
    paper = warm()

    def interrupt(execute, *args):
        execute(*args)
        raise Interrupt

    Switch.failure = ConnectionError("refused")
    with pytest.raises(Interrupt), connection.execute_wrapper(interrupt):
        save(paper)
    Switch.failure = None
    pause_is_over()
    for _ in range(3):
        assert pages() == (2, 1)
    with another_process():
        assert pages() == (2, 1)


def test_invalidation_that_is_interrupted_is_owed():
    paper = warm()
    Switch.failure = Interrupt()
    with pytest.raises(Interrupt):
        invalidate(paper)
    Switch.failure = None
    assert store().debts.releases
    assert pages() == (1, 1)


def test_releases_of_an_alias_that_hangs_are_tried_once_in_each_pause(monkeypatch):
    """Each command would wait for the client's timeout."""
    monkeypatch.setattr(clients.CacheClient, "SLOW", -1)  # every failure was slow
    paper = warm()
    Switch.failure = TimeoutError()
    Switch.commands = 0
    save(paper)
    # LOCK; the release; and one command for it on a new connection.
    assert Switch.commands == 3
    for number in (3, 4, 5):
        save(paper, number)
    assert Switch.commands == 3
    Switch.failure = None
    pause_is_over()
    assert pages() == (5, 1)
    save(paper, 6)
    with another_process():
        assert pages() == (6, 1)


@pytest.mark.parametrize("command", ["look", "announce", "add", "delete"])
def test_command_that_is_slow_to_fail_is_not_given_again(command, monkeypatch):
    monkeypatch.setattr(clients.CacheClient, "SLOW", -1)
    arguments = {
        "look": [["key"]],
        "announce": [{"key": 1}, 60],
        "add": ["key", 1, 60],
        "delete": [["key"]],
    }
    Switch.failure = TimeoutError()
    Switch.commands = 0
    with pytest.raises(faults.Unreachable):
        getattr(clients.by_alias["default"], command)(*arguments[command])
    assert clients.by_alias["default"].down_until is not None
    assert Switch.commands == 1


@pytest.mark.parametrize("command", ["announce", "add", "delete"])
def test_command_that_fails_without_an_answer_is_an_outage(command):
    arguments = {
        "announce": [{"key": 1}, 60],
        "add": ["key", 1, 60],
        "delete": [["key"]],
    }
    Switch.failure = ConnectionError()
    with pytest.raises(faults.Unreachable):
        getattr(clients.by_alias["default"], command)(*arguments[command])
    assert clients.by_alias["default"].down_until is not None


def test_release_that_failed_is_paid_with_the_next_one():
    """This process may not use the cache again for a long time."""
    paper, other = warm(), Paper.objects.create(title="b", pages=1)
    Switch.failure = ConnectionError()
    save(paper)
    Switch.failure = None
    save(other)  # while the cache is not used
    assert store().down_until is not None
    with another_process():
        assert pages() == (2, 1)


def test_release_that_is_tried_stays_owed():
    """It may be the LOCK of an earlier write, and the later one failed."""
    paper = warm()
    store().mark_down(ConnectionError())
    save(paper)
    assert list(store().debts.releases.values()) == [{f"{paper.pk}"}]
    with another_process():
        assert pages() == (2, 1)
    pause_is_over()
    assert pages()[0] == 2
    assert store().debts.releases == {}
    assert store().debts.marks == {}


def test_lock_by_hand_is_tried_while_the_cache_is_left_alone():
    """It will not be released."""
    paper = warm()
    region, pk = region_of(Paper.objects.all()), f"{paper.pk}"
    store().mark_down(ConnectionError())
    region.lock(connection, [pk])
    assert caches["paper"].get(region.version_key(pk)) != "LOCK"
    region.lock(connection, [pk], has_release=False)
    assert caches["paper"].get(region.version_key(pk)) == "LOCK"
    # An earlier release that is owed will undo it.
    assert store().debts.locks == {region: {pk}}


@pytest.mark.parametrize("is_down", [False, True])
def test_interrupted_lock_by_hand_is_owed(is_down):
    paper = warm()
    region, pk = region_of(Paper.objects.all()), f"{paper.pk}"
    if is_down:
        store().mark_down(ConnectionError())
    Switch.failure = Interrupt()
    with pytest.raises(Interrupt):
        region.lock(connection, [pk], has_release=False)
    assert store().debts.locks == {region: {pk}}

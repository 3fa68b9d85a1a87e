"""
The cache protocol: which entries a reader may trust, and what a writer must
do.

This folder handles entries, tokens and transactions. It does not use
querysets, and it does not read statements: writes/ calls it with the rows that
a statement writes. It sends no cache command itself: transports/ does. The
rules are functions in rules.py.

A row has these entries in the caches, for one database:

=======  ===========================================================  ======
entry    value                                                        cache
=======  ===========================================================  ======
hint     the primary key that a lookup found; checked at every hit,   key
         so it never needs to be invalidated
payload  (stamp, fingerprint of the fields, column values, mark)      object
version  a random token per row, or LOCK                              object
epoch    a random token per model, or LOCK: for writes by query       object
clock    a random token per model, moved by every release             object
=======  ===========================================================  ======

A *stamp* is (epoch, version) as a reader observed them before its SELECT.
Tokens are random and never used twice; nothing compares times.

A **hit** is a payload whose stamp equals the epoch and the version that the
cache holds now, if neither is LOCK.

A **reader** that knows the primary key observes version and epoch (it adds an
absent one), runs its SELECT, and sets the payload with what it observed. A
reader that does not know the primary key observes the clock and the epoch,
runs its SELECT, gets or adds the version, and reads the clock again (rule
*recheck*). If the clock has moved, the reader sets nothing. No reader fills
while it sees a LOCK.

A **writer** sets the version to LOCK before its statement (rule *lock*). After
the commit it moves the clock (rule *clock*), then the version, then deletes
the payload (rule *drop*). A write by query does so with the epoch in place of
the version. The write returns when the cache has answered (rule *answered*):
another writer's release may have replaced its LOCK. In a transaction, this
release follows the commit, before any on_commit() hook. It follows a rollback
as well, because releasing a row that was not written does no harm. After a
failed statement the transaction may have ended on the server without Django
knowing it: then nothing is filled.

A writer that holds the row's lock in the database may **publish**: set the
payload before its commit, with the version that its release is going to set.

A **created** row needs no lock, because there is no older row. In autocommit,
its creator fills it as a reader that did not know the key. In a transaction,
its creator observes the version after the INSERT. That is before the commit,
and so before any other connection can see the row: the version vouches for the
row as it does for a reader that knew the key. The commit then needs no command
per row.

**Inside a transaction**, the rows that it wrote are served from an overlay, as
long as the transaction holds the row's lock in the database, so that no other
connection writes the row. Otherwise they are read from the database. The rows
that a savepoint has written leave the overlay when it is rolled back. A
transaction that locks very many rows of a model locks all of them instead, by
the epoch.

A transaction that has written or locked anything has no hits until it ends
(rule *waited*). It may have waited for the commit of another writer whose
release is still on its way, and a third writer's release may have replaced
that writer's LOCK, because a release also replaces the LOCKs of other writers.
A LOCK that only its own writer may replace would need compare-and-set, which
Django's caches do not have; and it would protect only one of several writers,
because the next LOCK replaces it as well. The cost is a SELECT for each lookup
of a row that this transaction did not write itself.

A transaction fills the rows that it has read after its commit (rule *commit*),
with the tokens that it observed before its SELECTs. If it filled them before,
it would fill rows that a trigger, a function or COPY has written in the same
transaction, and this process would not see that these writes are rolled back.
Until the commit it serves these rows from its own memory, as long as the cache
holds the same tokens.

A server with older entries may take over: it has started from a snapshot, or
was a replica. A token that another server had first is not valid there (rule
*server*): it names that server, if the transport can distinguish servers. A
reader replaces it if it is still there and is not a LOCK (rule *compared*).

There are hits and fills only where a SELECT sees the latest commits. The
transaction around a TestCase counts as autocommit, with tokens of its own. In
a transaction that is managed by hand, or begun by SQL or the driver, there are
neither hits nor fills. The rows that it writes stay under LOCK until the
driver shows that it has ended (drivers.py), or until the LOCK times out.

These save commands:

* A process remembers hints of its own, in front of the key cache. That is safe
  because every hit is checked. So a hit is one read of payload, version and
  epoch.
* A reader that did not know the key tries to add the version first. Only if
  there is a version already, the reader gets the version, and then the clock,
  in this order.
* A release sets clock, versions, and None for the payloads by one command, in
  this order or at once for all other processes. If an alias has several
  servers, or its backend is not Django's, each step is a command of its own.
* If the database makes the keys of rows that one transaction creates, their
  versions are set together, because no other process knows such a key before
  the commit. The remaining versions are added after the commit, and then the
  clock shows whether a writer has released in the meantime, as for a reader
  that did not know the key. Such a transaction does not read rows from the
  cache that its process has never seen.
* A transaction publishes several of the rows that it updates together. Its
  release deletes the payloads of rows that it has not published before its
  end, or before a savepoint is rolled back.
* The rows that a transaction creates use the epoch and the clock that an
  earlier reader of the transaction has observed. Tokens never come back, so
  older ones are only more careful.
* A transport may send a fill, and the LOCKs, versions and payloads of a
  transaction, and read the answers later. The commit waits for those of the
  transaction. Nothing waits for a fill.
* With local_timeout, a process serves rows that it has read. Each of its locks
  and releases drops the row, and a row that a thread was reading before one of
  them is not kept after it.

The rules have the names that they have in the model of this protocol
(tests/coherence_model.py), which explores every interleaving.
"""

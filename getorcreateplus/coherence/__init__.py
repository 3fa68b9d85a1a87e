"""
The cache protocol: what a reader may trust and what a writer must do.

Nothing but a cache's get_many, set_many, add and delete_many is needed. The
entries of one row, and of its model in one database:

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

A *stamp* is (epoch, version) as they were observed before the SELECT. Tokens
are random and never used twice; nothing compares times.

A **hit** is a payload whose stamp equals the epoch and the version of now,
neither of them LOCK.

A **reader** that knows the primary key observes version and epoch (it adds
what is absent), runs its SELECT, and sets the payload with what it had
observed. One that does not know it observes the clock and the epoch, runs its
statement, gets or adds the version, and looks at the clock again (rule
*recheck*): moved, and it sets nothing. Nobody fills under a LOCK.

A **writer** sets the version to LOCK before its statement (rule *lock*). After
the commit it moves the clock (rule *clock*), then the version, then deletes
the payload (rule *drop*). Writes by query do so with the epoch in the
version's place. In a transaction all of that follows the commit, before any
on_commit() hook; and the rollback as well, because nothing is wrong with the
release of a row that was not written. A statement that fails may end the
transaction on the server without Django knowing: then nothing is filled.

A writer that holds the row's lock in the database may **publish**: set the
payload before its commit, with the version that its release is going to set.

A **created** row needs no lock, for there is no older one. In autocommit it is
filled in as by a reader that did not know the key. In a transaction its
version is observed after the INSERT, which is before the commit, and so before
anybody else can see the row: that vouches for it, as for a reader that knew
the key, and the commit needs no command per row.

**Inside a transaction** the rows that it wrote are served from an overlay,
while the transaction holds the row's lock in the database, so that no other
connection writes it; otherwise they are read from the database. What a
savepoint has written ends when it is rolled back. A transaction that locks
very many rows of a model locks all of them instead, by the epoch.

A transaction that has written or locked anything has no hits until it ends
(rule *waited*). It may have waited for the commit of another writer, whose
release is still on its way; and a third writer's release may have replaced
that writer's LOCK, because a release replaces the LOCKs of others, too. A LOCK
that only its own writer may replace would need compare-and-set, which Django's
caches do not have; and it would protect one writer of several, because the
next LOCK replaces it as well. The cost is a SELECT for each lookup of a row
that this transaction did not write itself.

A transaction fills the rows that it has read after its commit (rule *commit*),
with the tokens that it observed before its SELECTs. Before the commit it would
fill what a trigger, a function or COPY has written in the same transaction,
and nothing tells of the rollback. Until then it reads these rows from its own
memory, as long as their tokens are those of now.

There are hits and fills only where a SELECT sees the latest commits. The
transaction around a TestCase counts as the outside world, with tokens of its
own. In a transaction that is managed by hand, or begun by SQL or the driver,
nothing is a hit or a fill; what it writes stays under LOCK until its end is
seen (drivers.py), or until LOCK times out.

What saves commands, and why it may:

* A process remembers hints of its own, in front of the key cache: every hit is
  checked. So a hit is one get_many of payload, version and epoch.
* A reader that did not know the key tries to add the version first. Only if
  that loses it gets the version, and then the clock, in this order.
* A release is one set_many of clock, versions, and None for the payloads: in
  this order, or at once, for all who look. Where an alias has several servers,
  or its backend is not Django's, each step is a command of its own.
* Of many rows that one transaction creates, those whose keys the database has
  made get their versions together, by set_many: nobody knows such a key before
  the commit. Those that are left are added after it, and then the clock tells
  whether there was a writer since, as for a reader that did not know the key.
  Nor does such a transaction ask for rows that its process has never seen.
* The epoch and the clock that one reader of a transaction has observed will do
  for the rows that it creates from then on: tokens never come back, so older
  ones are only more careful.
* Under local_timeout, a process serves what it has seen. Each of its locks and
  releases drops the row, and what a thread has asked for before one of them is
  not kept after it.

The rules are named as in the model of this protocol (tests/coherence_model.py)
which explores every interleaving of it.
"""

"""
Reads and guards the statements of a connection that write rows.

This folder may use Django's connections, execute wrappers and models, the
registry of cached models, the words of SQL, and a database's catalog. It calls
coherence/ with the rows that a statement writes, and sends no cache command
itself. It does not use the querysets of this package: bulk/ and mixins/ call
it.

Django calls the execute wrappers of a connection from the first of the list,
which is the outermost, to the last. This folder has four kinds::

    Foresight                  while an InsertGuard is open; insert(n)
      StatementWatcher         as long as the connection lives; insert(0)
        (other packages', and the project's)
          Recording            while one call reads or writes; append()
            InsertGuard, UpdateGuard, ShareLock
                               while one statement is guarded; append()

* Foresight (guards.py) is the first half of an InsertGuard. It may begin a
  transaction, or make a savepoint, before the statement. The StatementWatcher
  must find the connection in that transaction, and so comes after it. A nested
  guard inserts its Foresight after those that are there, so that the outer
  guard prepares its transaction first.
* StatementWatcher (watching.py) sets LOCKs before another wrapper sends
  anything, and releases them after all wrappers have sent everything. It reads
  the statement before they change it.
* Recording (captured_rows.py) sees the statement with the statements that
  other wrappers have put before it, and without the clause that a guard adds.
  After a lost race the guard has raised Conflict, so there is nothing to
  record.
* The guards (guards.py, locking_reads.py) change the text of the statement. So
  they are innermost: ON CONFLICT DO NOTHING would look to the others like a
  statement that may update rows.

Other code may append and remove wrappers in the same block. That is why
Wrapper (wrappers.py) removes itself by identity, and not the last one.
"""

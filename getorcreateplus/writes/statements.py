"""
The tables that a statement of any form may write, judged by its words.

This module does not parse SQL, because each database has its own grammar. If a
statement has two interpretations, the wider one counts: an unneeded
invalidation costs a query, and a missing one leaves a wrong row. So a table
counts as written if its name is anywhere in a statement that writes, even in a
literal or a comment. An unknown statement counts as writing every table.
"""

import re
import string
from typing import NamedTuple


def word_set(text):
    return frozenset(text.split())


# Text that may be before a statement's first word. "--" ends at a carriage
# return on PostgreSQL, "#" begins a comment on MySQL.
BEFORE = r"(?:[\s(]|--[^\r\n]*|#[^\r\n]*|/\*(?:(?!\*/).)*\*/|\*/)*+"


# A statement, without the parts that other code has put around it

# SQLite begins a transaction with an ordinary statement.
READING = ("SELECT", "(SELECT", "BEGIN")
OF_SAVEPOINT = ("SAVEPOINT", "RELEASE", "ROLLBACK")


class Statement(NamedTuple):
    """
    A statement, and the parts that other code has put around it: comments, and
    before it statements that set a variable.
    """

    before: str
    text: str
    after: str = ""

    def begins_with(self, starts):
        return self.text[:10].upper().startswith(starts)

    def is_read(self):
        """Return True if it is one statement that writes no row of a table."""
        return (
            self.begins_with(READING)
            and ";" not in self.text
            and "INTO" not in self.text.upper()
        )

    def is_of_savepoint(self):
        return self.begins_with(OF_SAVEPOINT) and ";" not in self.text

    def own_params(self, params):
        """Return the parameters after those of the parts before it."""
        count = self.before.count("%s")
        return params[count:] if count else params


# Comments that all databases read in the same way: not nested, not executed.
COMMENTS = r"(?:\s|--[^\r\n]*|#[^\r\n]*|/\*(?!M?!)(?:(?!\*/|/\*).)*\*/)*+"
# Comments that end at different places on different databases, or are
# executed.
OBSCURE_COMMENT = re.compile(r"/\*(?:M?!|(?:(?!\*/).)*/\*)", re.DOTALL)
# Other packages put a statement before another one, to set a variable for
# triggers, or a timeout. The variable has no effect on PostgreSQL, because its
# name has a dot.
VARIABLE = r"\w+(?:\.\w+)+"
VALUE = r"""(?:[^-()'";/\\$`%]|'[^'\\%]*'|%s|%\(\w+\)s)*+"""
SET_CONFIG = rf"""(?:pg_catalog\.)?set_config\(\s*'{VARIABLE}'\s*,{VALUE}\)"""
SETTING = (
    rf"(?:SELECT\s+{SET_CONFIG}(?:\s*,\s*{SET_CONFIG})*\s*"
    rf"|SET\s+(?:LOCAL\s+|SESSION\s+)?(?:{VARIABLE}|\w+_timeout)"
    rf"\s*(?:=|TO\s){VALUE});"
)
IGNORECASE = re.DOTALL | re.IGNORECASE
START = {"postgresql": re.compile(f"{COMMENTS}(?:{SETTING}{COMMENTS})*+", IGNORECASE)}
START_ELSEWHERE = re.compile(COMMENTS, re.DOTALL)
# Last characters after which a comment or a space may be removed.
LAST_TO_CUT = frozenset(("/", "", *string.whitespace))


def statement_of(sql, connection):
    """Return the Statement that a cursor has to execute."""
    text = sql if type(sql) is str else text_of(sql, connection)
    if text[:1].isalpha() and text[-1:] not in LAST_TO_CUT and ";" not in text:
        return Statement("", text)  # the most frequent case
    pattern = START.get(connection.vendor, START_ELSEWHERE)
    start = pattern.match(text).end()  # type: ignore[union-attr]  # or empty
    end = end_of_statement(text)
    if start >= end:
        start = 0  # only a statement that sets a variable
    return Statement(text[:start], text[start:end], text[end:])


def text_of(sql, connection):
    """Return the text of the SQL that a cursor has to execute."""
    if isinstance(sql, (bytes, bytearray)):
        return sql.decode(errors="replace")
    if hasattr(sql, "as_string"):  # psycopg's
        return sql.as_string(connection.connection)
    return sql if type(sql) is str else str(sql)


def end_of_statement(text):
    """Return where the comments and semicolons after a statement begin."""
    end = len(text)
    while True:
        while end and (text[end - 1] == ";" or text[end - 1].isspace()):
            end -= 1
        if not text.endswith("*/", 0, end):
            return end
        start = text.rfind("/*", 0, end)
        comment = text[start:end]
        if start < 0 or comment.count("*/") > 1 or OBSCURE_COMMENT.match(comment):
            return end
        end = start


# Its words

WORD = re.compile(r"\w+")
ONLY_WORDS = "".join(c if WORD.match(c) else " " for c in map(chr, range(128)))


def words_of(text):
    """Return the set of the folded words of SQL, or of a name."""
    if text.isascii():  # in a fifth of the time
        words = set(text.lower().translate(ONLY_WORDS).split())
    else:
        words = set(WORD.findall(fold(text)))
    # PostgreSQL cuts a name after 63 bytes.
    long = [word for word in words if len(word) > 15]  # of four bytes each
    words.update(word.encode()[:63].decode(errors="ignore") for word in long)
    return words


def fold(text):
    """
    Return the text in a form in which two spellings are equal if a database
    may treat them as equal.

    lower() is not enough: it distinguishes letters that re.IGNORECASE treats
    as equal.
    """
    return text.casefold()


def lacks(words, text, others):
    """
    Return True if a text certainly does not have any of the other words, in
    lower case. ``words`` are its words_of(). A pattern that ignores case takes
    much longer.
    """
    # Outside ASCII, some letters are equal only for such a pattern.
    return text.isascii() and words.isdisjoint(others)


class Names:
    """Names of tables, which are found in SQL by their words."""

    def __init__(self, names):
        self.by_word = {}  # a folded word: [(the words of a name, the name)]
        self.anywhere = []  # names without a word
        for name in names:
            words = words_of(name)
            # The longest word is the rarest.
            word = max(words, key=len, default=None)
            if word is None:
                self.anywhere.append(name)
            else:
                self.by_word.setdefault(word, []).append((words, name))

    def mentioned(self, words):
        """Return the names that text with these words may mention."""
        found = set(self.anywhere)
        for word in words & self.by_word.keys():
            found |= {name for own, name in self.by_word[word] if own <= words}
        return found


# Effects of a statement, by its first word

# They write no row of a table, even if they have words that write.
WRITES_NOTHING = word_set(
    "ABORT BEGIN CHECK CHECKPOINT CHECKSUM CLOSE CLUSTER COMMENT COMMIT "
    "DEALLOCATE DECLARE DISCARD END FETCH FLUSH GET GRANT HANDLER KILL "
    "LISTEN LOCK MOVE NOTIFY OPTIMIZE PRAGMA PREPARE REINDEX RELEASE RESET REVOKE "
    "ROLLBACK SAVEPOINT SET SHOW START UNLISTEN UNLOCK VACUUM"
)
# They write the tables that they mention if they contain INTO.
WRITES_BY_INTO = word_set("SELECT TABLE VALUES")
# They write the tables that they mention if they contain CREATE or a word of
# WRITES_TABLES. (On MariaDB, ANALYZE is EXPLAIN ANALYZE.)
MAY_CONTAIN_WRITE = word_set("ANALYZE DESC DESCRIBE EXPLAIN WITH")
# They write the tables that they mention.
WRITES_TABLES = word_set(
    "COPY DELETE INSERT INTO LOAD MERGE REFRESH RENAME REPAIR REPLACE TRUNCATE UPDATE"
)
# They change the meaning of a name, and the relations between tables.
CHANGES_SCHEMA = word_set("ALTER CREATE DROP RENAME")
# Words that may be between CREATE, ALTER or DROP and the kind of object.
ADJECTIVES = word_set(
    "FOREIGN GLOBAL IGNORE LOCAL MATERIALIZED OFFLINE ONLINE OR RECURSIVE REPLACE TEMP "
    "TEMPORARY UNIQUE UNLOGGED VIRTUAL"
)
KINDS_OF_TABLE = frozenset(("TABLE", "VIEW"))
KINDS_OF_DATABASE = frozenset(("DATABASE", "SCHEMA"))
KINDS_WITHOUT_ROWS = frozenset(("FULLTEXT", "INDEX", "SEQUENCE", "SPATIAL"))
# With one of these words, they may write every table: a prepared statement, a
# program, SET STATEMENT ... FOR ..., TRUNCATE ... CASCADE, EXPLAIN EXECUTE.
WRITES_EVERYTHING_WITH = {
    "ANALYZE": ("execute",),
    "BEGIN": ("atomic",),
    "COMMIT": ("prepared",),
    "DESC": ("execute",),
    "PRAGMA": ("schema_version", "writable_schema"),
    "DESCRIBE": ("execute",),
    "EXPLAIN": ("execute",),
    "ROLLBACK": ("prepared",),
    "SET": ("statement",),
    "TRUNCATE": ("cascade",),
}
# Tables of the database's own catalog, which define other tables.
CATALOGS = word_set(
    "pg_attrdef pg_attribute pg_class pg_constraint pg_database pg_enum pg_inherits "
    "pg_namespace pg_proc pg_rewrite pg_type sqlite_master sqlite_schema"
)
# They end the transaction or roll back a part of it.
ENDS_TRANSACTION = word_set("ABORT COMMIT END PREPARE ROLLBACK")

FOLDED_WRITES = frozenset(map(fold, WRITES_TABLES | {"CREATE"}))


class Effect(NamedTuple):
    """The possible effects of a statement."""

    everything: bool = False  # it may write tables that it does not mention
    tables: bool = False  # it may write the tables that it mentions
    schema: bool = False  # names and relations may have another meaning after it
    ends: bool = False  # it may end a transaction, or roll back a part of it
    database: bool = False  # it creates, changes or drops a database, by name
    starts: frozenset = frozenset()  # the first words of its statements


# As Django sends them.
SAVEPOINT_STATEMENT = re.compile(r"""(?:RELEASE )?SAVEPOINT ["`]\w+["`]\Z""")
ON_SAVEPOINT = Effect(starts=frozenset(("SAVEPOINT",)))

FIRST = re.compile(rf"{BEFORE}(\w+)", re.DOTALL)
NEXT = re.compile(rf";{BEFORE}(\w+)", re.DOTALL)
# With one of these, the literals of a statement cannot be found.
OBSCURE = re.compile(r"--|/\*|[#\\$]")
QUOTED = re.compile(r"""'(?:[^']|'')*'|"[^"]*"|`[^`]*`""")


def effect_of(text, words, vendor):
    """Return the Effect of SQL. ``words`` are its words_of()."""
    if SAVEPOINT_STATEMENT.match(text):
        return ON_SAVEPOINT
    bare = text
    if vendor == "postgresql" and "/*" in text:
        bare = without_leading_comments(text)
    if ";" in bare and not OBSCURE.search(bare):
        bare = QUOTED.sub("''", bare)
    matches = [FIRST.match(bare), *(NEXT.finditer(bare) if ";" in bare else ())]
    everything = tables = schema = database = False
    starts = set()
    for match in filter(None, matches):
        word = match[1].upper()
        starts.add(word)
        if word in CHANGES_SCHEMA:
            schema = True
            kind = "TABLE" if word == "RENAME" else kind_of(bare, match.end())
            tables |= kind in KINDS_OF_TABLE
            everything |= kind not in KINDS_OF_TABLE | KINDS_WITHOUT_ROWS
            database |= kind in KINDS_OF_DATABASE
        elif word in WRITES_BY_INTO:
            tables |= "into" in words
            schema |= "into" in words
        elif word in MAY_CONTAIN_WRITE or word in WRITES_TABLES:
            tables |= word in WRITES_TABLES or not words.isdisjoint(FOLDED_WRITES)
            everything |= not words.isdisjoint(WRITES_EVERYTHING_WITH.get(word, ()))
        else:
            everything |= word not in WRITES_NOTHING
            everything |= not words.isdisjoint(WRITES_EVERYTHING_WITH.get(word, ()))
    if is_obscure(bare, starts) or (tables and may_write_any_table(bare, words)):
        everything = True
    ends = (
        everything
        or not ENDS_TRANSACTION.isdisjoint(starts)
        or not words.isdisjoint(("call", "commit", "rollback"))
    )
    return Effect(
        everything, tables, schema or everything, ends, database, frozenset(starts)
    )


COMMENT = re.compile(r"/\*|--|#")


def kind_of(text, start):
    """Return the kind of object of a CREATE, ALTER or DROP that ends here."""
    following = text[start : start + 200].upper()
    if COMMENT.search(following):
        return ""  # its next word may be part of the comment
    following = WORD.findall(following)
    return next((word for word in following if word not in ADJECTIVES), "")


EMPTY = re.compile(rf"(?:{BEFORE[:-2]}|[;)])*+\Z", re.DOTALL)


def is_obscure(text, starts):
    """Return True if a statement in it may begin with a word not in starts."""
    if not starts and not EMPTY.match(text):
        return True
    if starts and ";" not in text and WRITES_BY_INTO.issuperset(starts):
        return False
    return "/*" in text and OBSCURE_COMMENT.search(text) is not None


# A PostgreSQL identifier, whose letters may be escapes.
ESCAPED = re.compile(r'\bU&"', re.IGNORECASE)
# A parameter that is the name of a table, such as psycopg2's AsIs().
PARAMETER = re.compile(
    r"""\b(?:COPY|DELETE\s+FROM|INTO|JOIN|ONLY|TABLE|TRUNCATE|UPDATE)\s+"""
    r"""(?:["\w]+\.)?"?%[s(]""",
    re.IGNORECASE,
)


def may_write_any_table(text, words):
    """
    Return True if a statement may write a table without a word for its name.
    """
    return (
        not words.isdisjoint(CATALOGS)
        or ('&"' in text and ESCAPED.search(text) is not None)
        or ("%" in text and PARAMETER.search(text) is not None)
    )


SPACE = re.compile(r"(?:[\s(]|--[^\r\n]*)*")
COMMENT_MARK = re.compile(r"/\*|\*/")


def without_leading_comments(text):
    """
    Return SQL without PostgreSQL's comments before it, which may be nested.
    """
    start = end_of_space(text, 0)
    while text.startswith("/*", start):
        depth = 0
        for mark in COMMENT_MARK.finditer(text, start):
            depth += 1 if mark[0] == "/*" else -1
            if not depth:
                start = end_of_space(text, mark.end())
                break
        else:
            return ""  # The comment has no end.
    return text[start:]


def end_of_space(text, start):
    return SPACE.match(text, start).end()  # type: ignore[union-attr]  # or empty

"""Transactions of a PostgreSQL server, whose complaints are said in plain words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tf_sphereface.utils.optional import require

_PREFIXES = ("postgresql://", "postgres://")
_PATIENCE = 10  # seconds for a server to answer, unless the address says otherwise
_WAIT = 60  # seconds for another writer to finish
_FACTS = "tf_sphereface_facts"


def is_server(place: Any) -> bool:
    """Tell whether a gallery's place is the address of a PostgreSQL server."""
    return isinstance(place, str) and place.startswith(_PREFIXES)


class Server:
    """A PostgreSQL database that is asked in transactions, each on a connection of its own.

    Its text is the address without the password and without options.

    Args:
        url: as libpq reads it.

    Raises:
        ValueError: the address cannot be read.
        ImportError: the extra `postgres` is missing.
    """

    def __init__(self, url: str) -> None:
        self._psycopg = require("psycopg", extra="postgres")
        self._pgvector = require("pgvector.psycopg", extra="postgres")
        conninfo = require("psycopg.conninfo", extra="postgres")
        try:
            self._options: dict[str, Any] = conninfo.conninfo_to_dict(url)
        except (self._psycopg.Error, UnicodeError, ValueError):
            raise ValueError(  # without the cause, whose text may hold the password
                "the gallery's address cannot be read: postgresql://user@host:port/database is "
                "expected, other characters in a name or password written as %40 for @"
            ) from None
        self._options.setdefault("connect_timeout", _PATIENCE)
        self._options.setdefault("application_name", "tf_sphereface-search")
        self._options["client_encoding"] = "UTF8"

    def __str__(self) -> str:
        said = {name: str(self._options.get(name) or "") for name in ("user", "host", "port")}
        user, port = said["user"] and f"{said['user']}@", said["port"] and f":{said['port']}"
        return f"postgresql://{user}{said['host']}{port}/{self._options.get('dbname') or ''}"

    @contextlib.contextmanager
    def transaction(
        self, *, write: bool = False, lock: str | None = _FACTS, extension: bool = False
    ) -> Iterator[Any]:
        """Open a transaction that sees the database as it was at one moment.

        Args:
            write: it may change something; it waits for other writers.
            lock: the table that a writer locks against others.
            extension: make pgvector's extension in the database where it is not there.

        Raises:
            OSError: the server cannot be reached, has no pgvector, or refuses it.
            ValueError: the tables are not those of a gallery, or a text does not fit.
        """
        with self._in_plain_words(), self._connected() as database:
            path = self._search_path(database, extension)
            database.execute(
                f"BEGIN ISOLATION LEVEL REPEATABLE READ {'READ WRITE' if write else 'READ ONLY'}"
            )
            database.execute(f"SET LOCAL search_path = {path}")
            if write and lock is not None:
                self._lock(database, lock)
            self._pgvector.register_vector(database)
            yield database
            database.execute("COMMIT")

    def analyze(self, table: str) -> None:
        """Let the server look at a table, so that it knows when the index is worth it."""
        with self._in_plain_words(), self._connected() as database:
            database.execute(f"ANALYZE {table}")

    def has_gallery(self, database: Any) -> bool:
        """Tell whether the schema has a gallery's tables."""
        query = "SELECT to_regclass(quote_ident(current_schema()) || %s) IS NOT NULL"
        return bool(database.execute(query, [f".{_FACTS}"]).fetchone()[0])

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Any]:
        """Open a connection; what is not committed when it is closed is undone."""
        database = self._psycopg.connect(**self._options, autocommit=True, prepare_threshold=None)
        try:
            yield database
        finally:
            database.close()

    def _lock(self, database: Any, table: str) -> None:
        """Lock a table before anything is read: the transaction then sees the last commit."""
        database.execute(f"SET LOCAL lock_timeout = '{_WAIT}s'")
        try:
            database.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        except self._psycopg.errors.UndefinedTable as error:
            raise FileNotFoundError(f"{self} has no gallery") from error

    def _search_path(self, database: Any, extension: bool) -> str:
        """Return the schema in which a gallery is, and that of pgvector."""
        schema = database.execute("SELECT quote_ident(current_schema())").fetchone()[0]
        if schema is None:
            path = database.execute("SHOW search_path").fetchone()[0]
            raise FileNotFoundError(f"{self} has no schema of the search path {path}")
        query = (
            "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace "
            "ON pg_namespace.oid = extnamespace WHERE extname = 'vector'"
        )
        found = database.execute(query).fetchone()
        if found is None and extension:
            with contextlib.suppress(self._psycopg.errors.UniqueViolation):  # another was faster
                try:
                    database.execute("CREATE EXTENSION IF NOT EXISTS vector")
                except self._psycopg.errors.InsufficientPrivilege as error:
                    raise PermissionError(
                        f"{self} may not make the extension pgvector: its owner can, by "
                        "CREATE EXTENSION vector"
                    ) from error
                except self._psycopg.errors.FeatureNotSupported as error:
                    raise OSError(
                        f"the server of {self} has no pgvector: install it there "
                        "(github.com/pgvector/pgvector)"
                    ) from error
            found = database.execute(query).fetchone()
        if found is None:
            raise FileNotFoundError(
                f"{self} has no gallery: the database lacks pgvector's extension"
            )
        return f"{schema}, {found[0]}"

    @contextlib.contextmanager
    def _in_plain_words(self) -> Iterator[None]:
        """Turn the server's complaints into OSError or ValueError, without the password."""
        errors = self._psycopg.errors
        try:
            yield
        except errors.InsufficientPrivilege as error:
            raise PermissionError(f"{self}: {self._said(error)}") from error
        except errors.LockNotAvailable as error:
            raise OSError(f"{self}: another process has been writing for {_WAIT} s") from error
        except (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction) as error:
            raise ValueError(
                f"{self} has tables of other columns than a gallery's, or lacks some: "
                f"{self._said(error)}"
            ) from error
        except self._psycopg.DataError as error:
            raise ValueError(f"{self}: {self._said(error)}") from error
        except self._psycopg.Error as error:
            raise OSError(f"{self}: {self._said(error)}") from error

    def _said(self, error: Exception) -> str:
        """Return the first line of what the server said."""
        lines = str(error).strip().splitlines()
        text = lines[0] if lines else type(error).__name__
        password = self._options.get("password")
        return text.replace(str(password), "***") if password else text

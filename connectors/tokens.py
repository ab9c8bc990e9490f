"""Access tokens: who may push, read, acknowledge or administrate. Kept as SHA-256 of random secrets in `tokens.json`.

The file is for its owner alone (mode 0600) and is read again when it changes, so a removed token ends at once.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

FILE: Final = "tokens.json"
VERSION: Final = 1
SECRET_BYTES: Final = 32
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
"""Names of tokens and sources: they become parts of file names, metrics and logs."""
SHA256: Final = re.compile(r"[0-9a-f]{64}")
PLAIN: Final = ("read", "ack", "admin")
INGEST: Final = "ingest:"


class TokenError(ValueError):
    """The tokens cannot be used or changed like this; the text says what to do. Never holds a secret."""


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    sha256: str
    """Of the secret, in hexadecimal digits."""
    scopes: tuple[str, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources for which it may push."""
        return tuple(s.removeprefix(INGEST) for s in self.scopes if s.startswith(INGEST))


class Tokens:
    """The tokens of one data folder; a file that is not there holds none."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._tokens: tuple[Token, ...] = ()

    def all(self) -> tuple[Token, ...]:
        """The tokens as the file has them now. Raises TokenError where others may read it or it is not understood."""
        with self._lock:
            try:
                fd = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                self._seen, self._tokens = None, ()
                return ()
            except OSError as error:
                raise TokenError(f"{self.path} cannot be read: {error.strerror}") from None
            try:
                found = os.fstat(fd)
                if found.st_mode & 0o077:
                    raise TokenError(f"{self.path} can be read or changed by others; type chmod 600 {self.path}")
                seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                if seen != self._seen:
                    self._tokens = self._parsed(os.read(fd, found.st_size))
                    self._seen = seen
            finally:
                os.close(fd)
            return self._tokens

    def _parsed(self, content: bytes) -> tuple[Token, ...]:
        try:
            given: Any = orjson.loads(content)
            if given["version"] != VERSION:
                raise TokenError(
                    f"{self.path} is of version {given['version']!r}, this program reads {VERSION}; "
                    f"install the newer citybrain, or {self._anew}"
                )
            return tuple(_token(t["name"], t["sha256"], t["scopes"]) for t in given["tokens"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise TokenError(f"{self.path} is not understood ({error}); {self._anew}") from None

    @property
    def _anew(self) -> str:
        """The way out of a file that cannot be used: nothing that it held is known, so each token is made anew."""
        path = shlex.quote(str(self.path))
        away = f"`mv {path} {path}.damaged`"
        return f"put it back from a backup, or move it away ({away}), then make the tokens anew (`citybrain token add`)"

    def find(self, secret: str) -> Token | None:
        """The token of a secret. Takes as long whether and wherever it is found."""
        digest = _sha256(secret)
        found = None
        for token in self.all():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def add(self, name: str, scopes: Sequence[str]) -> str:
        """Makes a token and returns its secret, which is kept nowhere."""
        if not NAME.fullmatch(name):
            raise TokenError(f"name {name[:80]!r} is not allowed; use up to 64 of a-z, 0-9, '_', '.' and '-'")
        for scope in scopes:
            _check(scope)
        if not scopes:
            raise TokenError("a token needs a scope; add --scope ingest:SOURCE, read, ack or admin")
        tokens = self.all()
        if any(t.name == name for t in tokens):
            raise TokenError(f"token {name!r} exists; remove it first, or choose another name")
        secret = "cb_" + secrets.token_urlsafe(SECRET_BYTES)
        self._write((*tokens, Token(name, _sha256(secret), tuple(dict.fromkeys(scopes)))))
        return secret

    def remove(self, name: str) -> None:
        """Ends a token; whoever uses it is refused from the next request on."""
        tokens = self.all()
        rest = tuple(t for t in tokens if t.name != name)
        if len(rest) == len(tokens):
            raise TokenError(f"there is no token {name!r}; there are {', '.join(t.name for t in tokens) or 'none'}")
        self._write(rest)

    def _write(self, tokens: Sequence[Token]) -> None:
        content = orjson.dumps(
            {"version": VERSION, "tokens": [{"name": t.name, "sha256": t.sha256, "scopes": t.scopes} for t in tokens]},
            option=orjson.OPT_INDENT_2,
        )
        made = self.path.with_suffix(f".{os.getpid()}")
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            made.replace(self.path)
        finally:
            made.unlink(missing_ok=True)


def _token(name: object, sha256: object, scopes: object) -> Token:
    """A token of the file; TypeError for what `Tokens` does not write."""
    if not isinstance(name, str) or not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise TypeError("a token's name or sha256 is not one")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise TypeError(f"the scopes of token {name!r} are not a list of texts")
    return Token(name, sha256, tuple(scopes))


def _check(scope: str) -> None:
    if scope in PLAIN or (scope.startswith(INGEST) and NAME.fullmatch(scope.removeprefix(INGEST))):
        return
    raise TokenError(
        f"scope {scope[:80]!r} is unknown; there are ingest:SOURCE, {', '.join(PLAIN)} "
        "(a source's name is up to 64 of a-z, 0-9, '_', '.' and '-')"
    )


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()

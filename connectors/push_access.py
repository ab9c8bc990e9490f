"""Who may push what: from the Authorization header of a request to the source whose records it carries."""

from __future__ import annotations

import logging
from typing import Final

from connectors.tokens import INGEST, NAME, TokenError, Tokens
from pipelines.problem import Problem

log = logging.getLogger(__name__)

CHALLENGE: Final = 'Bearer realm="citybrain"'


def source_of(tokens: Tokens, authorization: str, wanted: str | None) -> tuple[str, str]:
    """The source that the bearer token may push for, and the token's name; `wanted` names a source where it has several.
    Problem 401 or 403 where it may not, 400 where it has several and none is named, 503 where the tokens cannot be used."""
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        detail = "a token is needed: Authorization: Bearer ...; `citybrain token add` makes one"
        raise Problem(401, detail, headers={"WWW-Authenticate": CHALLENGE})
    try:
        token = tokens.find(secret.strip())
    except TokenError as error:
        log.error("%s", error)
        detail = "the server cannot use its tokens; its log and `citybrain doctor` say why and what to do"
        raise Problem(503, detail, headers={"Retry-After": "10"}) from None
    if token is None:
        challenge = f'{CHALLENGE}, error="invalid_token"'
        raise Problem(401, "the token is unknown or was removed", headers={"WWW-Authenticate": challenge})
    sources = token.sources
    if not sources or (wanted is not None and wanted not in sources):
        scope = f"{INGEST}{wanted[:80] if wanted else 'SOURCE'}"
        challenge = f'{CHALLENGE}, error="insufficient_scope"'
        detail = f"the token {token.name!r} does not have the scope {scope!r}"
        raise Problem(403, detail, headers={"WWW-Authenticate": challenge})
    if wanted is None and len(sources) > 1:
        raise Problem(400, f"the token may push for {', '.join(sources)}; say which with ?source=NAME")
    source = wanted or sources[0]
    if not NAME.fullmatch(source):  # of a file that was written by hand: the name becomes a folder's
        raise Problem(403, "the token's scope names a source that is not allowed; make it anew")
    return source, token.name

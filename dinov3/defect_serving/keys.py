"""Keys by which the server knows its clients."""

from __future__ import annotations

import hmac
from pathlib import Path

from dinov3.defect_errors import DefectError
from dinov3.defect_text import decode_text, read_small

SHORTEST = 16  # characters: too many to guess


class Keys:
    """Names and keys of a file with lines of ``NAME:KEY``; lines that are empty or start with ``#`` are passed over.

    Raises:
        DefectError: the file cannot be read, holds no key, or a line is no such pair or its key is short.
    """

    def __init__(self, path: Path, flag: str):
        try:
            text = decode_text(read_small(path))
        except (OSError, ValueError) as error:
            raise DefectError(f"{flag} {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        self._names: list[tuple[bytes, str]] = []
        for number, line in enumerate(text.splitlines(), start=1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, colon, key = line.partition(":")
            if not colon or not name.strip() or not key.isascii() or len(key.strip()) < SHORTEST:
                raise DefectError(
                    f"{flag} {path}, line {number}: expected NAME:KEY with a key of at least {SHORTEST} ASCII "
                    "characters, such as one of: python -c 'import secrets; print(secrets.token_urlsafe())'"
                )
            self._names.append((key.strip().encode(), name.strip()))
        if not self._names:
            raise DefectError(f"{flag} {path}: no key in it; expected lines of NAME:KEY")

    def name_of(self, key: str) -> str | None:
        """Whose key this is; None: nobody's. Takes the same time for any key of that length."""
        given, found = key.encode(errors="replace"), None
        for known, name in self._names:
            if hmac.compare_digest(known, given):
                found = name
        return found

    def session_of(self, token: str) -> str | None:
        """Whose key a page has a session of (:func:`session_token`); None: nobody's."""
        given, found = token.encode(errors="replace"), None
        for key, name in self._names:
            if hmac.compare_digest(session_token(key).encode(), given):
                found = name
        return found


def session_token(key: bytes) -> str:
    """What a browser keeps in place of a key: it cannot be turned into the key, ends with it, and outlives a restart of
    the server."""
    return hmac.new(key, b"a session of this server's pages", "sha256").hexdigest()

"""Checksums of whole files, in the files: for Parquet and zip, whose own leave their ends out.

A Parquet file's checksums cover its pages, not its footer, where a flipped bit can turn one column
into another; a zip archive's cover its members, not its directory. Other programs read the files as
before.
"""

import hashlib
import re

KEY = b"pgsearch.sha256"
NO_CHECKSUM = b"0" * 64

_IN_PARQUET = re.compile(re.escape(KEY) + rb".{1,6}?([0-9a-f]{64})", re.DOTALL)
_IN_ZIP = re.compile(rb"(..)" + re.escape(KEY) + rb"=([0-9a-f]{64})\Z", re.DOTALL)
_ZIP_COMMENT_BYTES = len(KEY) + 1 + len(NO_CHECKSUM)


def seal_parquet(data: bytes) -> bytes:
    """Return a file whose metadata has `NO_CHECKSUM` under `KEY` with its checksum there."""
    start, end = list(_IN_PARQUET.finditer(data))[-1].span(1)
    return b"".join([data[:start], _sha256(data), data[end:]])


def parquet_is_whole(data: bytes) -> bool | None:
    """Whether the checksum of a Parquet file is right; None where it has none."""
    found = list(_IN_PARQUET.finditer(data))
    if not found:
        return None
    start, end = found[-1].span(1)
    return bool(_sha256(b"".join([data[:start], NO_CHECKSUM, data[end:]])) == found[-1][1])


def seal_zip(data: bytes) -> bytes:
    """Return a zip archive without a comment with its checksum as the comment."""
    length = _ZIP_COMMENT_BYTES.to_bytes(2, "little")
    return b"".join([data[:-2], length, KEY, b"=", _sha256(data)])


def zip_is_whole(data: bytes) -> bool | None:
    """Whether the checksum of a zip archive is right; None where it has none."""
    found = _IN_ZIP.search(data, max(0, len(data) - _ZIP_COMMENT_BYTES - 2))
    if found is None:
        return None
    is_ours = int.from_bytes(found[1], "little") == _ZIP_COMMENT_BYTES
    return bool(is_ours and _sha256(data[: found.start()] + b"\0\0") == found[2])


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()

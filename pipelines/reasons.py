"""Why a record is refused: the closed list of reasons that decoders and ingest give (rule 12)."""

from __future__ import annotations

from typing import Final, Literal, get_args

Reason = Literal[
    # The record is not JSON, or not one line of the declared CSV: syntax, NaN or Infinity as a number, an empty record.
    "bad_json",
    # Valid JSON, but an array, a scalar or null instead of an object.
    "not_an_object",
    # A required column is absent.
    "missing_field",
    # A required column is there, and null (or an empty CSV field).
    "null_value",
    # A value of another type than declared: text for a number, a number for text, a fraction for an integer.
    "wrong_type",
    # A number outside the declared valid range, or too large for 64 bits; a negative count.
    "out_of_range",
    # A text that is not among the declared values (milestone, pollutant, value map of a mapping).
    "unknown_value",
    # A time that cannot be read, is naive where no zone is named, or is refused by the daylight-saving policy.
    "bad_time",
    # Bytes that are not valid UTF-8.
    "bad_encoding",
    # The record, or a text in it, is longer than allowed.
    "too_long",
    # Nested deeper than allowed.
    "too_deep",
    # An object that has one key twice, so that parsers may disagree on its value.
    "duplicate_key",
    # A unit that the mapping or the stream does not know.
    "bad_unit",
    # A field that the stream does not declare, where the source is declared strict.
    "extra_field",
    # A key that a lookup's side table does not have.
    "lookup_failed",
    # The source ended or broke off within the record (truncated gzip, half a last line).
    "truncated",
    # A line with more or fewer fields than the header, or a column of the wrong type in a columnar file.
    "bad_columns",
    # Quarantined by ingest: more than F ahead of its arrival (rule 6).
    "future",
    # What an engine or ingest elsewhere sent and the brain cannot use: another frame, an unknown rollup, no row at all.
    "set_aside",
]
REASONS: Final[tuple[Reason, ...]] = get_args(Reason)
"""All reasons, in the order above; tests and the metrics' label values read this."""

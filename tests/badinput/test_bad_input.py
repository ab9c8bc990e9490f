"""Bad input costs only itself (rules 11 and 12): each kind among good neighbours, and which path caught it.

`reference`: the scan did not find the line plain and left it to the reference decoder, which refused it. `fast`: read
with its neighbours, refused by the check of the columns. `accepted`: both decoders accept it, by the language's
definition.
"""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zstandard
from polars.testing import assert_frame_equal

from connectors.files import FileSource, Reading
from connectors.formats import Block
from connectors.formats.ndjson import Judge, Ndjson, decode_fast, decode_reference
from connectors.formats.scanned import Scanner
from pipelines.model import DeadLetter
from pipelines.streams import Flag, Int, Stream, Text, Time

SENSOR = Stream(
    "sensor",
    place="post",
    columns=(
        Int("count", "vehicles", 0, 1_000),
        Int("speed", "0.1 km/h", -10, 3_000, nullable=True),
        Text("kind", values=("car", "bus")),
        Text("note", max_bytes=16, nullable=True),
        Flag("wet"),
        Time("due"),
    ),
    disorder_ms=0,
    period_ms=None,
    dedup=("post", "t"),
    horizon_ms=60_000,
)
SCANNER = Scanner(SENSOR)


def line(**values: str) -> bytes:
    """A good line; keywords replace the JSON text of a value, `none` leaves the key out."""
    good = {
        "t": "1700000000000",
        "post": '"p1"',
        "count": "3",
        "speed": "412",
        "kind": '"car"',
        "note": '"ok"',
        "wet": "true",
    }
    good |= {"due": "1700000900000", "extra": "1.5"} | values
    return ("{" + ",".join(f'"{k}":{v}' for k, v in good.items() if v != "none") + "}").encode()


GOOD = line()
DEEP = "[" * 40 + "]" * 40
KINDS: tuple[tuple[str, bytes, str, str], ...] = (
    # name, line, reason ("" = accepted), caught by
    ("text that is no JSON", b"hello", "bad_json", "reference"),
    ("half a line", GOOD[:40], "bad_json", "reference"),
    ("trailing comma", GOOD[:-1] + b",}", "bad_json", "reference"),
    ("missing brace", GOOD[:-1], "bad_json", "reference"),
    ("missing comma", GOOD.replace(b',"count"', b' "count"'), "bad_json", "reference"),
    ("missing colon", GOOD.replace(b'"count":3', b'"count" 3'), "bad_json", "reference"),
    ("two objects in a line", GOOD + GOOD, "bad_json", "reference"),
    ("text after the object", GOOD + b" x", "bad_json", "reference"),
    ("comment", GOOD + b" // ok", "bad_json", "reference"),
    ("single quotes", GOOD.replace(b'"', b"'"), "bad_json", "reference"),
    ("key without quotes", GOOD.replace(b'"count"', b"count"), "bad_json", "reference"),
    ("NaN", line(count="NaN"), "bad_json", "reference"),
    ("NaN in an extra key", line(extra="NaN"), "bad_json", "reference"),
    ("Infinity", line(count="Infinity"), "bad_json", "reference"),
    ("1e999", line(count="1e999"), "bad_json", "reference"),
    ("leading plus", line(count="+3"), "bad_json", "reference"),
    ("leading zero", line(count="03"), "bad_json", "reference"),
    ("hexadecimal", line(count="0x1F"), "bad_json", "reference"),
    ("point without digits", line(count="3."), "bad_json", "reference"),
    ("Python's True", line(wet="True"), "bad_json", "reference"),
    ("lone surrogate", line(note='"\\ud800"'), "bad_json", "reference"),
    ("unknown escape", line(note='"\\q"'), "bad_json", "reference"),
    ("raw control character", line(note='"a\x01"'), "bad_json", "reference"),
    ("raw NUL", line(note='"a\x00"'), "bad_json", "reference"),
    ("byte order mark inside the file", b"\xef\xbb\xbf" + GOOD, "bad_json", "reference"),
    ("escaped NUL", line(note='"a\\u0000"'), "bad_encoding", "reference"),
    ("DEL in a text", line(note='"a\x7f"'), "bad_encoding", "reference"),
    ("invalid UTF-8", GOOD.replace(b"ok", b"\xff\xfe"), "bad_encoding", "reference"),
    ("invalid UTF-8 in an extra key", GOOD.replace(b"extra", b"extr\xe9"), "bad_encoding", "reference"),
    ("overlong UTF-8", GOOD.replace(b"ok", b"\xc0\x80"), "bad_encoding", "reference"),
    ("surrogate as UTF-8", GOOD.replace(b"ok", b"\xed\xa0\x80"), "bad_encoding", "reference"),
    ("GBK", GOOD.replace(b"ok", "长安街".encode("gbk")), "bad_encoding", "reference"),
    ("UTF-16", GOOD.decode().encode("utf-16-le").replace(b"\n", b""), "bad_json", "reference"),
    ("array", b"[" + GOOD + b"]", "not_an_object", "reference"),
    ("number", b"17", "not_an_object", "reference"),
    ("text", b'"t"', "not_an_object", "reference"),
    ("null", b"null", "not_an_object", "reference"),
    ("empty object", b"{}", "missing_field", "reference"),
    ("missing count", line(count="none"), "missing_field", "reference"),
    ("missing time", line(t="none"), "missing_field", "reference"),
    ("missing place", line(post="none"), "missing_field", "reference"),
    ("key in another case", GOOD.replace(b'"count"', b'"Count"'), "missing_field", "reference"),
    ("key with a blank", GOOD.replace(b'"count"', b'"count "'), "missing_field", "reference"),
    ("null count", line(count="null"), "null_value", "reference"),
    ("null time", line(t="null"), "null_value", "reference"),
    ("null place", line(post="null"), "null_value", "reference"),
    ("null kind", line(kind="null"), "null_value", "reference"),
    ("empty place", line(post='""'), "null_value", "fast"),
    ("number as text", line(count='"3"'), "wrong_type", "reference"),
    ("text for a number", line(count='"three"'), "wrong_type", "reference"),
    ("fraction", line(count="2.7"), "wrong_type", "reference"),
    ("whole number with a point", line(count="3.0"), "wrong_type", "reference"),
    ("exponent", line(count="1e2"), "wrong_type", "reference"),
    ("boolean for a number", line(count="true"), "wrong_type", "reference"),
    ("array for a number", line(count="[3]"), "wrong_type", "reference"),
    ("number for a text", line(note="5"), "wrong_type", "reference"),
    ("number for a place", line(post="5"), "wrong_type", "reference"),
    ("object for a text", line(note='{"a":1}'), "wrong_type", "reference"),
    ("boolean for a text", line(kind="true"), "wrong_type", "reference"),
    ("text for a flag", line(wet='"true"'), "wrong_type", "reference"),
    ("2 for a flag", line(wet="2"), "wrong_type", "reference"),
    ("negative count", line(count="-3"), "out_of_range", "fast"),
    ("count above its range", line(count="1001"), "out_of_range", "fast"),
    ("2^63", line(count="9223372036854775808"), "out_of_range", "reference"),
    ("2^64", line(count="18446744073709551616"), "out_of_range", "reference"),
    ("forty digits", line(count="9" * 40), "out_of_range", "reference"),
    ("unknown kind", line(kind='"tram"'), "unknown_value", "fast"),
    ("empty kind", line(kind='""'), "unknown_value", "fast"),
    ("kind in another case", line(kind='"Car"'), "unknown_value", "fast"),
    ("ISO time", line(t='"2026-03-01T00:00:00Z"'), "bad_time", "reference"),
    ("naive time", line(t='"2026-03-01 00:00:00"'), "bad_time", "reference"),
    ("time as text", line(t='"1700000000000"'), "bad_time", "reference"),
    ("seconds with a fraction", line(t="1700000000.123"), "bad_time", "reference"),
    ("before 1970", line(t="-1"), "bad_time", "fast"),
    ("year 9999", line(t="253402300799000"), "bad_time", "fast"),
    ("nanoseconds", line(t="1700000000000000000"), "bad_time", "reference"),
    ("due before 1970", line(due="-5"), "bad_time", "fast"),
    ("boolean time", line(t="true"), "bad_time", "reference"),
    ("long text", line(note='"' + "x" * 17 + '"'), "too_long", "fast"),
    ("long text in bytes only", line(note='"长安街长安街"'), "too_long", "fast"),
    ("long place", line(post='"' + "p" * 129 + '"'), "too_long", "fast"),
    ("line over 1 MiB", line(note='"' + "x" * (1 << 20) + '"'), "too_long", "reference"),
    ("5 MB line", b"[" * 5_000_000, "too_long", "reference"),
    ("deep nesting", line(extra=DEEP), "too_deep", "reference"),
    ("deep nesting that never closes", b"[" * 5_000, "too_deep", "reference"),
    ("duplicate key", GOOD[:-1] + b',"count":4}', "duplicate_key", "reference"),
    ("duplicate key, same value", GOOD[:-1] + b',"t":1700000000000}', "duplicate_key", "reference"),
    ("duplicate key, escaped", GOOD[:-1] + b',"c\\u006funt":4}', "duplicate_key", "reference"),
    ("minus zero", line(count="-0"), "", "accepted"),
    ("null for a nullable number", line(speed="null"), "", "accepted"),
    ("null for a nullable text", line(note="null"), "", "accepted"),
    ("nullable key left out", line(speed="none"), "", "accepted"),
    ("negative within its range", line(speed="-10"), "", "accepted"),
    ("1 for a flag", line(wet="1"), "", "accepted"),
    ("extra key", line(more='"x"'), "", "accepted"),
    ("stamps of a canonical log", line(id="1", wm="2", late="true", part='"a"', off="9"), "", "accepted"),
    ("duplicate extra key", line(extra='1,"extra":2'), "", "accepted"),
    ("wanted keys inside an extra object", line(extra='{"count":"x","t":null}'), "", "accepted"),
    ("500 extra keys", line(**{f"k{i}": str(i) for i in range(500)}), "", "accepted"),
    ("keys in another order", b"{" + b",".join(reversed(GOOD[1:-1].split(b","))) + b"}", "", "accepted"),
    ("blanks between the tokens", GOOD.replace(b":", b" : ").replace(b",", b" ,\t"), "", "accepted"),
    ("escapes", line(note='"\\u957f\\u0041"'), "", "accepted"),
    ("UTF-8", line(note='"长安街"'), "", "accepted"),
    ("NaN as a text", line(note='"NaN"'), "", "accepted"),
)


def path_of(number: int, payload: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which part of the fast decoder dealt with a line."""
    judged: list[bytes] = []
    judge = Judge.__call__

    def counted(self: Judge, text: bytes) -> object:
        judged.append(text)
        return judge(self, text)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "__call__", counted)
        decoded = decode_fast(Block(1, payload), SCANNER, "f")
    if not any(letter.position == str(number) for letter in decoded.refused):
        return "accepted"
    return "reference" if payload.split(b"\n")[number - 1] in judged else "fast"


def test_each_kind_costs_only_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    caught: Counter[str] = Counter()
    wrong: list[str] = []
    rows = []
    for name, bad, reason, expected in KINDS:
        payload = b"\n".join([GOOD, GOOD, bad, GOOD, GOOD, b""])
        fast = decode_fast(Block(1, payload), SCANNER, "data/posts.ndjson")
        slow = decode_reference(Block(1, payload), SENSOR, "data/posts.ndjson")
        path = path_of(3, payload, monkeypatch)
        caught[path] += 1
        rows.append(f"{name:36} {reason or 'accepted':14} {path}")
        assert_frame_equal(fast.events, slow.events)
        assert fast.refused == slow.refused, name
        assert (fast.records, fast.next_position) == (5, 6), name
        good = [1, 2, 4, 5] if reason else [1, 2, 3, 4, 5]
        if fast.events["record"].to_list() != good or path != expected:
            wrong.append(
                f"{name}: kept {fast.events['record'].to_list()}, caught by {path}, not {expected}: {fast.refused}"
            )
        elif reason:
            wrong += [f"{name}: {p}" for p in _letter_problems(fast.refused, reason, bad)]
        assert fast.records == fast.events.height + len(fast.refused)
    with capsys.disabled():
        print(f"\n{len(KINDS)} kinds of line: {dict(caught)}")
    print("\n".join(rows))
    assert not wrong, "\n".join(wrong)
    assert len({name for name, *_ in KINDS}) == len(KINDS)
    assert sum(n for path, n in caught.items() if path != "accepted") >= 60


def _letter_problems(letters: tuple[DeadLetter, ...], reason: str, bad: bytes) -> list[str]:
    if len(letters) != 1:
        return [f"{len(letters)} dead letters"]
    (letter,) = letters
    out = []
    if (letter.source, letter.position, letter.stream) != ("data/posts.ndjson", "3", "sensor"):
        out.append(f"does not name file and line: {letter}")
    if letter.reason != reason:
        out.append(f"reason {letter.reason}, not {reason}: {letter.detail}")
    if not letter.detail or len(letter.detail) > 300:
        out.append(f"detail {letter.detail!r}")
    if len(letter.payload.encode()) > 2048 or (not letter.payload and bad.strip()):
        out.append(f"payload of {len(letter.payload)} characters")
    return out


def test_all_kinds_together_in_one_block() -> None:
    """Many bad lines at once, in one block and cut into several runs: nothing is lost or counted twice."""
    lines = [text for _, bad, _, _ in KINDS for text in (GOOD, bad)]
    payload = b"\n".join(lines)
    fast, slow = decode_fast(Block(1, payload), SCANNER, "f"), decode_reference(Block(1, payload), SENSOR, "f")
    assert_frame_equal(fast.events, slow.events)
    assert fast.refused == slow.refused
    bad = sum(1 for _, _, reason, _ in KINDS if reason)
    assert len(fast.refused) == bad
    assert fast.records == len(lines) == fast.events.height + bad


def test_details_say_column_value_and_what_is_allowed() -> None:
    wanted = {
        "negative count": "count is -3; allowed is 0 to 1000",
        "unknown kind": 'kind is "tram"; allowed are car, bus',
        "missing count": "count is missing; the stream requires it",
        "number for a text": "note is 5; a text is wanted",
        "fraction": "count is 2.7; a whole number is wanted",
        "long text": "note has 17 bytes; at most 16 are allowed",
        "duplicate key": "count is there more than once; parsers disagree on which one counts",
        "before 1970": "t is -1; allowed are whole milliseconds since 1970-01-01 (UTC), 0 to 10382255999999",
    }
    for name, detail in wanted.items():
        bad = next(b for n, b, _, _ in KINDS if n == name)
        (letter,) = decode_fast(Block(1, GOOD + b"\n" + bad), SCANNER, "f").refused
        assert letter.detail == detail


# Files ---------------------------------------------------------------------------------------------------------------


def read(path: Path, reading: Reading | None = None) -> tuple[pl.DataFrame, list[DeadLetter], int]:
    frames, letters, records = [], [], 0
    with FileSource(path, SENSOR, Ndjson(SENSOR), name="posts", reading=reading) as source:
        while not source.ended:
            decoded = source.read()
            if decoded is not None:
                frames.append(decoded.events)
                letters += decoded.refused
                records += decoded.records
    return (pl.concat(frames) if frames else pl.DataFrame()), letters, records


MANY = b"\n".join(line(count=str(i % 900), extra=str(i)) for i in range(3_000)) + b"\n"
SMALL = Reading(block_bytes=4_096, threads=3, ahead=3)


def test_empty_file_has_no_records(tmp_path: Path) -> None:
    path = tmp_path / "empty.ndjson"
    for content in (b"", b"\n\n", gzip.compress(b""), zstandard.compress(b"")):
        path.write_bytes(content)
        events, letters, records = read(path)
        assert (events.height, letters, records) == (0, [], 0)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_truncated_compressed_file_keeps_what_comes_before(pack: object, tmp_path: Path) -> None:
    path = tmp_path / "posts.ndjson"
    packed = pack(MANY)  # type: ignore[operator]
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(packed[: int(len(packed) * share)])
        events, letters, records = read(path, SMALL)
        kept = events.height
        assert kept < 3_000
        assert events["record"].to_list() == list(range(1, kept + 1))
        assert [(x.source, x.reason, x.position) for x in letters] == [("posts", "truncated", str(kept + 1))]
        assert "break off" in letters[0].detail
        assert records == kept + 1
        print(f"{path.suffix} cut at {share:.0%}: {kept} of 3000 records kept")
    assert kept > 0


def test_damaged_gzip_keeps_what_comes_before(tmp_path: Path) -> None:
    path = tmp_path / "posts.gz"
    packed = bytearray(gzip.compress(MANY, compresslevel=1))
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)
    events, letters, _ = read(path, SMALL)
    assert 500 < events.height < 2_500
    assert letters[-1].reason == "truncated"


def test_a_damaged_gzip_that_is_read_in_one_go_keeps_what_comes_before(tmp_path: Path) -> None:
    path = tmp_path / "posts.gz"
    packed = bytearray(gzip.compress(MANY[: MANY.index(b"\n", len(MANY) // 30) + 1]))
    packed[len(packed) // 2] ^= 0xFF
    assert len(packed) < 8192
    path.write_bytes(packed)
    events, letters, _ = read(path, SMALL)
    assert events.height > 10 and letters[-1].reason == "truncated"
    assert events["record"].to_list() == list(range(1, events.height + 1))


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(MANY),
        gzip.compress(MANY[: MANY.index(b"\n") + 1]) + gzip.compress(MANY[MANY.index(b"\n") + 1 :]) + b"\0" * 512,
        zstandard.compress(MANY),
        zstandard.compress(MANY[: MANY.index(b"\n") + 1]) + zstandard.compress(MANY[MANY.index(b"\n") + 1 :]),
        MANY,
        b"\xef\xbb\xbf" + MANY,
        MANY.replace(b"\n", b"\r\n"),
        MANY.removesuffix(b"\n"),
    ],
    ids=["gzip", "gzip members", "zstd", "zstd frames", "plain", "byte order mark", "CRLF", "no last line feed"],
)
def test_every_wrapping_gives_the_same_events(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "posts.ndjson"
    path.write_bytes(content)
    events, letters, records = read(path, SMALL)
    assert not letters
    assert records == 3_000
    assert_frame_equal(events, decode_reference(Block(1, MANY), SENSOR, "f").events)


def test_an_endless_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "posts.ndjson"
    path.write_bytes(GOOD + b"\n" + b"x" * 5_000_000 + b"\n" + GOOD + b"\n")
    events, letters, _ = read(path, SMALL)
    assert events["record"].to_list() == [1, 3]
    assert [(x.reason, x.position) for x in letters] == [("too_long", "2")]


def test_a_file_of_another_kind_is_only_dead_letters(tmp_path: Path) -> None:
    path = tmp_path / "posts.png"
    path.write_bytes(bytes(np.random.default_rng(1).integers(0, 256, 200_000, dtype=np.uint8)))
    events, letters, records = read(path, SMALL)
    assert events.height == 0
    assert records == len(letters) > 100

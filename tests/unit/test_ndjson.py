"""Canonical NDJSON: the compiled scan accepts the reference decoder's language, with the same values (rule 12)."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from connectors.formats import Block, scan, scanned
from connectors.formats.ndjson import Judge, Ndjson, decode_fast, decode_reference
from connectors.formats.scanned import Scanner
from pipelines.model import Decoded
from pipelines.records import Refused
from pipelines.streams import AIR, CASE, DET, LINK, TKT, Flag, Int, Stream, Text, Time
from tests.mutants import mutant

SIGNED = Stream(
    "signed",
    place="post",
    columns=(
        Int("low", "1", -(2**63), 2**63 - 1),
        Int("t10", "0.1 C", -500, 600, nullable=True),
        Text("note", max_bytes=40, nullable=True),
        Flag("on", nullable=False),
        Time("due"),
    ),
    disorder_ms=0,
    period_ms=None,
    dedup=("post", "t"),
    horizon_ms=0,
)
STREAMS = (LINK, DET, AIR, CASE, TKT, SIGNED)
T0 = 1_795_416_600_000

# What to damage a line with: text to put anywhere, and text to put where a value is.
NASTY = (
    b'"', b"\\", b"\\u0041", b"\\ud800", b'\\"', b"{", b"}", b"[", b"]", b":", b",", b"\x00", b"\x1f", b"\t", b"\r",
    b"\x7f", b"\xff", b"\xc3\xa9", b"\xe9\x95\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b" ", b"\n",
    b"\r\n", b"-", b"+", b"0", b"00", b"1", b"9", b".", b".5", b"e3", b"E+2", b'"t":1,', b'"n":null,', b'"x":[1,2],',
    b"{}", b"//", b'"x":{"t":1},', b'"x":1.50,', b'"x":-0.0,', b'"x":"y",', b'""', b"'",
)  # fmt: skip
VALUES = (
    b"0", b"-1", b"-0", b"00", b"1e3", b"1.0", b"2.7", b"1E-2", b"1e999", b"99999999999999999999",
    b"123456789012345678", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808", b"null", b"true",
    b"false", b"NaN",
    b"0x1F",
    b'"5"', b'""', b'"a"', b'"report"', b'"a\\n"', b'"\xe9\x95\xbf"', b'"\xff"', b"[1]", b"[]", b"{}", b'{"t":1}', b"",
    b'"' + b"x" * 130 + b'"', b'"2026-03-01T00:00:00Z"', b"-1.5", b"12345678901234567890123.5", b".5", b"5.", b"tru",
    b"+1",
)  # fmt: skip


def _value(column: Int | Text | Flag | Time, rng: random.Random) -> object:
    if getattr(column, "nullable", False) and rng.random() < 0.2:
        return None
    match column:
        case Int(low=low, high=high):
            return rng.choice([low, high, rng.randint(low, high), rng.randint(low, low + min(high - low, 99))])
        case Text(values=values):
            return (
                rng.choice(values)
                if values
                else rng.choice(["a", "A-12", "长安街", "x" * rng.randint(1, 40), "a b:c,d"])
            )
        case Flag():
            return rng.choice([True, False, 0, 1])
        case Time():
            return T0 + rng.randrange(10**6)


def canonical(stream: Stream, rng: random.Random) -> bytes:
    """A valid line in one of the ways that programs write them."""
    record: dict[str, object] = {
        "t": T0 + rng.randrange(10**6),
        stream.place: f"p{rng.randrange(10 ** rng.choice([1, 4, 14]))}",
    }
    record |= {c.name: _value(c, rng) for c in stream.columns}
    for name in [c.name for c in stream.columns if getattr(c, "nullable", False) and record[c.name] is None]:
        if rng.random() < 0.3:
            del record[name]
    if rng.random() < 0.5:
        record |= {
            "speed": rng.choice([1.5, -7, 0.25, 12, 10**12, 3e-7, True, None]),
            "model": rng.choice(["v4", "", None]),
        }
    if rng.random() < 0.1:
        record |= {"box": rng.choice([{"t": 1, "z": "q"}, [1, 2], ["a"], {}, []])}
    if rng.random() < 0.1:
        items = list(record.items())
        rng.shuffle(items)
        record = dict(items)
    style = rng.random()
    if style < 0.8:
        return orjson.dumps(record)
    return json.dumps(record, ensure_ascii=style < 0.85).encode()


@dataclass(frozen=True)
class Mutation:
    kind: str
    at: float
    token: bytes

    def apply(self, line: bytes) -> bytes:
        i = int(self.at * (len(line) + 1))
        match self.kind:
            case "insert":
                return line[:i] + self.token + line[i:]
            case "replace":
                return line[:i] + self.token + line[i + len(self.token) :]
            case "delete":
                return line[:i] + line[i + 1 + len(self.token) % 4 :]
            case "flip":
                return (
                    line[:i] + bytes([line[i] ^ (1 << len(self.token) % 8)]) + line[i + 1 :] if i < len(line) else line
                )
            case "value":
                # Puts the token where a value is: after a colon.
                colons = [k for k, c in enumerate(line) if c == 0x3A]
                if not colons:
                    return line
                k = colons[int(self.at * len(colons)) % len(colons)] + 1
                stop = next((m for m in range(k, len(line)) if line[m] in b",}"), len(line))
                return line[:k] + self.token + line[stop:]
            case "repeat":
                return line[:i] + line[i // 2 : i] + line[i:]
            case _:
                j = (i * 7) % (len(line) + 1)
                return line[: min(i, j)] + line[max(i, j) :] + line[min(i, j) : max(i, j)]


mutations = st.builds(
    Mutation,
    st.sampled_from(["insert", "replace", "delete", "flip", "repeat", "swap"]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(NASTY),
) | st.builds(Mutation, st.just("value"), st.floats(0, 1, exclude_max=True), st.sampled_from(VALUES))
blocks = st.tuples(
    st.sampled_from(STREAMS),
    st.integers(0, 2**32),
    st.lists(st.one_of(st.just(()), st.just(()), st.lists(mutations, min_size=1, max_size=3)), min_size=1, max_size=40),
    st.sampled_from([b"\n", b"\n", b"\n", b"\r\n"]),
    st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf"]),
    st.booleans(),
)


def build(case: tuple) -> tuple[Stream, bytes]:
    stream, seed, plans, end, bom, closed = case
    rng = random.Random(seed)
    lines = []
    for plan in plans:
        line = canonical(stream, rng)
        for mutation in plan:
            line = mutation.apply(line)
        lines.append(line)
    return stream, bom + end.join(lines) + (end if closed else b"")


def differences(fast: Decoded, slow: Decoded) -> list[str]:
    out = []
    if (fast.next_position, fast.records) != (slow.next_position, slow.records):
        out.append(f"position, records {(fast.next_position, fast.records)} != {(slow.next_position, slow.records)}")
    out += [f"{a} != {b}" for a, b in zip(fast.refused, slow.refused, strict=False) if a != b]
    if len(fast.refused) != len(slow.refused):
        out.append(f"{len(fast.refused)} != {len(slow.refused)} refused")
    try:
        assert_frame_equal(fast.events, slow.events)
    except AssertionError as error:
        out.append(str(error))
    return out


COUNTS: Counter[str] = Counter()
SCANNERS = {stream.name: Scanner(stream) for stream in STREAMS}


@settings(max_examples=400, deadline=None)
@given(blocks, st.sampled_from([1, 1, 1000]))
def fast_and_reference_decoder_agree(case: tuple, first: int) -> None:
    stream, payload = build(case)
    block = Block(first, payload)
    slow = decode_reference(block, stream, "f")
    assert not differences(decode_fast(block, SCANNERS[stream.name], "f"), slow)
    COUNTS["blocks"] += 1
    COUNTS["accepted"] += slow.events.height
    COUNTS["refused"] += len(slow.refused)
    COUNTS.update(letter.reason for letter in slow.refused)


def test_fast_and_reference_decoder_agree() -> None:
    fast_and_reference_decoder_agree()
    print("fast = reference:", dict(COUNTS))
    assert COUNTS["blocks"] >= 300
    assert COUNTS["accepted"] > 1000
    assert COUNTS["refused"] > 500


def many(stream: Stream, lines: int, seed: int, bad: float) -> bytes:
    rng = random.Random(seed)
    out = []
    for _ in range(lines):
        line = canonical(stream, rng)
        if rng.random() < bad:
            kind, tokens = rng.choice([("insert", NASTY), ("flip", NASTY), ("value", VALUES)])
            line = Mutation(kind, rng.random(), rng.choice(tokens)).apply(line)
        out.append(line)
    return b"\n".join(out) + b"\n"


@pytest.mark.parametrize("views", [True, False], ids=["views", "copied"])
@pytest.mark.parametrize("stream", STREAMS, ids=lambda s: s.name)
def test_long_blocks_agree(stream: Stream, views: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where pyarrow cannot take string views."""
    monkeypatch.setattr("connectors.formats.scanned.VIEWS", views and scanned.VIEWS)
    payload = many(stream, 1200, 7, 0.04)
    slow = decode_reference(Block(5, payload), stream, "f")
    assert slow.events.height > 1000
    assert len(slow.refused) > 10
    assert not differences(decode_fast(Block(5, payload), SCANNERS[stream.name], "f"), slow)


GOOD = [b'{"t":%d,"link":"l%d","tt_ms":%d,"n":%d,"v":1.5}' % (i, i, 5 + i, i) for i in range(9)]
CONTROLS = {
    "control characters read": (" | word - BLANKS", "", b'{"t":1,"link":"a\x01","tt_ms":5,"n":1}'),
    "names not compared": (
        "& KEEP[length]", "& KEEP[1]", b'{"t":1,"link":"a","ttxms":5,"n":1}',
    ),
    "pieces not compared": (
        "if length and _same(words, at, words, usual[place, START], length)", "if length",
        b'{"t":1,"link":"a","tt_ms":5,"m":1,"v":1.5}',
    ),
    "a key may come twice": ("if seen[key] == line:", "if False:", b'{"t":1,"link":"a","tt_ms":5,"n":1,"n":1}'),
    "a key may be missing": ("if required[key] and seen[key] != line:", "if False:", b'{"t":1,"link":"a","tt_ms":5}'),
    "null for any key": ("if at < 0 or required[key]:", "if at < 0:", b'{"t":1,"link":"a","tt_ms":5,"n":null}'),
    "leading zeros read": (
        "digits > DIGITS or (digits > 1 and data[first] == ZERO)", "digits > DIGITS",
        b'{"t":1,"link":"a","tt_ms":05,"n":1}',
    ),
    "long integers wrap": ("DIGITS: Final = 18", "DIGITS: Final = 24", b'{"t":1,"link":"a","tt_ms":5,"n":%d}' % (2**64)),
    "UTF-8 not checked": ("high & 0x80 and", "False and", b'{"t":1,"link":"a\xff","tt_ms":5,"n":1}'),
    "text behind the object": (
        "at = _blanks(data, at + 1)\n    if data[at] != LINE_FEED", "at = _blanks(data, at + 2)\n    if data[at] != LINE_FEED",
        b'{"t":1,"link":"a","tt_ms":5,"n":1}}',
    ),
    "extra values not read": (
        "if at == first or (at > first + 1 and data[first] == ZERO):", "if at == first:",
        b'{"t":1,"link":"a","tt_ms":5,"n":1,"v":01.5}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTROLS)
def test_negative_controls(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan without one of its checks must be found out by the same comparison; the whole one, not compiled, not."""
    old, new, line = CONTROLS[what]
    block = Block(1, b"\n".join([*GOOD, line, *GOOD]))
    slow = decode_reference(block, LINK, "f")
    for change, wrong in (old, False), (new, True):
        monkeypatch.setattr("connectors.formats.scanned.scan", mutant(scan, old, change).scan)
        try:
            with np.errstate(over="ignore"):
                found = differences(decode_fast(block, SCANNERS["link"], "f"), slow)
        except OverflowError as error:  # where machine code would wrap
            found = [str(error)]
        assert bool(found) == wrong
    print(f"{what}: {len(found)} differences")


def test_negative_control_of_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block(1, b"\n".join([*GOOD, b'{"t":1,"link":"a","tt_ms":0,"n":1}']))
    monkeypatch.setattr("connectors.formats.ndjson.check", lambda frame, stream, control: (frame, {}))
    assert differences(decode_fast(block, SCANNERS["link"], "f"), decode_reference(block, LINK, "f"))


def test_common_ways_of_writing_are_decoded_together() -> None:
    """What programs write is not left to the reference decoder: else correctness would hold and speed not."""
    other = {"occ_e4": 17, "duration_ms": 60000, "name": "长安街"}
    records = [
        {
            "t": T0 + i,
            "lane": f"l{i}",
            "count": i,
            "speed_dmh": None if i % 3 else 412,
            "lon": i - 104.25,
            "ok": i % 2 == 0,
        }
        | other
        for i in range(300)
    ]
    for dump in (orjson.dumps, lambda r: json.dumps(r, ensure_ascii=False).encode()):
        for end in (b"\n", b"\r\n"):
            judged: list[bytes] = []
            original = Judge.__call__

            def counted(self: Judge, line: bytes) -> object:
                judged.append(line)  # noqa: B023
                return original(self, line)  # noqa: B023

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Judge, "__call__", counted)
                out = Ndjson(DET).decode(Block(1, end.join(dump(r) for r in records) + end), "f")
            assert out.events.height == 300
            assert out.events["speed_dmh"].null_count() == 200
            assert len(judged) <= 3, f"{len(judged)} of 300 lines were judged one by one"


def test_each_block_is_read_anew() -> None:
    """Nothing of a block, least of all the places of its texts, is left in the next one's columns."""
    scanner = Scanner(LINK)
    one = b'{"t":1,"link":"a-rather-long-name","tt_ms":5,"n":1}\n'
    first = scanner.scan(one * 3, 1)
    second = scanner.scan(one.replace(b"rather", b"longer"), 4)
    assert first.frame["place"].to_list() == ["a-rather-long-name"] * 3
    assert second.frame.rows() == [(4, 0, 1, "a-longer-long-name", 5, 1)]
    assert second.line(0) == one.replace(b"rather", b"longer")[:-1]


def test_blank_lines_are_no_records_but_count_as_lines() -> None:
    good = b'{"t":1,"link":"a","tt_ms":5,"n":1}'
    payload = b"\n".join([b"", good, b"  \t", b"\r", good, b"x", b""]) + b"\n"
    for out in (
        decode_fast(Block(10, payload), SCANNERS["link"], "f"),
        decode_reference(Block(10, payload), LINK, "f"),
    ):
        assert out.events["record"].to_list() == [11, 14]
        assert [letter.position for letter in out.refused] == ["15"]
        assert (out.records, out.next_position) == (3, 17)


def test_verdict_of_the_reference_decoder() -> None:
    judge = Judge(LINK)
    assert judge(b'{"t":1,"link":"a","tt_ms":5,"n":-0,"id":7,"wm":null}') == {"t": 1, "place": "a", "tt_ms": 5, "n": 0}
    assert isinstance(judge(b"[1]"), Refused)
    assert judge(b" \r") is None

"""The spool (rule 34): what was acknowledged is there, once, after crashes, damage and full disks; all else is told."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.formats.decoded import finish, frame_of
from pipelines import spool_answers, syncing
from pipelines import spool_segment as segments
from pipelines.ingest import Ingest
from pipelines.model import DeadLetter, Decoded, PlaceRegistry
from pipelines.spool import KeyReused, Spool, SpoolFull, SpoolOwned
from pipelines.spool_segment import Answer, SpoolDamaged
from pipelines.spool_source import SpoolSource
from pipelines.streams import LINK
from pipelines.watermark import Input

ROOT = Path(__file__).resolve().parents[2]
INPUT = "push:a:link"
Told = tuple[int, str, int]
"""Record number, place (`!` for a refused record), arrival."""


def batch(name: str, count: int, bad: tuple[int, ...] = ()) -> Decoded:
    """`count` records at one place, those numbered in `bad` refused."""
    rows = [(n, {"t": 1000 + n, "place": name, "tt_ms": 5, "n": 1}) for n in range(1, count + 1) if n not in bad]
    refused = tuple(DeadLetter(INPUT, str(n), "link", "bad_json", "why", "payload") for n in bad)
    return Decoded(INPUT, "link", finish(frame_of(rows, LINK), LINK), refused, count + 1, count)


def opened(folder: Path, **more: Any) -> Spool:
    return Spool(folder, INPUT, "link", **{"segment_bytes": 4096, "max_bytes": 1 << 20, **more})


def told(decoded: Decoded | None) -> list[Told]:
    if decoded is None:
        return []
    good = [(r, p, a) for r, p, a in decoded.events.select("record", "place", "arrival").iter_rows()]
    return sorted([*good, *((int(x.position), "!", x.seen_at) for x in decoded.refused)])


def everything(spool: Spool, position: int | None = None) -> list[Told]:
    source = SpoolSource(spool)
    if position is not None:
        source.seek(position)
    found: list[Told] = []
    while (decoded := source.read()) is not None:
        found += told(decoded)
    source.close()
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    one = opened(tmp_path / "s")
    yield one
    one.close()


# What a spool gives back -----------------------------------------------------------------------------------------------


def test_gives_back_what_was_appended_with_numbers_and_arrivals(spool: Spool) -> None:
    assert (spool.start, spool.end, everything(spool)) == (1, 1, [])
    one = batch("x", 3, bad=(2,))
    assert spool.append(one, 50) == (1, None)
    assert spool.append(batch("y", 2), 60) == (4, None)
    assert spool.end == 6
    source = SpoolSource(spool)
    decoded = source.read()
    assert decoded is not None and source.read() is None
    assert told(decoded) == [(1, "x", 50), (2, "!", 50), (3, "x", 50), (4, "y", 60), (5, "y", 60)]
    assert (decoded.next_position, decoded.records, decoded.input, decoded.stream) == (6, 5, INPUT, "link")
    assert decoded.events.schema == {**one.events.schema, "arrival": pl.Int64}
    assert decoded.events.drop("record", "arrival")[:2].equals(one.events.drop("record"))
    assert replace(decoded.refused[0], seen_at=0) == one.refused[0]
    assert not source.ended and not source.finite


def test_the_same_after_opening_again(tmp_path: Path) -> None:
    first = opened(tmp_path)
    for turn in range(40):
        first.append(batch(f"x{turn}", 1 + turn % 3, bad=(1,)), turn)
    before = everything(first)
    first.close()
    again = opened(tmp_path)
    assert everything(again) == before and again.end == first.end and again.recovered is None
    assert len(list(tmp_path.glob("*.spool"))) > 3
    assert again.append(batch("z", 1), 99)[0] == first.end
    again.close()


def test_seek_and_limit_cut_anywhere(spool: Spool) -> None:
    for turn in range(12):
        spool.append(batch(f"x{turn}", 5, bad=(2, 4)), turn)
    whole = everything(spool)
    for position in (0, 1, 2, 7, 30, 58, 60, 61):
        assert everything(spool, position) == whole[max(position, 1) - 1 :]
    source = SpoolSource(spool)
    found: list[Told] = []
    for limit in (1, 2, 4, 4, 9, 11, 61, None):
        source.limit = limit
        while (decoded := source.read()) is not None:
            assert limit is None or decoded.next_position <= limit
            found += told(decoded)
        assert len(found) == (61 if limit is None else limit) - 1
    assert found == whole
    source.close()


def test_batches_of_another_version_are_read_by_themselves(spool: Spool) -> None:
    spool.append(batch("x", 2), 1)
    other = batch("y", 2)
    spool.append(replace(other, events=other.events.with_columns(more=pl.lit(1))), 2)
    source = SpoolSource(spool)
    assert [told(source.read()) for _ in range(3)] == [[(1, "x", 1), (2, "x", 1)], [(3, "y", 2), (4, "y", 2)], []]


def test_new_folders_are_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    real = syncing.synced
    monkeypatch.setattr(syncing, "synced", lambda folder: (synced.append(folder), real(folder)))
    opened(tmp_path / "a" / "b").close()
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}


def test_trim_deletes_whole_files_below_a_position(spool: Spool) -> None:
    for turn in range(60):
        spool.append(batch(f"x{turn}", 2), turn)
    held, files = spool.held_bytes, len(list(spool.folder.glob("*.spool")))
    spool.trim(1)
    assert spool.start == 1 and spool.held_bytes == held
    spool.trim(61)
    start = spool.start
    assert 1 < start <= 61 and spool.held_bytes < held and len(list(spool.folder.glob("*.spool"))) < files
    assert everything(spool) == everything(spool, start) and everything(spool)[0][0] == start
    with pytest.raises(LookupError, match=f"begins with record {start}; record {start - 1} was trimmed"):
        everything(spool, start - 1)
    spool.trim(10**9)
    assert spool.end == 121 and spool.append(batch("z", 1), 1)[0] == 121
    spool.close()
    again = opened(spool.folder)
    assert again.end == 122
    again.close()


def test_full_is_refused_until_it_is_trimmed(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=2048, max_bytes=8192)
    while not spool.full:
        spool.append(batch("x", 2), 1)
    assert 8192 <= spool.held_bytes < 10_000
    with pytest.raises(SpoolFull, match="bytes, 8192 are allowed"):
        spool.append(batch("x", 2), 1)
    end = spool.end
    assert everything(spool)[-1][0] == end - 1
    spool.trim(end)
    assert spool.append(batch("y", 1), 1)[0] == end
    spool.close()
    with pytest.raises(ValueError, match="at least two files"):
        opened(tmp_path / "other", segment_bytes=10, max_bytes=19)


def test_one_process_at_a_time(spool: Spool) -> None:
    with pytest.raises(SpoolOwned, match="open in another process"):
        opened(spool.folder)
    spool.close()
    with pytest.raises(OSError, match="closed"):
        spool.append(batch("x", 1), 1)
    with pytest.raises(ValueError, match="no record"):
        spool.append(batch("x", 0), 1)


def test_concurrent_appends_share_fsyncs_and_get_numbers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path, segment_bytes=1 << 18)
    syncs = 0
    real = segments.sync

    def slow(fd: int) -> None:
        nonlocal syncs
        syncs += 1
        threading.Event().wait(0.03)
        real(fd)

    monkeypatch.setattr(segments, "sync", slow)
    firsts: dict[str, int | None] = {}

    def append(thread: int) -> None:
        for turn in range(10):
            name = f"x{thread}-{turn}"
            firsts[name] = spool.append(batch(name, 2), 1)[0]

    threads = [threading.Thread(target=append, args=(n,)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(x for x in firsts.values() if x) == list(range(1, 161, 2))
    assert {(n, p) for n, p, _ in everything(spool)} == {(f + k, p) for p, f in firsts.items() if f for k in (0, 1)}
    print(f"80 appends, {syncs} fsyncs")
    assert syncs < 40
    spool.close()


def test_the_arrival_and_not_the_time_of_reading_decides_what_lies_ahead(spool: Spool) -> None:
    """Rule 6: what was from the future when it came stays so, however late it is read; and nothing else becomes so."""
    minute = 60_000
    spool.append(batch("x", 1), 1_001 - 5 * minute)
    spool.append(batch("y", 1), 1_000 - 5 * minute)
    decoded = SpoolSource(spool).read()
    assert decoded is not None
    ingest = Ingest(LINK, [Input(INPUT, "p0")], live=True, registry=PlaceRegistry(), start=0)
    (run,) = ingest.push(decoded, 10**10)
    assert run.events is not None and run.events.height == 1 and ingest.counters["quarantined"] == 1
    assert [x.position for x in ingest.dead_letters()] == ["2"]


# Idempotency -----------------------------------------------------------------------------------------------------------


def test_a_key_is_stored_once_and_answered_alike(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    answer = Answer("k", "digest", 202, '{"accepted":2}')
    assert spool.append(batch("x", 2), 1, answer) == (1, answer)
    assert spool.append(batch("x", 2), 2, replace(answer, body="other")) == (None, answer)
    with pytest.raises(KeyReused, match="'k' was used for another body"):
        spool.append(batch("y", 2), 3, replace(answer, digest="other"))
    spool.close()
    again = opened(tmp_path)
    assert again.answer("k") == answer and again.answer("other") is None
    assert again.append(batch("x", 2), 4, answer) == (None, answer)
    assert len(everything(again)) == 2
    again.close()


def test_parallel_appends_of_a_key_store_once(spool: Spool) -> None:
    results: list[tuple[int | None, Answer | None]] = []
    errors: list[Exception] = []
    gate = threading.Barrier(12)

    def append(n: int) -> None:
        gate.wait()
        try:
            results.append(spool.append(batch("x", 2), n, Answer("k", "d" if n < 10 else "e", 202, str(n))))
        except KeyReused as error:
            errors.append(error)

    threads = [threading.Thread(target=append, args=(n,)) for n in range(12)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(everything(spool)) == 2 and len({a for _, a in results}) == 1 and len(results) + len(errors) == 12
    assert sorted(first or 0 for first, _ in results)[-2:] == [0, 1]


def test_answers_outlive_their_files_for_a_day_and_are_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.append(batch("x", 1), 1_000, Answer("old", "d", 202, ""))
    for turn in range(60):
        spool.append(batch("x", 1), 2_000 + turn, Answer(f"k{turn}", "d", 202, ""))
    spool.trim(spool.end)
    assert spool.answer("old") is not None
    spool.append(batch("x", 1), 1_001 + 86_400_000, Answer("new", "d", 202, ""))
    for turn in range(30):
        spool.append(batch("x", 2), 86_500_000, Answer(f"l{turn}", "d", 202, ""))
    spool.trim(spool.end)
    assert spool.answer("old") is None and spool.answer("new") is not None
    monkeypatch.setattr(spool_answers, "MAX_ANSWERS", 3)
    answers = spool_answers.Answers()
    for turn in range(9):
        answers.add(Answer(f"m{turn}", "d", 202, ""), turn, turn)
    assert len(answers) == 3 and answers.get("m5") is None and answers.get("m6") is not None


# Crashes ---------------------------------------------------------------------------------------------------------------


def unmarked(folder: Path, batches: int) -> tuple[Path, int, int, list[Told]]:
    """A file whose last batch was written and never acknowledged: path, where it begins, its end, what was before it."""
    spool = opened(folder, segment_bytes=1 << 16)
    for turn in range(batches):
        spool.append(batch(f"x{turn}", 2), turn)
    before = everything(spool)
    path = spool.segment(1).path  # type: ignore[union-attr]
    length = path.stat().st_size
    spool.append(batch("last", 3, bad=(1,)), 99)
    spool.close()
    with path.open("r+b") as file:
        segments.write_mark(file.fileno(), length)
    return path, length, path.stat().st_size, before


def test_a_torn_tail_is_cut_at_every_byte_and_told(tmp_path: Path) -> None:
    path, length, size, before = unmarked(tmp_path / "made", 3)
    content = path.read_bytes()
    for cut in range(length, size + 1):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / path.name).write_bytes(content[:cut])
        spool = opened(folder)
        assert (spool.recovered is not None) == (length < cut < size)
        assert everything(spool)[: len(before)] == before and spool.end == (10 if cut == size else 7)
        if cut % 16 == 0:
            assert spool.append(batch("z", 1), 1)[0] == spool.end - 1
            spool.close()
            again = opened(folder)
            assert again.recovered is None and len(everything(again)) == again.end - 1
            again.close()
        spool.close()
        shutil.rmtree(folder)


def test_acknowledged_records_are_never_cut_off(tmp_path: Path) -> None:
    """The same truncation of a batch that was acknowledged is damage."""
    made = opened(tmp_path / "made")
    made.append(batch("x", 3), 1)
    made.close()
    path = next(made.folder.glob("*.spool"))
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(SpoolDamaged) as caught:
            opened(made.folder)
        assert str(path) in str(caught.value) and f"byte {caught.value.offset}" in str(caught.value)
        assert path.read_bytes() == content[:cut], "nothing is changed"


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    made = opened(tmp_path, segment_bytes=1600, max_bytes=1 << 16)
    for turn in range(2):
        made.append(batch(f"x{turn}", 1), turn, Answer(f"k{turn}", "d", 202, "{}"))
    made.close()
    files = sorted(tmp_path.glob("*.spool"))
    assert len(files) > 1
    flips = 0
    for path in files:
        content = path.read_bytes()
        for at in range(len(content)):
            for bit in range(8) if at % 16 == 0 or at >= segments.START else (at % 8,):
                changed = bytearray(content)
                changed[at] ^= 1 << bit
                path.write_bytes(changed)
                with pytest.raises(SpoolDamaged, match="rename it to"):
                    opened(tmp_path)
                flips += 1
        path.write_bytes(content)
    opened(tmp_path).close()
    print(f"{flips} flips detected")
    assert flips > 5_000


def test_damage_while_it_is_open_is_seen_by_the_reader(spool: Spool) -> None:
    spool.append(batch("x", 3), 1)
    path = next(spool.folder.glob("*.spool"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(SpoolDamaged, match="checksum"):
        SpoolSource(spool).read()


def test_a_damaged_file_can_be_given_up(tmp_path: Path) -> None:
    made = opened(tmp_path)
    for turn in range(90):
        made.append(batch(f"x{turn}", 2), turn)
    whole = everything(made)
    made.close()
    files = sorted(tmp_path.glob("*.spool"))
    assert len(files) > 3
    files[1].rename(files[1].with_suffix(".gone"))
    with pytest.raises(SpoolDamaged, match=f"records {int(files[1].stem)} to {int(files[2].stem) - 1}.* are missing"):
        opened(tmp_path)
    files[1].with_suffix(".gone").rename(files[1].with_suffix(".lost"))
    low, high = int(files[1].stem), int(files[2].stem)
    spool = opened(tmp_path)
    assert everything(spool) == [x for x in whole if not low <= x[0] < high]
    assert everything(spool, low + 1) == [x for x in whole if x[0] >= high]
    spool.close()
    files[-1].rename(files[-1].with_suffix(".lost"))
    spool = opened(tmp_path)
    first, _ = spool.append(batch("z", 1), 1)
    assert first == int(files[-1].stem) + 10**12 and everything(spool)[-1][0] == first
    spool.trim(first)
    assert not list(tmp_path.glob("*.lost")) and spool.start == first
    spool.close()
    opened(tmp_path).close()


def test_a_reader_goes_on_behind_the_only_file_that_was_lost(tmp_path: Path) -> None:
    """As a damaged file says that one should: its checkpoint points into what is not there any more."""
    spool = opened(tmp_path)
    for name in "xyz":
        spool.append(batch(name, 3), 1)
    spool.close()
    only = next(tmp_path.glob("*.spool"))
    only.rename(only.with_suffix(".lost"))
    spool = opened(tmp_path)
    for position in (1, 5, 10):
        assert spool.segment(position) is None and everything(spool, position) == []
    first, _ = spool.append(batch("new", 2), 1)
    for position in (1, 5, 10):
        assert [n for n, *_ in everything(spool, position)] == [first, first + 1] and first > 10**12
    spool.trim(first + 2)
    spool.close()


def killed(folder: Path, failpoint: str, threads: int = 3, trim: int = 0) -> list[tuple[int, str]]:
    """What a process acknowledged before it died at a failpoint; `trim` makes it delete files then."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.spool_crash", str(folder), str(threads), "40", str(trim)],
        cwd=ROOT, env=os.environ | {"CITYBRAIN_FAILPOINT": failpoint}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr
    return [(int(line.split()[0]), line.split()[1]) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("point", ["spool_written", "spool_synced"])
def test_killed_at_a_failpoint_nothing_is_lost_or_doubled(tmp_path: Path, point: str) -> None:
    acknowledged: list[tuple[int, str]] = []
    for turn, nth in enumerate((1, 7, 23)):
        spool_before = opened(tmp_path) if turn else None
        start = spool_before.end if spool_before else 1
        if spool_before:
            spool_before.close()
        now = killed(tmp_path, f"{point}:{nth}")
        assert all(first >= start for first, _ in now)
        acknowledged += [(first, f"{name}") for first, name in now]
        spool = opened(tmp_path)
        found = everything(spool)
        spool.close()
        assert [n for n, *_ in found] == list(range(1, len(found) + 1)), "no gap, no double number"
        assert {(first + k, name) for first, name in acknowledged for k in range(3)} <= {(n, p) for n, p, _ in found}
        mine = [p for n, p, _ in found if n >= start]
        assert all(mine.count(name) == 3 for name in set(mine)), "each batch of this run once, whole"
    print(f"{len(acknowledged)} batches acknowledged, {len(found) // 3} found")
    assert len(acknowledged) > 5


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_killed_while_files_are_deleted_the_rest_is_whole(tmp_path: Path, nth: int) -> None:
    acknowledged = killed(tmp_path, f"spool_trimmed:{nth}", trim=30)
    spool = opened(tmp_path)
    assert spool.recovered is None and spool.start > 1
    found = everything(spool, spool.start)
    assert [n for n, *_ in found] == list(range(spool.start, 3 * len(acknowledged) + 1)) and len(found) > 100
    assert {(n, p) for n, p, _ in found} == {
        (f + k, p) for f, p in acknowledged for k in range(3) if f + k >= spool.start
    }
    first, _ = spool.append(batch("after", 1), 1)
    assert first == 3 * len(acknowledged) + 1
    spool.close()


def lost_by_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_sync: bool) -> list[int]:
    """Acknowledged records that a spool does not have after a power cut: what no fsync reached is gone from the files."""
    durable: dict[int, int] = {}
    real = os.fdatasync

    def watched(fd: int) -> None:
        real(fd)
        durable[os.fstat(fd).st_ino] = os.fstat(fd).st_size

    spool = opened(tmp_path)
    monkeypatch.setattr(os, "fdatasync", watched)
    spool.append(batch("x", 2), 1)
    acknowledged = 2
    if not with_sync:
        monkeypatch.setattr(os, "fdatasync", lambda fd: None)
    for turn in range(2):
        spool.append(batch(f"y{turn}", 2), turn)
        acknowledged += 2
    spool.close()
    monkeypatch.setattr(os, "fdatasync", real)
    for path in tmp_path.glob("*.spool"):
        length = durable[path.stat().st_ino]
        with path.open("r+b") as file:
            file.truncate(length)
            # The mark is written after the fsync and becomes durable with the next one.
            segments.write_mark(file.fileno(), min(length, segments.START))
    again = opened(tmp_path)
    found = {n for n, *_ in everything(again)}
    again.close()
    return [n for n in range(1, acknowledged + 1) if n not in found]


def test_a_power_cut_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lost_by_power_cut(tmp_path, monkeypatch, with_sync=True) == []


def test_negative_control_without_fsync_acknowledged_records_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lost_by_power_cut(tmp_path, monkeypatch, with_sync=False) == [3, 4, 5, 6]


# A disk that is full or broken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", ["pwrite", "fdatasync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_append_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, number: int
) -> None:
    spool = opened(tmp_path)
    spool.append(batch("x", 2), 1, Answer("a", "d", 202, ""))
    size, end = spool.held_bytes, spool.end
    real = os.pwrite

    def full(fd: int, data: Any, offset: int) -> int:
        if offset < segments.START:
            return real(fd, data, offset)
        if len(data) > 100:
            return real(fd, data[:100], offset)
        raise OSError(number, os.strerror(number))

    def broken(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, full if fails == "pwrite" else broken)
        for _ in range(3):
            with pytest.raises(OSError, match=os.strerror(number)):
                spool.append(batch("y", 2), 2, Answer("b", "d", 202, ""))
        assert spool.end == end and spool.held_bytes == size and spool.answer("b") is None
        assert next(tmp_path.glob("*.spool")).stat().st_size == size
    assert spool.append(batch("y", 2), 2, Answer("b", "d", 202, ""))[0] == end
    spool.close()
    again = opened(tmp_path)
    assert again.recovered is None and [p for _, p, _ in everything(again)] == ["x", "x", "y", "y"]
    again.close()


def test_a_new_file_that_cannot_be_made_costs_only_that_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path, segment_bytes=1200, max_bytes=1 << 16)
    spool.append(batch("x", 2), 1)
    for module, name in ((segments, "write"), (syncing, "synced")):
        with monkeypatch.context() as patch:

            def fails(_: object, offset: int = 0, *more: object) -> None:
                if offset == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(module, name, fails)
            with pytest.raises(OSError, match="No space left"):
                spool.append(batch("y", 2), 2)
        assert len(list(tmp_path.iterdir())) == 1
    spool.append(batch("y", 2), 2)
    spool.close()
    again = opened(tmp_path)
    assert len(everything(again)) == 4 and len(list(tmp_path.iterdir())) == 2
    again.close()


def test_a_limit_of_the_system_in_a_process_of_its_own(tmp_path: Path) -> None:
    code = f"""
import resource
from pathlib import Path
from pipelines.spool import Spool
from tests.unit.test_spool import batch, everything
spool = Spool(Path({str(tmp_path)!r}), "push:a:link", "link", segment_bytes=1 << 20, max_bytes=1 << 24)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
good, failed = 0, 0
for turn in range(20):
    try:
        spool.append(batch(f"x{{turn}}", 2), turn)
        good += 1
    except OSError:
        failed += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert good and failed and len(everything(spool)) == 2 * good
spool.append(batch("after", 2), 1)
print(good + 1)
"""
    assert resource.RLIMIT_FSIZE >= 0
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    spool = opened(tmp_path)
    assert len(everything(spool)) == 2 * int(done.stdout) and spool.recovered is None
    spool.close()


def test_what_cannot_be_cut_off_is_cut_off_before_the_next_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    spool.append(batch("x", 1), 1)
    size = spool.held_bytes

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(segments, "sync", broken)
        patch.setattr(os, "ftruncate", broken)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                spool.append(batch("long enough to be seen", 9), 1)
        assert next(tmp_path.glob("*.spool")).stat().st_size > size
    spool.append(batch("y", 1), 1)
    spool.close()
    again = opened(tmp_path)
    assert [p for _, p, _ in everything(again)] == ["x", "y"] and again.recovered is None
    again.close()


def test_a_mark_that_was_written_for_a_failed_append_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    spool.append(batch("x", 1), 1)

    def broken(name: str) -> None:
        if name == "spool_synced":
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.spool.reached", broken)
        with pytest.raises(OSError, match="Input/output"):
            spool.append(batch("y", 1), 1)
    spool.close()
    again = opened(tmp_path)
    assert [p for _, p, _ in everything(again)] == ["x"]
    again.close()


# Against a list --------------------------------------------------------------------------------------------------------

ACTIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 6), st.sets(st.integers(1, 6), max_size=3)),
    st.tuples(st.just("read"), st.one_of(st.none(), st.integers(0, 10)), st.just(())),
    st.tuples(st.just("seek"), st.integers(0, 120), st.just(())),
    st.tuples(st.just("trim"), st.integers(0, 120), st.just(())),
    st.tuples(st.just("open"), st.just(0), st.just(())),
)


@settings(max_examples=60)
@given(st.lists(ACTIONS, max_size=40))
def test_any_interleaving_equals_a_list(tmp_path_factory: pytest.TempPathFactory, actions: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = opened(folder, segment_bytes=2500)
    model: list[Told] = []
    source, position = SpoolSource(spool), 1
    for turn, (action, number, bad) in enumerate(actions):
        match action:
            case "append":
                wrong = tuple(sorted(n for n in bad if n <= number))
                assert spool.append(batch(f"x{turn}", number, wrong), turn)[0] == len(model) + 1
                before = len(model)
                model += [(before + n, "!" if n in wrong else f"x{turn}", turn) for n in range(1, number + 1)]
            case "read":
                source.limit = None if number is None else position + number
                stop = len(model) + 1 if number is None else min(position + number, len(model) + 1)
                found = told(source.read())
                assert found == model[position - 1 : stop - 1]
                position += len(found)
            case "seek":
                position = min(max(number, spool.start), spool.end)
                source.seek(position)
            case "trim":
                spool.trim(min(number, position))
                assert spool.start <= max(1, min(number, position))
            case "open":
                source.close()
                spool.close()
                spool = opened(folder, segment_bytes=2500)
                source = SpoolSource(spool)
                source.seek(position)
        assert spool.end == len(model) + 1
    assert everything(spool) == model[spool.start - 1 :]
    source.close()
    spool.close()
    shutil.rmtree(folder)

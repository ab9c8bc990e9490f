"""The inputs of the benchmarks, seeded: `python -m benchmarks.data FOLDER [--events N]` writes them once.

A link event comes every 1.2 ms (3 M an hour) from one of 6,000 links, in the order of arrival; its event time lies
0 to 50 s before its arrival, for 0.3 % of them 65 s to 20 min (later than the stream's D). No two events of a link
have the same time, so nothing is a duplicate and every decoder must find the same sums. A line has about 115 bytes:
beside the canonical keys it holds what a feed would send as well, which readers have to skip.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

SEED: Final = 20260302
START: Final = 1_772_409_600_000
"""2026-03-02T00:00:00Z."""
LINKS: Final = 6_000
STATIONS: Final = 20_000
PER_HOUR: Final = 3_000_000
BLOCK: Final = 300_000
LATE: Final = 0.003
DISTRICTS: Final = 12
ROUNDS: Final = 256
"""Event times are told apart by the number of the link's turn modulo this: 256 turns last longer than any delay."""
BAD: Final = 0.001
POLLUTANTS: Final = ("so2", "no2", "co", "o3", "pm10", "pm25")
NUMBER: Final = re.compile(rb'"tt_ms":[0-9]+')
RULES: Final = Path(__file__).resolve().parent.parent / "cities" / "demo" / "rules.toml"


def link_ids(count: int = LINKS) -> pl.Series:
    return pl.Series("link", [f"L{i:06d}" for i in range(count)])


def link_events(events: int) -> Iterator[pl.DataFrame]:
    """Blocks of link events in order of arrival, with the columns of a line in its order."""
    ids = link_ids()
    for start in range(0, events, BLOCK):
        dice = np.random.default_rng((SEED, start))
        number = np.arange(start, min(start + BLOCK, events))
        count = len(number)
        arrival = START + number * 3_600_000 // PER_HOUR
        delay = np.minimum(dice.exponential(8_000, count), 50_000)
        late = dice.random(count) < LATE
        delay = np.where(late, dice.uniform(65_000, 1_200_000, count), delay).astype(np.int64)
        t = (arrival - delay) // ROUNDS * ROUNDS + number // LINKS % ROUNDS
        link = (number % LINKS * 2_657 + number // LINKS * 17) % LINKS
        speed = dice.integers(80, 900, count)
        yield pl.DataFrame(
            {
                "t": t,
                "link": ids.gather(link.astype(np.uint32)),
                "tt_ms": (200 + link % 23 * 50) * 36_000 // speed,
                "n": dice.integers(1, 20, count),
                "speed_dmh": speed,
                "source": pl.Series(["floating-car"]).new_from_index(0, count),
                "trip": dice.integers(10**7, 10**8, count),
            }
        )


def air_events(events: int) -> Iterator[pl.DataFrame]:
    """One event per station and hour: every row of the rollup is made of a single event."""
    ids = pl.Series("station", [f"S{i:06d}" for i in range(STATIONS)])
    for hour in range(-(-events // STATIONS)):
        dice = np.random.default_rng((SEED, 1, hour))
        count = min(STATIONS, events - hour * STATIONS)
        yield pl.DataFrame(
            {
                "t": START + hour * 3_600_000 + 3_599_999 - np.sort(dice.integers(0, 1_000, count))[::-1],
                "station": ids.gather(dice.permutation(STATIONS)[:count].astype(np.uint32)),
                "pollutant": pl.Series(POLLUTANTS).gather(dice.integers(0, 6, count).astype(np.uint32)),
                "ngm3": dice.integers(1_000, 150_000, count),
                "covered_ms": np.full(count, 3_600_000),
            }
        )


def place_events(places: int) -> Iterator[pl.DataFrame]:
    """Two events of every place, ten minutes apart."""
    for turn in range(2):
        for start in range(0, places, BLOCK):
            number = np.arange(start, min(start + BLOCK, places))
            yield pl.DataFrame(
                {
                    "t": START + turn * 600_000 + number * 300_000 // places,
                    "link": pl.Series([f"P{i:07d}" for i in number.tolist()]),
                    "tt_ms": 10_000 + number % 977 * 50,
                    "n": 1 + number % 9,
                }
            )


def lines(frame: pl.DataFrame) -> bytes:
    """The frame as NDJSON: compact, keys in the frame's order."""
    parts: list[pl.Expr] = []
    for number, (name, dtype) in enumerate(frame.schema.items()):
        quote = '"' if dtype == pl.String else ""
        before = '"' if number and frame.dtypes[number - 1] == pl.String else ""
        parts += [pl.lit(f'{before}{"," if number else "{"}"{name}":{quote}'), pl.col(name).cast(pl.String)]
    parts.append(pl.lit(('"' if frame.dtypes[-1] == pl.String else "") + "}"))
    text: pl.Series = frame.select(pl.concat_str(parts).alias("line"))["line"]
    return ("\n".join(text.to_list()) + "\n").encode()


def broken(text: bytes, block: int) -> bytes:
    """One line in a thousand made useless, in turn: cut off, no JSON at all, a word where a number belongs."""
    rows = text.split(b"\n")[:-1]
    chosen = np.flatnonzero(np.random.default_rng((SEED, 2, block)).random(len(rows)) < BAD)
    for turn, row in enumerate(chosen.tolist()):
        line = rows[row]
        rows[row] = (line[: len(line) // 2], b"-- sensor restarted --", NUMBER.sub(b'"tt_ms":"slow"', line))[turn % 3]
    return b"\n".join(rows) + b"\n"


def write_pack(folder: Path) -> None:
    """A city pack of the links, with the rules of the demo city."""
    folder.mkdir(parents=True, exist_ok=True)
    districts = ", ".join(f'{{ id = "d{i:02d}", zh = "{i} 区", en = "District {i}" }}' for i in range(1, DISTRICTS + 1))
    (folder / "city.toml").write_text(
        f'id = "bench"\nzh = "基准市"\nen = "Benchmark"\nzone = "Asia/Shanghai"\ndistricts = [{districts}]\n',
        encoding="utf-8",
    )
    rows = [
        f"link,{id_},d{i % DISTRICTS + 1:02d},{200 + i % 23 * 50},{(40, 50, 60, 80)[i % 4]}"
        for i, id_ in enumerate(link_ids())
    ]
    (folder / "places.csv").write_text(
        "stream,id,district,length_m,free_kmh\n" + "\n".join(rows) + "\n", encoding="utf-8"
    )
    shutil.copy(RULES, folder / "rules.toml")


class Data:
    """The files of a cache folder; each is written when it is first asked for, and then stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / f"citybrain-bench-{SEED}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def pack(self) -> Path:
        folder = self.folder / "pack"
        if not (folder / "rules.toml").exists():
            write_pack(folder)
        return folder

    def links(self, events: int) -> Path:
        return self._once(f"link.{events}.ndjson", lambda path: _text(path, link_events(events)))

    def link_parts(self, events: int, parts: int) -> list[Path]:
        """The events of `links` in so many files, line by line in turn: each of them spans the whole time. They are alone in
        their folder."""
        folder = f"link.{events}.in{parts}"
        (self.folder / folder).mkdir(exist_ok=True)
        return [
            self._once(f"{folder}/link.{n + 1}.ndjson", partial(_share, events=events, part=n, parts=parts))
            for n in range(parts)
        ]

    def bad_links(self, events: int) -> Path:
        return self._once(f"link.bad.{events}.ndjson", lambda path: _text(path, link_events(events), spoil=True))

    def arrow_links(self, events: int) -> Path:
        return self._once(f"link.{events}.arrow", lambda path: _arrow(path, link_events(events)))

    def air(self, events: int) -> Path:
        return self._once(f"air.{events}.ndjson", lambda path: _text(path, air_events(events)))

    def places(self, places: int) -> Path:
        return self._once(f"link.places.{places}.ndjson", lambda path: _text(path, place_events(places)))

    def _once(self, name: str, write: Callable[[Path], None]) -> Path:
        path = self.folder / name
        if not path.exists():
            draft = path.with_suffix(f".{os.getpid()}.draft")
            try:
                write(draft)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        return path


def _text(path: Path, blocks: Iterator[pl.DataFrame], spoil: bool = False) -> None:
    with path.open("wb") as file:
        for number, block in enumerate(blocks):
            text = lines(block)
            file.write(broken(text, number) if spoil else text)


def _share(path: Path, events: int, part: int, parts: int) -> None:
    _text(path, (block.gather_every(parts, part) for block in link_events(events)))


def _arrow(path: Path, blocks: Iterator[pl.DataFrame]) -> None:
    """Canonical columns only, the link dictionary encoded: what an Arrow feed of this stream is."""
    ids = pa.array(link_ids().to_list())
    codes = pl.Enum(link_ids())
    writer: pa.ipc.RecordBatchFileWriter | None = None
    for block in blocks:
        link = block["link"].cast(codes).to_physical().cast(pl.Int32).to_numpy()
        columns = {"t": pa.array(block["t"].to_numpy()), "link": pa.DictionaryArray.from_arrays(pa.array(link), ids)}
        columns |= {name: pa.array(block[name].to_numpy().astype(np.int64)) for name in ("tt_ms", "n")}
        batch = pa.record_batch(columns)
        writer = pa.ipc.new_file(str(path), batch.schema) if writer is None else writer
        writer.write_batch(batch)
    if writer is not None:
        writer.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--events", type=int, default=PER_HOUR)
    given = arguments.parse_args()
    data = Data(given.folder)
    print(data.pack())
    for path in (data.links(given.events), data.bad_links(given.events), data.arrow_links(given.events)):
        print(path, f"{path.stat().st_size / given.events:.1f} bytes an event")


if __name__ == "__main__":
    main()

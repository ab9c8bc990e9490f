"""What a user typed, resolved: city packs, mappings, files and their streams, instants and durations."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

from connectors.fields import Instant
from connectors.files import FileSource
from connectors.formats import Format
from connectors.formats.arrow import ArrowIpc
from connectors.formats.ndjson import Ndjson
from connectors.mapping import Mapping, path_suffix, read_mapping
from connectors.mapping_reader import canonical
from pipelines import catalogue
from pipelines.city import City
from pipelines.delivery import Attached
from pipelines.pack import duration_ms, read_city
from pipelines.streams import DAY_MS, Stream
from pipelines.watermark import Input

ROOT = Path(__file__).resolve().parent.parent
LONGEST_DISORDER_MS = 31 * DAY_MS


class UserError(ValueError):
    """Something the user typed cannot be used (exit code 2); the text says what to type instead."""


def shipped(folder: str) -> Path:
    """A folder of the installed package, such as `cities` or `maps`."""
    return ROOT / folder


def names(folder: str, suffix: str) -> list[str]:
    """What is shipped in a folder: packs (folders) or files of a suffix, without it."""
    return sorted(
        p.stem for p in shipped(folder).iterdir() if (p.suffix == suffix if suffix else (p / "city.toml").exists())
    )


def named(value: str, folder: str, suffix: str, what: str) -> Path:
    """A path as typed, or something shipped by its name."""
    path = Path(value)
    if path.exists():
        return path
    there = shipped(folder) / f"{value}{suffix}"
    if "/" not in value and there.exists():
        return there
    known = names(folder, suffix)
    near = difflib.get_close_matches(value, known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{what} {value!r} is neither a path nor shipped; shipped are {', '.join(known)}.{hint}")


def city_of(value: str) -> City:
    return read_city(named(value, "cities", "", "city"), catalogue.IDS, catalogue.STREAMS)


def refuse_no_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"{path} is no file" + (" but a folder; name its files" if path.is_dir() else "; is the name right?")
        )


def made_folder(path: Path, option: str) -> Path:
    """A folder that the user named, made if it is missing, into which can be written; UserError when that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=path).cleanup()
    except OSError as error:
        raise UserError(
            f"{option} {path} cannot be made or written to: {error.strerror}; name a folder that you may write to"
        ) from None
    return path


def city_folder(data: Path | None, city: str) -> Path:
    """The folder of a city below the one that the user named, or below that of the user's data."""
    return made_folder((data or Path(platformdirs.user_data_dir("citybrain"))).absolute() / city, "--data")


def instant(text: str, option: str) -> int:
    """An ISO instant with a zone in UTC ms."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"{option} {text!r} is no time; write 2026-03-02T08:00:00+08:00") from None
    if at.tzinfo is None:
        raise UserError(f"{option} {text!r} has no zone; write 2026-03-02T08:00:00+08:00 or ...Z")
    if not 1970 <= at.year < 2299:
        raise UserError(f"{option} {text!r} is outside the years 1970 to 2298; write a time near that of the events")
    return int(at.astimezone(UTC).timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a replay reads: the city with the places of side tables, the streams as the mapping declares them, the files."""

    city: City
    streams: tuple[Stream, ...]
    attached: tuple[Attached, ...]
    order: str = "arrival"


def resolve(
    paths: Sequence[Path],
    *,
    city: str | None,
    map_: str | None,
    stream: str | None,
    lookup: Path | None,
    disorder: str | None,
) -> Inputs:
    """Files, and what the options say of them, as sources."""
    for path in paths:
        refuse_no_file(path)
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("a file is named twice; each file is one input, read once")
    disorder_ms = duration_ms(disorder, "--disorder") if disorder else None
    if disorder_ms is not None and disorder_ms > LONGEST_DISORDER_MS:
        raise UserError(
            f"--disorder {disorder} is too long; at most {LONGEST_DISORDER_MS // DAY_MS}d are allowed. If the file is not in "
            'the order of arrival, write order = "event_time" into a mapping'
        )
    if map_ is not None:
        if stream is not None:
            raise UserError("--stream and --map exclude each other: the mapping names its stream")
        mapping = read_mapping(named(map_, "maps", ".toml", "mapping"), data=paths[0], lookup=lookup)
        return _mapped(paths, mapping, city, disorder_ms)
    if lookup is not None:
        raise UserError("--lookup needs --map: a side table belongs to a mapping")
    known = {s.name: s for s in catalogue.STREAMS}
    attached: list[Attached] = []
    used: dict[str, Stream] = {}
    for path in paths:
        name = stream or path.name.split(".")[0]
        if name not in known:
            why = (
                f"--stream {stream!r}"
                if stream
                else f"{path}: its name up to the first dot is no stream's, and neither --stream nor --map is given"
            )
            near = difflib.get_close_matches(name, known, 1)
            raise UserError(f"{why}; streams are {', '.join(known)}." + (f" Did you mean {near[0]!r}?" if near else ""))
        declared = used.setdefault(name, known[name])
        attached.append(_attach(path, declared, _format(path, declared), disorder_ms))
    return Inputs(city_of(city or "demo"), tuple(used.values()), tuple(attached))


def _format(path: Path, stream: Stream) -> Format:
    """How a canonical file is read, by its suffix."""
    match path_suffix(path):
        case ".arrow" | ".feather" | ".ipc":
            return ArrowIpc(stream)
        case ".csv" | ".tsv" | ".parquet" | ".pq":
            return canonical(stream, path).format(path)
        case _:
            return Ndjson(stream)


def _mapped(paths: Sequence[Path], mapping: Mapping, city: str | None, disorder_ms: int | None) -> Inputs:
    bare = City(mapping.name, mapping.name, mapping.name, _zone(mapping))
    target = city_of(city) if city else bare
    mine = {(s.stream, s.id) for s in target.sites}
    sites = tuple(s for s in mapping.sites if (s.stream, s.id) not in mine)
    bound = mapping.disorder_ms if disorder_ms is None else disorder_ms
    attached = tuple(_attach(p, mapping.stream, mapping.format(p), bound) for p in paths)
    return Inputs(replace(target, sites=(*target.sites, *sites)), (mapping.stream,), attached, mapping.order)


def _zone(mapping: Mapping) -> str:
    """The zone of the mapping's times, which is the city's as far as it is known."""
    rows = mapping.foreign.rows
    times = [rows.time, *(branch.time for branch in rows.branches)]
    zones = [t.kind.format.zone for t in times if t is not None and isinstance(t.kind, Instant)]
    return next((z for z in zones if z), "UTC")


def _attach(path: Path, stream: Stream, format_: Format, disorder_ms: int | None) -> Attached:
    source = FileSource(path, stream, format_)
    return Attached(source, Input(source.input, f"files:{stream.name}", disorder_ms))

"""The command line. Exit codes: 0 fine, 1 the run failed, 2 what the user gave is wrong.

Heavy libraries are imported by the command that needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

STARTED = time.monotonic()
app = typer.Typer(
    name="citybrain",
    help="Streaming analytics that let a city see and judge itself as it happens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

token = typer.Typer(help="Access tokens: who may push records to a running citybrain.", no_args_is_help=True)
app.add_typer(token, name="token")

Files = Annotated[
    list[Path],
    typer.Argument(help="Recorded files: NDJSON, CSV, Parquet or Arrow; gzip or zstd. Other columns need --map."),
]
Map = Annotated[
    str | None, typer.Option("--map", help="Mapping file, or the name of a shipped one (`citybrain check` lists them).")
]
CityName = Annotated[
    str | None,
    typer.Option("--city", help="City pack, with its places and rules: a folder, or the name of a shipped one."),
]
StreamName = Annotated[
    str | None, typer.Option("--stream", help="Stream of canonical files whose name does not say it.")
]
Lookup = Annotated[
    Path | None, typer.Option(help="Side table of the mapping's [lookup], if it does not lie where the mapping says.")
]
StorePath = Annotated[
    str | None,
    typer.Option("--store", help="The store: a folder or chdb:///abs/dir (default: that of --data and --city)."),
]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of the store (default: the user's data folder).")]
MetricsAddress = Annotated[
    str | None, typer.Option("--metrics", help="Serves /metrics for Prometheus at HOST:PORT; port 0 takes a free one.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


@app.command()
def up(
    city: CityName = None,
    speed: Annotated[float, typer.Option(min=0.01, max=1000, help="How fast the simulated city runs.")] = 1.0,
    start: Annotated[
        str | None, typer.Option(help="Where simulated time begins, e.g. 2026-03-02T08:00:00+08:00 (default: now).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Ends the run at that simulated time (default: never).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated city.")] = 1,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")] = 8080,
    data: Annotated[Path | None, typer.Option(help="Folder of the store (default: the user's data folder).")] = None,
    store: Annotated[
        str | None, typer.Option(help="A store on a server, http(s)://..., instead of the embedded one.")
    ] = None,
) -> None:
    """The demo city, live: simulator, engine, brain, store and a page at the printed address. Ctrl-C ends it."""
    # Before anything is imported: Ctrl-C is how this ends, however early it comes.
    stop = told_to_end()
    from commands.second import refuse_second

    refuse_second(city, data, store)
    from commands.inputs import instant
    from commands.live import Options
    from commands.up import run

    options = Options(
        city=city or "demo",
        speed=speed,
        seed=seed,
        host=host,
        port=port,
        data=data,
        store=store,
        start=instant(start, "--start") if start else None,
        until=instant(until, "--until") if until else None,
        started=STARTED,
    )
    run(options, stop)


@app.command()
def replay(
    files: Files,
    map_: Map = None,
    stream: StreamName = None,
    city: CityName = None,
    lookup: Lookup = None,
    disorder: Annotated[str | None, typer.Option(help="Disorder bound D of these files, such as 300s.")] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="Engine that groups by place and pane: polars (in this process), flink or beam, each with the same result."
        ),
    ] = "polars",
    store: Annotated[
        str | None, typer.Option(help="Store to keep: a folder, chdb:///abs/dir or http(s)://... (default: temporary).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for readings, episodes, transitions, rows, dead letters, summary: all that a kept --store has."
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Lets time go on to that instant after the last event, e.g. to see a silence.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Empties --store before the run.")] = False,
    revisions: Annotated[str, typer.Option(help="`newest` or `all` revisions in --out.")] = "newest",
    only: Annotated[
        list[str] | None, typer.Option(help="Only this indicator and what it is computed from (repeatable).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """The whole path over recorded files at full speed. Prints one JSON object: what was received, accepted, found."""
    import orjson

    from commands.inputs import UserError, instant, resolve
    from commands.replay import Options
    from commands.replay import replay as run

    if revisions not in ("newest", "all"):
        raise UserError(f"--revisions {revisions!r} is unknown; write newest or all")
    inputs = resolve(files, city=city, map_=map_, stream=stream, lookup=lookup, disorder=disorder)
    ends = instant(until, "--until") if until else None
    options = Options(store, out, ends, fresh, revisions, tuple(only or ()), map_, city, engine)  # type: ignore[arg-type]
    summary = run(inputs, options, quiet)
    sys.stdout.write(orjson.dumps(summary).decode() + "\n")


@app.command()
def ingest(
    source: Annotated[
        list[str],
        typer.Option(
            help="kafka://[USER@]HOST:PORT/TOPIC, mqtt[s]://[USER@]HOST[:PORT]/FILTER, http://HOST:PORT to listen for pushes, "
            "simulator:, or a recorded file (repeatable)."
        ),
    ],
    to: Annotated[str, typer.Option(help="The canonical log: kafka://[USER@]HOST:PORT/events.CITY.STREAM.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="Form of a message; this version has `ndjson`.")
    ] = None,
    map_: Map = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", help="Name of this ingest, under which it goes on (default: from the source)."),
    ] = None,
    city: CityName = None,
    disorder: Annotated[str | None, typer.Option(help="Disorder bound D of this source, such as 300s.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Files: lets time go on to that instant after the last event.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated city.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Pushes, MQTT: folder of tokens and spools (default: the user's data folder)."),
    ] = None,
    metrics: MetricsAddress = None,
) -> None:
    """Any source, checked and stamped once, onto the canonical log on Kafka. Ctrl-C ends it; started again it goes on.
    Prints one JSON object: what was received and accepted."""
    stop = told_to_end()
    import orjson

    from commands.inputs import UserError, instant

    try:
        from commands.ingest import ingest as run
        from commands.ingest_inputs import Options
    except ModuleNotFoundError as error:
        raise UserError(f"ingest needs the package {error.name}; pip install 'citybrain[kafka]'") from None
    ends = instant(until, "--until") if until else None
    options = Options(tuple(source), to, id_, format_, map_, city, disorder, ends, seed, data, metrics)
    sys.stdout.write(orjson.dumps(run(options, stop)).decode() + "\n")


@app.command()
def profile(
    file: Annotated[Path, typer.Argument(help="The file to look into.")], map_: Map = None, lookup: Lookup = None
) -> None:
    """What is in a file before you trust it: columns, nulls, ranges, duplicates, lateness; proposes D and a mapping."""
    from commands.look import profile_text

    sys.stdout.write(profile_text(file, map_, lookup))


@app.command()
def diff(
    a: Annotated[
        str,
        typer.Argument(
            help="An output folder (`replay --out`), or a store: its folder, chdb:///abs/dir or http(s)://..."
        ),
    ],
    b: Annotated[str, typer.Argument(help="Another one.")],
) -> None:
    """Compares two outputs or stores by the rules of equality: exact numbers, never revisions and timings. Exit 1 if
    they differ."""
    from commands.stores import difference_of

    found = difference_of(a, b)
    sys.stdout.write(f"{found}\n")
    if not found.equal:
        raise typer.Exit(1)


@app.command()
def export(
    store: Annotated[str, typer.Argument(help="The store: a folder, chdb:///abs/dir or http(s)://...")],
    out: Annotated[
        Path, typer.Argument(help="Folder for readings, episodes, transitions, rows, dead letters, summary.")
    ],
    revisions: Annotated[str, typer.Option(help="`newest`, or `all` that the store still has.")] = "newest",
) -> None:
    """Writes what a store has as files, as `replay --out` does. Prints one JSON object: the rows of each table."""
    import orjson

    from commands.inputs import UserError
    from commands.stores import export_store

    if revisions not in ("newest", "all"):
        raise UserError(f"--revisions {revisions!r} is unknown; write newest or all")
    sys.stdout.write(orjson.dumps(export_store(store, out, revisions)).decode() + "\n")  # type: ignore[arg-type]


@app.command()
def check(
    city: Annotated[
        list[str] | None, typer.Option("--city", help="City packs to check (default: all shipped).")
    ] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="Mappings to check (default: all shipped).")] = None,
) -> None:
    """Checks catalogue, rules, packs and mappings; changes nothing."""
    from commands.look import check_text

    sys.stdout.write(check_text(city, map_))


@app.command()
def explain(
    name: Annotated[str, typer.Argument(help="An indicator id or the name of a rule.")],
    city: CityName = None,
    url: Annotated[str, typer.Option(help="A running citybrain to ask for current values.")] = "http://127.0.0.1:8080",
    sql: Annotated[bool, typer.Option("--sql", help="The Flink SQL of its rollup instead.")] = False,
) -> None:
    """An indicator or rule: definition, worked case, and its current value when a citybrain runs at --url."""
    from commands.look import explain_text, sql_text

    sys.stdout.write(sql_text(name, city or "demo") if sql else explain_text(name, city or "demo", url))


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder for the files.")],
    start: Annotated[str, typer.Option(help="First simulated instant, e.g. 2026-03-02T00:00:00+08:00.")],
    until: Annotated[str, typer.Option(help="End of the simulated time.")],
    city: CityName = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated city.")] = 1,
) -> None:
    """Writes what the simulated city sends as files, one a stream, with the ground truth beside them."""
    import orjson

    from commands.inputs import UserError, city_of, instant, made_folder
    from connectors.simulator_source import write_files
    from pipelines import catalogue

    first, last = instant(start, "--start"), instant(until, "--until")
    if first % 60_000 or last % 60_000:
        raise UserError("the simulated city sends whole minutes; write --start and --until without seconds")
    if last <= first:
        raise UserError(f"--until {until} is not after --start {start}")
    made_folder(out, "OUT")
    lines = write_files(city_of(city or "demo"), {s.name: s for s in catalogue.STREAMS}, first, last, out, seed)
    sys.stdout.write(orjson.dumps(lines).decode() + "\n")


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="New folder for the backup, best on another disk.")],
    store: StorePath = None,
    data: Data = None,
    city: CityName = None,
    quiet: Quiet = False,
) -> None:
    """Copies a store as it is at one instant, also while a citybrain works with it. Prints one JSON object: what was
    copied."""
    import orjson

    from commands.backup import backup as run
    from commands.stores import existing_folder

    sys.stdout.write(orjson.dumps(run(folder, existing_folder(store, data, city), quiet)).decode() + "\n")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `citybrain backup` made.")],
    store: StorePath = None,
    data: Data = None,
    city: CityName = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Replaces the store that is there, and keeps it beside.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Puts a backup in the place of a store, after checking every byte of it. Prints one JSON object: what was
    restored."""
    import orjson

    from commands.backup import restore as run
    from commands.stores import store_folder

    target = store_folder(store, data, city)
    expected = target.name if store is None else None
    sys.stdout.write(orjson.dumps(run(folder, target, expected, fresh, quiet)).decode() + "\n")


@app.command()
def doctor(
    store: StorePath = None,
    data: Data = None,
    city: CityName = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Reads every part, however long it takes (else for 10 s).")
    ] = False,
) -> None:
    """Looks whether a store and its machine are sound, a line each, with the repair; changes nothing. Exit 1 if
    something failed."""
    from commands.doctor import examine
    from commands.inputs import city_of
    from commands.stores import existing_folder

    folder = existing_folder(store, data, city)
    expected = city_of(city or "demo").id if store is None or city is not None else None
    found = examine(folder, expected, all_)
    sys.stdout.write("".join(f"{line}\n" for line in found))
    if any(line.severity == "FAIL" for line in found):
        raise typer.Exit(1)


@app.command()
def brain(
    kafka: Annotated[str, typer.Option(help="The cluster: HOST:PORT, or kafka://[USER@]HOST:PORT[?OPTIONS].")],
    city: CityName = None,
    host: Annotated[str, typer.Option(help="Address to serve on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")] = 8080,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of the store (default: the user's data folder).")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="A store on a server, http(s)://..., instead of the embedded one.")
    ] = None,
) -> None:
    """The brain alone: readings, alerts and the page from what `ingest` and engine jobs send over Kafka. Ctrl-C ends it."""
    stop = told_to_end()
    from commands.second import refuse_second

    refuse_second(city, data, store)
    from commands.inputs import UserError
    from commands.live import Options

    try:
        from commands.brain import run
    except ModuleNotFoundError as error:
        raise UserError(f"brain needs the package {error.name}; pip install 'citybrain[kafka]'") from None
    options = Options(city or "demo", 1.0, 0, host, port, data, store, None, None, STARTED)
    run(options, kafka, stop)


@app.command("run")
def run_job(
    kafka: Annotated[str, typer.Option(help="The cluster: HOST:PORT, or kafka://[USER@]HOST:PORT[?OPTIONS].")],
    city: CityName = None,
    engine: Annotated[
        str, typer.Option(help="`polars`, `flink` in a Java of its own, or `beam` on its Flink runner.")
    ] = "polars",
    parallelism: Annotated[int, typer.Option(min=1, help="Of Flink and Beam.")] = 1,
    metrics: MetricsAddress = None,
) -> None:
    """An engine job: groups the logs `events.<city>.*` into `rows.<city>` until Ctrl-C. For a Flink cluster see `submit`."""
    stop = told_to_end()
    from commands.inputs import UserError

    try:
        from commands.jobs import run
    except ModuleNotFoundError as error:
        raise UserError(f"run needs the package {error.name}; pip install 'citybrain[kafka]'") from None
    run(city or "demo", kafka, engine, parallelism, stop, metrics)


@app.command()
def submit(
    flink: Annotated[str, typer.Option(help="The cluster: HOST:PORT of its REST interface.")],
    city: CityName = None,
    kafka: Annotated[
        str | None, typer.Option(help="The brokers of canonical log and rows, HOST:PORT, several with commas.")
    ] = None,
    kafka_config: Annotated[
        Path | None,
        typer.Option(help="TOML with user, password, security ... of Kafka, or name=value lines for Flink's client."),
    ] = None,
    parallelism: Annotated[int, typer.Option(min=1, help="Task slots that the job takes.")] = 1,
    savepoint: Annotated[str | None, typer.Option(help="Path of a savepoint to go on from.")] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="Wheel whose catalogue is submitted (default: this installation's).")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of Flink's, NAME=VALUE (repeatable).")
    ] = None,
    stop_with_savepoint: Annotated[
        str | None, typer.Option(metavar="JOB", help="Stops that job with a savepoint instead, and prints its path.")
    ] = None,
    savepoint_dir: Annotated[
        str | None, typer.Option(help="Where the savepoint goes (default: as the cluster is configured).")
    ] = None,
) -> None:
    """Puts the job of a city on a Flink cluster, or stops it with a savepoint. Prints one JSON object: the job's id, the
    savepoint."""
    import orjson

    from commands.inputs import UserError
    from commands.submit import Options, stop
    from commands.submit import submit as run

    if stop_with_savepoint is not None:
        if kafka is not None or savepoint is not None:
            raise UserError("--stop-with-savepoint ends a job; leave --kafka and --savepoint for the next submit")
        said = stop(flink, stop_with_savepoint, savepoint_dir)
    elif kafka is None or city is None:
        raise UserError("name the city and its brokers: --city NAME --kafka HOST:PORT")
    elif savepoint_dir is not None:
        raise UserError(
            "--savepoint-dir needs --stop-with-savepoint; to go on from a savepoint name it with --savepoint"
        )
    else:
        options = Options(flink, city, kafka, kafka_config, parallelism, savepoint, wheel, tuple(set_ or ()))
        said = run(options)
    sys.stdout.write(orjson.dumps(said).decode() + "\n")


TokenName = Annotated[str, typer.Argument(help="Name of the token, e.g. of the system that uses it.")]


@token.command("add")
def token_add(
    name: TokenName,
    scope: Annotated[
        list[str], typer.Option(help="What it allows: ingest:SOURCE, read, ack or admin; may be given several times.")
    ],
    data: Data = None,
    city: CityName = None,
) -> None:
    """Makes a token and prints its secret, once: only its hash is kept."""
    from commands.token import add_text

    sys.stdout.write(add_text(name, scope, data, city or "demo"))


@token.command("list")
def token_list(data: Data = None, city: CityName = None) -> None:
    """The names and scopes of the tokens."""
    from commands.token import list_text

    sys.stdout.write(list_text(data, city or "demo"))


@token.command("remove")
def token_remove(name: TokenName, data: Data = None, city: CityName = None) -> None:
    """Ends a token at once, in a running citybrain too."""
    from commands.token import remove_text

    sys.stdout.write(remove_text(name, data, city or "demo"))


def told_to_end() -> threading.Event:
    """Set by Ctrl-C or a supervisor's SIGTERM: how a command that goes on for ever ends."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def main() -> NoReturn:
    """Runs the command that was typed."""
    # Of a server that does not answer the driver logs a traceback; the error says it in a line.
    logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)
    # A supervisor's or a time limit's end runs the same clean-up as Ctrl-C: a temporary store goes. `up` has its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    guarded(app)


def guarded(work: Callable[[], object]) -> NoReturn:
    """Does it and ends the process; errors that a user can cause are one line on stderr and the exit code."""
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        code = _code(error)
        if code is None:
            raise
        sys.stderr.write(f"citybrain: {_said(error)}\n")
        sys.exit(code)
    sys.exit(0)


def _said(error: Exception) -> str:
    """Of a full disk the system says only that a call failed."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {error}; free some space and type the same command again"
    return str(error)


def _code(error: Exception) -> int | None:
    """2 for what the user gave, 1 for a run that failed, None for a defect (its traceback is shown)."""
    from sinks.errors import StoreOwned

    if isinstance(error, StoreOwned):  # told at once: what follows imports everything
        return 2
    try:
        from commands.failures import FAILED, WRONG
    except (ValueError, LookupError):
        # The catalogue itself cannot be read: an indicator's file is wrong, and the error says which.
        return 2 if isinstance(error, ValueError | LookupError) else None
    return 2 if isinstance(error, WRONG) else 1 if isinstance(error, FAILED) else None


if __name__ == "__main__":
    main()

"""The declared tables against the words of rule 31, the models of `pipelines` and what the store makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import model
from pipelines.expr import Col
from pipelines.rollup import Histogram, Measure, Rollup
from pipelines.streams import INC, LINK, STREAMS
from sinks.clickhouse import ClickHouseSink
from sinks.ddl import FIXED, READINGS, lifecycles_table, render_data_model, rows_table, tables_of

BANDS = Rollup("bands", LINK, 60_000, (Measure("tt", "sum", Col("tt_ms")),), Histogram(Col("tt_ms"), (10, 20)))


def test_the_fixed_tables_are_those_of_the_model() -> None:
    """Rule 31: names, order and types, so that what the brain makes can be written as it is."""
    schemas = (model.READINGS_SCHEMA, model.EPISODES_SCHEMA, model.TRANSITIONS_SCHEMA, model.DEAD_LETTERS_SCHEMA)
    for table, schema in zip(FIXED, schemas, strict=True):
        assert list(table.schema.items()) == list(schema.items()), table.name


def test_generated_tables_have_the_columns_of_rule_31() -> None:
    assert list(rows_table(BANDS).schema) == [
        "place", "pane_start", "bucket", "tt", "n", "as_of", "late", "part", "off", "step",
    ]  # fmt: skip
    assert list(lifecycles_table(INC).schema) == [
        "case_id", "milestone", "t", "place", "kind", "channel", "event_id", "part", "off", "step",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"link.*no milestones"):
        lifecycles_table(LINK)


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['n'\] cannot be measures"):
        rows_table(Rollup("speed", LINK, 60_000, (Measure("n", "count"),)))
    with pytest.raises(ValueError, match="'a`b' is no name"):
        rows_table(Rollup("speed", LINK, 60_000, (Measure("a`b", "count"),)))


def test_keys_fix_the_partition_and_durability_is_on() -> None:
    """Rule 33: were the month no function of the key, two revisions of a key could lie in two partitions for ever."""
    tables = tables_of((BANDS,), STREAMS).values()
    for table in tables:
        assert table.month is None or table.month in table.key, table.name
        assert "fsync_after_insert = 1, fsync_part_directory = 1" in table.create()
        assert all(not table.field(k).nullable for k in table.key)
    assert len(tables) == 4 + 1 + sum(s.lifecycle for s in STREAMS)


def test_the_statement_of_readings() -> None:
    text = READINGS.create()
    assert "`window_start` DateTime64(3, 'UTC')" in text
    assert "`value` Nullable(Float64)" in text
    assert "ENGINE = ReplacingMergeTree(`revision`)\nPARTITION BY toYYYYMM(`window_start`)\n" in text
    assert "ORDER BY (`indicator`, `method_id`, `place_kind`, `place`, `window_start`, `window_end`)" in text
    assert "TTL" not in text


def test_the_store_has_the_declared_types(tmp_path: Path) -> None:
    compared = 0
    with ClickHouseSink(f"chdb://{tmp_path}/s", (BANDS,), STREAMS) as sink:
        sink.migrate()
        for table in sink.tables.values():
            found = sink.query(
                "SELECT name, type FROM system.columns WHERE table = {t:String} AND database = 'default'",
                {"t": table.name},
            )
            assert dict(found.iter_rows()) == {f.name: f.type for f in table.fields}
            compared += found.height
    print(f"columns compared: {compared}")
    assert compared > 80


def test_the_data_model_page_names_every_column() -> None:
    page = render_data_model((BANDS,), STREAMS)
    for table in tables_of((BANDS,), STREAMS).values():
        section = page.split(f"## {table.name}\n")[1].split("\n## ")[0]
        for field in table.fields:
            assert f"| {field.name} | " in section
    for stream in STREAMS:
        section = page.split(f"\n### {stream.name}\n")[1].split("\n#")[0]
        for name in ("t", stream.place, *(c.name for c in stream.columns)):
            assert f"\n| {name} | " in section
    assert "| value | Float64 | yes |" in page
    assert page == render_data_model((BANDS,), STREAMS)

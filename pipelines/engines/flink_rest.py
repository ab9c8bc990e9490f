"""A Flink cluster over its REST interface: its slots, its jobs, savepoints."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from typing import Any, Final

import orjson

ENDED: Final = ("FAILED", "CANCELED", "FINISHED", "SUSPENDED")
TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.2


class FlinkError(RuntimeError):
    """A cluster that does not answer or refuses, or a job that failed; the text says which and why."""


@dataclass(frozen=True, slots=True)
class FlinkCluster:
    """A cluster by the HOST:PORT of its JobManager's REST interface."""

    address: str

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """The answer to a GET, or to a POST with `body`."""
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_S)
        try:
            content = None if body is None else orjson.dumps(body)
            connection.request(method or ("GET" if body is None else "POST"), path, content)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise FlinkError(
                f"no Flink cluster answers at {self.address} ({error}); is its REST address right?"
            ) from None
        finally:
            connection.close()
        try:
            said = orjson.loads(text or b"{}")
        except orjson.JSONDecodeError:
            raise FlinkError(f"{self.address} answers, and is no Flink cluster; name its REST address") from None
        if response.status >= 400:
            raise FlinkError(
                f"the cluster at {self.address} refuses {path}: {_first(said.get('errors', [text.decode()]))}"
            )
        return said

    def free_slots(self) -> int:
        return int(self.ask("/overview")["slots-available"])

    def running(self, name: str) -> list[str]:
        """The ids of the jobs of that name that have not ended."""
        return [j["jid"] for j in self.ask("/jobs/overview")["jobs"] if j["name"] == name and j["state"] not in ENDED]

    def state(self, job: str) -> str:
        return str(self.ask(f"/jobs/{job}")["state"])

    def why(self, job: str) -> str:
        """The first cause of a job's failure."""
        entries = self.ask(f"/jobs/{job}/exceptions").get("exceptionHistory", {}).get("entries", [])
        causes = (
            [line for line in entries[0]["stacktrace"].splitlines() if line and line[0] not in " \t."]
            if entries
            else []
        )
        return causes[-1].removeprefix("Caused by: ") if causes else "the cluster tells no reason"

    def until_running(self, job: str, longest_s: float = 60) -> None:
        """Returns when all tasks of a job run; FlinkError when it fails or takes longer."""
        ends = time.monotonic() + longest_s
        while True:
            told = self.ask(f"/jobs/{job}")
            if told["state"] == "FAILED":
                raise FlinkError(f"job {job} failed: {self.why(job)}")
            if told["state"] == "FINISHED" or all(v["status"] in ("RUNNING", "FINISHED") for v in told["vertices"]):
                return
            if time.monotonic() > ends:
                raise FlinkError(
                    f"job {job} does not run after {longest_s:.0f} s, it is {told['state']}: {self.why(job)}"
                )
            time.sleep(POLL_S)

    def stopped(self, job: str, folder: str | None, longest_s: float = 600) -> str:
        """Stops a job with a savepoint and returns its path; `folder`: where to, else what the cluster is configured to."""
        body = {"drain": False} if folder is None else {"drain": False, "targetDirectory": folder}
        trigger, ends = self.ask(f"/jobs/{job}/stop", body)["request-id"], time.monotonic() + longest_s
        while True:
            told = self.ask(f"/jobs/{job}/savepoints/{trigger}")
            if told["status"]["id"] == "COMPLETED":
                break
            if time.monotonic() > ends:
                raise FlinkError(f"the savepoint of job {job} is not complete after {longest_s:.0f} s; the job goes on")
            time.sleep(POLL_S)
        if "location" not in told["operation"]:
            cause = told["operation"]["failure-cause"]
            raise FlinkError(f"the savepoint of job {job} failed, and it goes on: {_first([cause['stack-trace']])}")
        while self.state(job) not in ENDED:
            time.sleep(POLL_S)
        return str(told["operation"]["location"])

    def cancel(self, job: str) -> None:
        """Ends a job without a savepoint."""
        self.ask(f"/jobs/{job}?mode=cancel", method="PATCH")
        while self.state(job) not in ENDED:
            time.sleep(POLL_S)


def _first(texts: list[str]) -> str:
    """The first cause in what Flink tells, whose stack traces name it last."""
    lines = [line.strip() for line in "\n".join(texts).splitlines()]
    causes = [line for line in lines if line.startswith("Caused by: ")]
    return (
        causes[-1].removeprefix("Caused by: ") if causes else next((line for line in lines if line), "without a reason")
    )

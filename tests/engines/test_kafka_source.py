"""`KafkaSource` on a real broker: the contract of all sources, and what a topic can do to its readers."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import orjson
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from connectors import kafka
from connectors.formats import Block
from connectors.formats.ndjson import Ndjson
from connectors.kafka import KafkaSource, consumer_settings
from pipelines.kafka_client import Cluster, Connection
from pipelines.kafka_options import KafkaFailed, kafka_options
from pipelines.model import Decoded
from pipelines.streams import LINK
from tests.contract.sources import keeps_its_promises, read
from tests.engines.kafka import create
from tools.stack.broker import Broker

START = 1_772_409_600_000


@pytest.fixture
def broker(kafka_broker: Broker) -> Broker:
    return kafka_broker


def line(n: int) -> bytes:
    return orjson.dumps({"t": START + n, "link": f"l{n % 40}", "tt_ms": 1_000 + n, "n": n % 90})


def sent(address: str, topic: str, messages: list[bytes | None], transactions: int | None = None) -> None:
    """Messages with the times START, START + 1, ...; `transactions`: so many in each, and every third one aborted before."""
    settings = {"bootstrap.servers": address, "message.max.bytes": 8_000_000}
    producer = Producer(settings | ({"transactional.id": topic} if transactions else {}))
    if transactions:
        producer.init_transactions(30)
    for n, message in enumerate(messages):
        if transactions and n % transactions == 0:
            if n:
                producer.commit_transaction(30)
            producer.begin_transaction()
            if n % (3 * transactions) == 0:
                producer.produce(topic, b'{"aborted": true}', partition=0)
                producer.flush(30)
                producer.abort_transaction(30)
                producer.begin_transaction()
        producer.produce(topic, message, partition=0, timestamp=START + n)
    if transactions:
        producer.commit_transaction(30)
    assert producer.flush(30) == 0


def source(address: str, topic: str, said: Callable[[str], None] = print) -> KafkaSource:
    options = kafka_options(f"kafka://{address}/{topic}", {})
    found = Cluster(Connection(options)).topic(topic)
    assert found is not None
    return KafkaSource(options, 0, LINK, Ndjson(LINK), found.id, partitions=found.partitions, said=said)


def test_contract(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where offsets have gaps: markers of transactions, and records that were aborted."""
    monkeypatch.setattr(kafka, "READ_MESSAGES", 150)
    create(broker.address, [("contract", 1)])
    messages = [line(n) if n % 97 else b"broken" for n in range(2_000)]
    sent(broker.address, "contract", messages, transactions=130)
    Ndjson(LINK).decode(Block(1, line(1)), "warm")  # what is compiled at first use takes its time
    sought = keeps_its_promises(lambda: source(broker.address, "contract"), 2_000)
    assert sought == 4


def test_messages(broker: Broker) -> None:
    """Each message is one record whatever is in it: nothing is lost, and nothing else is harmed."""
    create(broker.address, [("messages", 1)])
    pretty = orjson.dumps(orjson.loads(line(1)), option=orjson.OPT_INDENT_2)
    bad = [
        b"\x00\xff",
        b"[1]",
        b"\xef\xbb\xbf" + line(2),
        line(3) + b"\n" + line(4),
        b'{"t":1,"link":"a\nb"}',
        b"{" * 500,
    ]
    large = line(5)[:-1] + b',"x":"' + b"x" * 5_000_000 + b'"}'
    messages = [line(0), pretty, b"", None, *bad, large, line(9)]
    sent(broker.address, "messages", messages)
    one = source(broker.address, "messages")
    blocks: list[Decoded] = []
    ends = time.monotonic() + 30
    while (not blocks or blocks[-1].next_position < len(messages)) and time.monotonic() < ends:
        decoded = one.read()
        blocks += [] if decoded is None else [decoded]
    one.close()
    events = [e for b in blocks for e in b.events.iter_rows(named=True)]
    letters = {int(x.position): x for b in blocks for x in b.refused}
    assert [e["record"] for e in events] == [0, 1, len(messages) - 1]
    assert [e["arrival"] for e in events] == [START, START + 1, START + len(messages) - 1], "the time of the record"
    assert events[1]["t"] == START + 1
    assert sorted(letters) == list(range(4, 11))
    reasons = [letters[n].reason for n in sorted(letters)]
    assert reasons == ["bad_encoding", "not_an_object", "bad_json", "bad_json", "bad_json", "too_deep", "too_long"]
    assert all(len(x.payload) <= 2048 and x.source == "kafka:messages/0" for x in letters.values())


def failed(one: KafkaSource, longest_s: float = 30) -> str:
    """What it says when it gives up, without having read anything more."""
    ends = time.monotonic() + longest_s
    try:
        while time.monotonic() < ends:
            assert one.read() is None
            time.sleep(0.01)
    except KafkaFailed as error:
        return str(error)
    finally:
        one.close()
    raise AssertionError("it goes on")


def test_lost_records_are_told(broker: Broker) -> None:
    create(broker.address, [("retention", 1), ("cut", 1)])
    sent(broker.address, "retention", [line(n) for n in range(100)])
    sent(broker.address, "cut", [line(n) for n in range(10)])
    admin = AdminClient({"bootstrap.servers": broker.address})
    for done in admin.delete_records([TopicPartition("retention", 0, 60)]).values():
        done.result(30)
    one = source(broker.address, "retention")
    one.seek(40)
    assert "records 40 to 59 were deleted before they were read" in failed(one)
    fresh = source(broker.address, "retention")
    assert [r[0] for r in read(fresh, 40).records] == list(range(60, 100)), "a first start reads what there is"
    fresh.close()
    beyond = source(broker.address, "cut")
    beyond.seek(11)
    assert "ends at 10, and was read up to 11" in failed(beyond)


@pytest.mark.parametrize("more", [3, 500])
def test_a_topic_that_was_made_again(broker: Broker, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter than before, where the position is out of range, and longer, where it is not: then nothing may be skipped."""
    monkeypatch.setattr(kafka, "LOOK_S", 0.5)
    name = f"again{more}"
    create(broker.address, [(name, 1)])
    sent(broker.address, name, [line(n) for n in range(100)])
    one = source(broker.address, name)
    assert len(read(one, 100).records) == 100
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.delete_topics([name])[name].result(30)
    ends = time.monotonic() + 30
    while Cluster(Connection(one.options)).topic(name) is not None and time.monotonic() < ends:
        time.sleep(0.1)
    create(broker.address, [(name, 1)])
    sent(broker.address, name, [line(n) for n in range(more)])
    told = failed(one)
    assert "deleted" in told or "made again" in told


def test_more_partitions(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "LOOK_S", 0.2)
    create(broker.address, [("grows", 1)])
    one = source(broker.address, "grows")
    assert one.read() is None
    admin = AdminClient({"bootstrap.servers": broker.address})
    admin.create_partitions([NewPartitions("grows", 3)])["grows"].result(30)
    assert "has 3 partitions now, 1 are read" in failed(one)


def test_limit_and_commit(broker: Broker) -> None:
    create(broker.address, [("limited", 1)])
    sent(broker.address, "limited", [line(n) for n in range(50)])
    one = source(broker.address, "limited")
    one.limit = 20
    assert [r[0] for r in read(one, 20).records] == list(range(20)) and one.read() is None
    one.limit = None
    assert [r[0] for r in read(one, 30).records] == list(range(20, 50))
    one.commit(50)
    one.close()


def test_broker_gone(broker: Broker) -> None:
    """It is said once, and so is that it is back; what came meanwhile is read."""
    create(broker.address, [("gone", 1)])
    sent(broker.address, "gone", [line(n) for n in range(10)])
    said: list[str] = []
    one = source(broker.address, "gone", said.append)
    assert len(read(one, 10).records) == 10
    broker.end(signal.SIGKILL)
    ends = time.monotonic() + 20
    while not said and time.monotonic() < ends:
        assert one.read() is None
        time.sleep(0.02)
    assert len(said) == 1 and "does not answer" in said[0] and one.connection.lost
    broker.start()
    sent(broker.address, "gone", [line(n) for n in range(5)])
    assert [r[0] for r in read(one, 5).records] == list(range(10, 15))
    assert len(said) == 2 and "answers again" in said[1]
    one.close()


def test_settings_are_taken_by_the_client() -> None:
    """Every option is known to librdkafka; TLS and SCRAM are checked when a client is made."""
    from confluent_kafka import Consumer, KafkaException

    environment = {"CITYBRAIN_KAFKA_PASSWORD": "secret"}
    for address in (
        "kafka://a:9/t",
        "kafka://me@a:9/t",
        "kafka://me@a:9/t?mechanism=SCRAM-SHA-256&security=sasl_plaintext",
    ):
        Consumer(consumer_settings(kafka_options(address, environment), "g")).close()
    with pytest.raises(KafkaException):
        Consumer(consumer_settings(kafka_options("kafka://a:9/t", {}), "g") | {"no.such.option": 1})

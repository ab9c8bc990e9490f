"""A local stack of real servers for people and tests: a Kafka broker and a Flink cluster, from packages, on loopback."""

"""Configs: what may be set for the broker, for topics and for groups, and what is.

    keys.py        what a config is; the tables of them are
    broker.py      the broker's, with log.py and replication.py,
    topics.py      what a topic may set, and
    groups.py      what a group may set
    listeners.py   what a listener is, and
    listening.py   those that the settings make
    settings.py    `Config`: the values of one broker
    kafka_environment.py  variables as Kafka's images take them
    load.py        a Config from flags, environment, file and database
    layers.py      where a value comes from, as DescribeConfigs shows it
    facts.py       what DescribeConfigs says of a broker besides
    changes.py     what AlterConfigs and IncrementalAlterConfigs do with what is set

`Config` can be imported from here. All but `settings.py`, `listening.py`, `kafka_environment.py` and `load.py` is pure.
"""

from pg_kafka.config.settings import Config as Config

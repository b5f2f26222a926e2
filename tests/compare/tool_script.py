"""What Kafka's command line tools are asked to do, in this order, on either broker.

A step is a line as people type it: the tool, and its arguments. `@` is where the address of the broker goes, at the
front unless it is named; `{name}` is the path of a file of `FILES`, `%` the id of the broker. What a tool asks again for
a minute before it says that it is not there (brokers, and partitions for some) is not asked.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

TOOLS = {
    "kafka-acls": "org.apache.kafka.tools.AclCommand",
    "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "kafka-client-metrics": "org.apache.kafka.tools.ClientMetricsCommand",
    "kafka-cluster": "org.apache.kafka.tools.ClusterTool",
    "kafka-configs": "org.apache.kafka.tools.ConfigCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-share-consumer": "org.apache.kafka.tools.consumer.ConsoleShareConsumer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "kafka-delegation-tokens": "org.apache.kafka.tools.DelegationTokenCommand",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-e2e-latency": "org.apache.kafka.tools.EndToEndLatency",
    "kafka-features": "org.apache.kafka.tools.FeatureCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-groups": "org.apache.kafka.tools.GroupsCommand",
    "kafka-leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "kafka-log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "kafka-metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "kafka-share-groups": "org.apache.kafka.tools.consumer.group.ShareGroupCommand",
    "kafka-streams-application-reset": "org.apache.kafka.tools.StreamsResetter",
    "kafka-streams-groups": "org.apache.kafka.tools.streams.StreamsGroupCommand",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
    "kafka-verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
    "kafka-verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
}


def _partitions(topic: str, *partitions: int, **more: object) -> list[dict[str, object]]:
    return [{"topic": topic, "partition": partition, **more} for partition in partitions]


def _plan(*parts: dict[str, object]) -> str:
    return json.dumps({"version": 1, "partitions": parts})


FILES = {
    "delete-records": _plan(*_partitions("orders", 1, offset=2)),
    "delete-all-records": _plan(*_partitions("orders", 2, offset=-1)),
    "delete-too-much": _plan(*_partitions("orders", 0, offset=1000)),
    "move-topics": json.dumps({"version": 1, "topics": [{"topic": "orders"}]}),
    "move-nowhere": json.dumps({"version": 1, "topics": [{"topic": "nowhere"}]}),
    "stay": _plan(*_partitions("orders", 0, replicas=["%"])),
    "move-to-seven": _plan(*_partitions("orders", 0, replicas=[7])),
    "move-what-is-not-there": _plan(*_partitions("nowhere", 0, replicas=["%"])),
    "elect": json.dumps({"partitions": _partitions("orders", 0, 1)}),
    "reset-plan": "orders,0,7\norders,1,0\n",
}

SCRIPT = """
kafka-cluster cluster-id @
kafka-cluster list-endpoints @
kafka-cluster list-endpoints @ --include-fenced-brokers
kafka-cluster unregister @ --id 99
kafka-broker-api-versions

# Topics
kafka-topics --list
kafka-topics --create --topic orders --partitions 3 --replication-factor 1 --config retention.ms=86400000
kafka-topics --create --topic orders
kafka-topics --create --topic orders --if-not-exists
kafka-topics --create --topic defaults
kafka-topics --create --topic assigned --replica-assignment %,%
kafka-topics --create --topic assigned-to-seven --replica-assignment 7
kafka-topics --create --topic three-replicas --replication-factor 3
kafka-topics --delete --topic three-replicas --if-exists
kafka-topics --create --topic wrong-config --config retention.ms=soon
kafka-topics --create --topic unknown-config --config no.such.config=1
kafka-topics --create --topic wrong/name
kafka-topics --create --topic a.b
kafka-topics --create --topic timed
kafka-topics --create --topic compacted --config cleanup.policy=compact --config min.cleanable.dirty.ratio=0.1
kafka-topics --create --topic tiered --config remote.storage.enable=true
kafka-topics --list --exclude-internal
kafka-topics --list --topic or.*
kafka-topics --describe --topic orders
kafka-topics --describe --topic compacted
kafka-topics --describe --topic nowhere
kafka-topics --describe --topic nowhere --if-exists
kafka-topics --describe --topic-id AAAAAAAAAAAAAAAAAAAAAQ
kafka-topics --describe --topics-with-overrides --exclude-internal
kafka-topics --describe --under-replicated-partitions
kafka-topics --describe --under-min-isr-partitions
kafka-topics --describe --at-min-isr-partitions --exclude-internal
kafka-topics --describe --unavailable-partitions
kafka-topics --alter --topic defaults --partitions 4
kafka-topics --alter --topic defaults --partitions 2
kafka-topics --alter --topic nowhere --partitions 2
kafka-topics --alter --topic nowhere --partitions 2 --if-exists
kafka-topics --describe --topic defaults
kafka-topics --delete --topic defaults
kafka-topics --delete --topic nowhere
kafka-topics --delete --topic nowhere --if-exists

# Records
kafka-console-producer --topic orders --reader-property parse.key=true --reader-property key.separator=; < records
kafka-console-producer --topic compacted < records
kafka-console-consumer --topic orders --from-beginning --max-messages 10 --group readers --formatter-property print.key=true
kafka-console-consumer --topic orders --partition 0 --offset earliest --timeout-ms 1500
kafka-console-consumer --topic made-by-a-consumer --partition 0 --offset earliest --timeout-ms 1500
kafka-producer-perf-test --topic a.b --num-records 100 --record-size 10 --throughput -1
kafka-producer-perf-test --topic a.b --num-records 9 --record-size 9 --throughput -1 \
--transactional-id perf --transaction-duration-ms 60000
kafka-consumer-perf-test --topic a.b --num-records 100 --timeout 20000 --group perf --hide-header
kafka-e2e-latency --topic a.b --num-records 20 --producer-acks all --record-size 10
kafka-e2e-latency --topic a.b --num-records 20 --producer-acks 1 --record-size 10 --record-key-size 4 --num-headers 1
kafka-verifiable-producer --topic timed --max-messages 9 --message-create-time 1577836800000
kafka-verifiable-consumer --topic orders --group-id verified --max-messages 10 --reset-policy earliest
kafka-verifiable-consumer --topic orders --group-id too --max-messages 10 --reset-policy earliest --group-protocol consumer

# Offsets of logs
kafka-get-offsets --topic orders
kafka-get-offsets --topic orders --time earliest
kafka-get-offsets --topic timed --time max-timestamp
kafka-get-offsets --topic timed --time 1577836800004
kafka-get-offsets --topic orders --time earliest-local
kafka-get-offsets --topic orders --time latest-tiered
kafka-get-offsets --topic timed --time 1
kafka-get-offsets --topic timed --time 4102444800000
kafka-get-offsets --topic nowhere
kafka-get-offsets --topic-partitions orders:1-2,a.*:0
kafka-get-offsets --exclude-internal-topics

# Log start
kafka-delete-records --offset-json-file {delete-records}
kafka-get-offsets --topic orders --time -2
kafka-console-consumer --topic orders --partition 1 --offset earliest --timeout-ms 1500
kafka-delete-records --offset-json-file {delete-too-much}
kafka-delete-records --offset-json-file {delete-all-records}
kafka-get-offsets --topic orders --time -2

# Configs
kafka-configs --describe --topic orders
kafka-configs --describe --topic orders --all
kafka-configs --describe --topic nowhere
kafka-configs --alter --topic orders --add-config retention.ms=3600000,max.message.bytes=2000000
kafka-configs --alter --topic orders --add-config cleanup.policy=[compact,delete]
kafka-configs --describe --topic orders
kafka-configs --alter --topic orders --delete-config retention.ms,cleanup.policy
kafka-configs --alter --topic orders --delete-config segment.bytes
kafka-configs --alter --topic orders --add-config retention.ms=soon
kafka-configs --alter --topic orders --add-config no.such.config=1
kafka-configs --alter --topic orders --add-config remote.storage.enable=true
kafka-configs --alter --topic orders --add-config min.insync.replicas=2
kafka-configs --alter --topic orders --add-config compression.type=zstd,compression.zstd.level=5
kafka-configs --alter --topic nowhere --add-config retention.ms=1
kafka-configs --describe --topic orders
kafka-configs --describe --entity-type topics --exclude-internal
kafka-configs --describe --broker %
kafka-configs --describe --broker % --all
kafka-configs --describe --broker 99
kafka-configs --describe --broker-defaults
kafka-configs --alter --broker % --add-config log.retention.ms=7200000
kafka-configs --alter --broker-defaults --add-config log.retention.ms=10800000,message.max.bytes=2000000
kafka-configs --describe --broker %
kafka-configs --describe --broker-defaults
kafka-topics --create --topic from-broker-defaults
kafka-configs --describe --topic from-broker-defaults --all
kafka-configs --alter --broker % --add-config node.id=5
kafka-configs --alter --broker % --add-config no.such.config=5
kafka-configs --alter --broker % --add-config log.retention.ms=soon
kafka-configs --alter --broker % --delete-config log.retention.ms
kafka-configs --alter --broker-defaults --delete-config log.retention.ms,message.max.bytes
kafka-configs --describe --broker-defaults
kafka-configs --alter --group readers --add-config consumer.session.timeout.ms=50000
kafka-configs --describe --group readers
kafka-configs --describe --group readers --all
kafka-configs --alter --group readers --add-config consumer.session.timeout.ms=1
kafka-configs --alter --group readers --delete-config consumer.session.timeout.ms
kafka-configs --describe --entity-type groups
kafka-configs --alter --client-metrics usage --add-config interval.ms=60000,metrics=org.apache.kafka.consumer.
kafka-configs --describe --client-metrics usage
kafka-configs --alter --client-metrics usage --delete-config interval.ms,metrics
kafka-configs --describe --broker-logger %

# Quotas
kafka-configs --describe --entity-type users
kafka-configs --alter --user alice --add-config producer_byte_rate=1000,request_percentage=50.5
kafka-configs --alter --user alice --client-defaults --add-config consumer_byte_rate=2000
kafka-configs --alter --user alice --client app --add-config controller_mutation_rate=3
kafka-configs --alter --user-defaults --add-config consumer_byte_rate=1000000000
kafka-configs --alter --client app --add-config producer_byte_rate=1e6
kafka-configs --alter --client app --add-config producer_byte_rate=1000000
kafka-configs --alter --client-defaults --add-config consumer_byte_rate=2000000000
kafka-configs --alter --ip 10.0.0.1 --add-config connection_creation_rate=10
kafka-configs --alter --ip-defaults --add-config connection_creation_rate=100000
kafka-configs --describe --user alice
kafka-configs --describe --user alice --client-defaults
kafka-configs --describe --entity-type users --entity-name alice --entity-type clients
kafka-configs --describe --user-defaults
kafka-configs --describe --client app
kafka-configs --describe --client-defaults
kafka-configs --describe --ip 10.0.0.1
kafka-configs --describe --ip-defaults
kafka-configs --describe --ip 10.0.0.2
kafka-configs --alter --user alice --add-config producer_byte_rate=0
kafka-configs --alter --user alice --add-config producer_byte_rate=1.5
kafka-configs --alter --user alice --add-config no_such_rate=5
kafka-configs --alter --client app --add-config connection_creation_rate=5
kafka-configs --alter --ip 10.0.0.1 --add-config connection_creation_rate=99999999999
kafka-configs --alter --user alice --delete-config producer_byte_rate,request_percentage
kafka-configs --alter --user alice --delete-config no_such_rate
kafka-configs --alter --user alice --client-defaults --delete-config consumer_byte_rate
kafka-configs --alter --user alice --client app --delete-config controller_mutation_rate
kafka-configs --alter --user-defaults --delete-config consumer_byte_rate
kafka-configs --alter --client app --delete-config producer_byte_rate
kafka-configs --alter --client-defaults --delete-config consumer_byte_rate
kafka-configs --alter --ip 10.0.0.1 --delete-config connection_creation_rate
kafka-configs --alter --ip-defaults --delete-config connection_creation_rate
kafka-configs --describe --user alice

# Users of SCRAM
kafka-configs --alter --user carol --add-config SCRAM-SHA-256=[iterations=4096,password=pencil]
kafka-configs --alter --user carol --add-config SCRAM-SHA-512=[password=pencil]
kafka-configs --describe --user carol
kafka-configs --describe --entity-type users
kafka-configs --alter --user carol --add-config SCRAM-SHA-256=[iterations=100,password=pencil]
kafka-configs --alter --user carol --add-config SCRAM-SHA-256=[iterations=100000,password=pencil]
kafka-configs --alter --user carol --add-config SCRAM-SHA-1=[password=pencil]
kafka-configs --alter --user carol --add-config SCRAM-SHA-256=[iterations=5000,password=other],producer_byte_rate=1000
kafka-configs --alter --user carol --delete-config SCRAM-SHA-256
kafka-configs --alter --user carol --delete-config SCRAM-SHA-256
kafka-configs --describe --user carol
kafka-configs --alter --user carol --delete-config SCRAM-SHA-512,producer_byte_rate
kafka-configs --describe --user carol

# Metrics of clients
kafka-client-metrics --alter --name usage --metrics org.apache.kafka.producer. --interval 30000 --match client_id=a
kafka-client-metrics --list
kafka-client-metrics --describe --name usage
kafka-client-metrics --alter --name usage --metrics org.apache.kafka.producer. --interval -5
kafka-client-metrics --delete --name usage
kafka-client-metrics --list

# Groups
kafka-groups --list
kafka-groups --list --consumer
kafka-groups --list --group-type classic --protocol consumer
kafka-groups --list --share
kafka-consumer-groups --list
kafka-consumer-groups --list --state --type
kafka-consumer-groups --describe --group readers
kafka-consumer-groups --describe --group readers --members --verbose
kafka-consumer-groups --describe --group readers --state
kafka-consumer-groups --describe --group too --offsets --verbose
kafka-consumer-groups --describe --group nobody
kafka-consumer-groups --reset-offsets --group readers --topic orders --to-earliest --dry-run
kafka-consumer-groups --reset-offsets --group readers --topic orders:0 --to-offset 1 --execute
kafka-consumer-groups --reset-offsets --group readers --from-file {reset-plan} --execute
kafka-consumer-groups --reset-offsets --group readers --topic nowhere --to-latest --execute
kafka-consumer-groups --delete-offsets --group readers --topic orders:0
kafka-consumer-groups --delete-offsets --group readers --topic nowhere
kafka-consumer-groups --delete-offsets --group nobody --topic orders
kafka-consumer-groups --delete --group readers
kafka-consumer-groups --delete --group nobody
kafka-share-groups --list
kafka-share-groups --describe --group shared
kafka-share-groups --delete --group shared
kafka-console-share-consumer --topic orders --group shared --timeout-ms 1500
kafka-streams-groups --list
kafka-streams-groups --describe --group streamed
kafka-streams-application-reset --application-id app --input-topics orders --dry-run
kafka-streams-application-reset --application-id app --input-topics orders
kafka-streams-application-reset --application-id app --input-topics nowhere

# Where replicas are
kafka-log-dirs --describe --topic-list orders,a.b
kafka-log-dirs --describe --topic-list nowhere
kafka-log-dirs --describe --topic-list orders --broker-list %
kafka-log-dirs --describe --broker-list 99
kafka-reassign-partitions --topics-to-move-json-file {move-topics} --broker-list % --generate
kafka-reassign-partitions --topics-to-move-json-file {move-nowhere} --broker-list % --generate
kafka-reassign-partitions --topics-to-move-json-file {move-topics} --broker-list 7 --generate
kafka-reassign-partitions --reassignment-json-file {stay} --execute
kafka-reassign-partitions --reassignment-json-file {stay} --execute --throttle 1000000
kafka-reassign-partitions --reassignment-json-file {stay} --verify
kafka-reassign-partitions --reassignment-json-file {move-to-seven} --execute
kafka-reassign-partitions --reassignment-json-file {move-what-is-not-there} --execute
kafka-reassign-partitions --reassignment-json-file {stay} --cancel
kafka-reassign-partitions --list
kafka-leader-election --election-type preferred --topic orders --partition 0
kafka-leader-election --election-type unclean --topic orders --partition 0
kafka-leader-election --election-type preferred --path-to-json-file {elect}
kafka-leader-election --election-type preferred --all-topic-partitions
kafka-leader-election --election-type preferred --topic nowhere --partition 0

# Features, the quorum, permissions
kafka-features describe
kafka-features upgrade --feature transaction.version=2
kafka-features upgrade --feature group.version=1 --dry-run
kafka-features upgrade --feature no.such.version=1
kafka-features upgrade --feature transaction.version=9
kafka-features upgrade --release-version 4.4 --dry-run
kafka-features downgrade --feature transaction.version=1 --dry-run
kafka-features downgrade --feature metadata.version=25
kafka-features disable --feature group.version --dry-run
kafka-metadata-quorum describe --status
kafka-metadata-quorum describe --replication
kafka-metadata-quorum remove-controller --controller-id 9 --controller-directory-id AAAAAAAAAAAAAAAAAAAAAQ
kafka-acls --list
kafka-acls --add --allow-principal User:alice --operation Read --topic orders
kafka-acls --remove --force --topic orders
kafka-delegation-tokens --describe
kafka-delegation-tokens --create --max-life-time-period -1

# Transactions
kafka-transactions list
kafka-transactions list --duration-filter 10000
kafka-transactions describe --transactional-id perf
kafka-transactions describe --transactional-id nobody
kafka-transactions describe-producers --topic orders --partition 1
kafka-transactions find-hanging --broker-id %
kafka-transactions abort --topic orders --partition 0 --start-offset 0
kafka-transactions forceTerminateTransaction --transactional-id nobody

kafka-topics --list --exclude-internal
"""

# Each key has its partition, so that both brokers are asked alike.
RECORDS = "".join(f"key-{number};value {number}\n" for number in range(10))


@dataclass(frozen=True)
class Step:
    """One run of a tool."""

    line: str
    again: int
    """Which time this is that the line is run."""

    @property
    def name(self) -> str:
        return self.line if self.again == 1 else f"{self.line} ({self.again})"

    @property
    def tool(self) -> str:
        return self.line.split()[0]

    @property
    def stdin(self) -> str:
        return RECORDS if self.line.endswith("< records") else ""

    def arguments(self, bootstrap: str, broker_id: int, files: dict[str, str]) -> list[str]:
        """What the tool's main class is given."""
        words = shlex.split(self.line.removesuffix("< records"), posix=False)[1:]
        if "@" not in words:
            words.insert(0, "@")
        place = words.index("@")
        words[place : place + 1] = ["--bootstrap-server", bootstrap]
        words = [files[word[1:-1]] if word.startswith("{") else word for word in words]
        return [word.replace("%", str(broker_id)) for word in words]


def _steps() -> list[Step]:
    times: dict[str, int] = {}
    found = []
    for line in SCRIPT.splitlines():
        if line and not line.startswith("#"):
            times[line] = times.get(line, 0) + 1
            found.append(Step(line, times[line]))
    return found


STEPS = _steps()

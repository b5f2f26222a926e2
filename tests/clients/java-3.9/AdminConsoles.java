// What consoles for Kafka ask through the Java client, in their order; the argument says which console. Each line of the
// output is a step, a tab, and one thing that the answer says. tests/compare/test_admin_programs.py compares them.
//
// They have clients of this release, which still have AlterConfigs.

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.ConsumerGroupListing;
import org.apache.kafka.clients.admin.DescribeClusterOptions;
import org.apache.kafka.clients.admin.DescribeClusterResult;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.ReplicaInfo;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.TopicPartitionReplica;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.ClientQuotaAlteration;
import org.apache.kafka.common.quota.ClientQuotaEntity;
import org.apache.kafka.common.quota.ClientQuotaFilter;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public final class AdminConsoles {
    private static final long DAY_2020 = 1_577_836_800_000L;
    private static final int RECORDS = 10;
    private static final long WAIT_NS = 20_000_000_000L;
    // Apache Kafka answers before it tells of a change, and nothing says when it does.
    private static final long SETTLE_MS = 500;

    private final String bootstrap;
    private final Admin admin;
    private String step = "";

    private AdminConsoles(String bootstrap) {
        this.bootstrap = bootstrap;
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "request.timeout.ms", 20_000,
            "default.api.timeout.ms", 20_000));
    }

    public static void main(String[] arguments) throws Exception {
        AdminConsoles consoles = new AdminConsoles(arguments[1]);
        if (arguments[0].equals("akhq")) {
            consoles.akhq();
        } else {
            consoles.kafbat();
        }
        consoles.admin.close();
    }

    private void say(String what) {
        System.out.println(step + "\t" + what.replaceAll("\\s+", " "));
    }

    /** Does what a step asks; what it throws is part of what it says. */
    private <T> Optional<T> ask(String name, Callable<T> question) throws Exception {
        step = name;
        try {
            return Optional.ofNullable(question.call());
        } catch (ExecutionException failure) {
            say(failure.getCause().getClass().getSimpleName() + ": " + failure.getCause().getMessage());
        } catch (RuntimeException failure) {
            say(failure.getClass().getSimpleName() + ": " + failure.getMessage());
        }
        return Optional.empty();
    }

    private void akhq() throws Exception {
        String topic = "akhq-orders";
        List<Node> nodes = cluster(new DescribeClusterOptions());
        ask("create", () -> admin.createTopics(List.of(new NewTopic(topic, 2, (short) 1)
            .configs(Map.of("retention.ms", "86400000", "cleanup.policy", "delete")))).all().get());
        Map<TopicPartition, Long> offsets = produce(topic);
        topics(ask("list topics", () -> admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get()));
        ends(topic, offsets.keySet());
        read(topic);
        groups(topic, "akhq-readers");
        logDirs(nodes, topic);
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        configs("topic configs", resource, new DescribeConfigsOptions());
        configs("broker configs", new ConfigResource(ConfigResource.Type.BROKER, nodes.get(0).idString()),
            new DescribeConfigsOptions());
        replaceConfigs(resource);
        ask("add partitions", () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(4))).all().get());
        ask("permissions", () -> {
            say("permissions " + admin.describeAcls(AclBindingFilter.ANY).values().get());
            return null;
        });
        ask("empty a partition", () -> {
            TopicPartition place = new TopicPartition(topic, 0);
            say("low " + admin.deleteRecords(Map.of(place, RecordsToDelete.beforeOffset(3)))
                .lowWatermarks().get(place).get().lowWatermark());
            return null;
        });
        ends(topic, offsets.keySet());
        ask("delete offsets", () -> admin.deleteConsumerGroupOffsets("akhq-readers",
            Set.of(new TopicPartition(topic, 1))).all().get());
        ask("delete group", () -> admin.deleteConsumerGroups(Set.of("akhq-readers")).all().get());
        ask("delete topic", () -> admin.deleteTopics(Set.of(topic)).all().get());
    }

    private void kafbat() throws Exception {
        String topic = "kafbat-orders";
        List<Node> nodes = cluster(new DescribeClusterOptions().includeAuthorizedOperations(true));
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, nodes.get(0).idString());
        configs("broker configs", broker, new DescribeConfigsOptions().includeSynonyms(true));
        ask("features", () -> {
            admin.describeFeatures().featureMetadata().get().finalizedFeatures()
                .forEach((name, range) -> say(name + " " + range.maxVersionLevel()));
            return null;
        });
        ask("permissions", () -> {
            say("permissions " + admin.describeAcls(AclBindingFilter.ANY).values().get());
            return null;
        });
        ask("quorum", () -> {
            var quorum = admin.describeMetadataQuorum().quorumInfo().get();
            say("leader " + quorum.leaderId());
            quorum.voters().forEach(voter -> say("voter " + voter.replicaId()));
            say("observers " + quorum.observers().size());
            return null;
        });
        ask("create", () -> admin.createTopics(List.of(new NewTopic(topic, Optional.of(2), Optional.empty())
            .configs(Map.of("retention.ms", "86400000")))).all().get());
        Map<TopicPartition, Long> offsets = produce(topic);
        topics(ask("list topics", () -> admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get()));
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        configs("topic configs", resource, new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true));
        logDirs(nodes, topic);
        for (OffsetSpec spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.forTimestamp(DAY_2020 + 4),
            OffsetSpec.maxTimestamp())) {
            ask("offsets by " + spec.getClass().getSimpleName(), () -> {
                Map<TopicPartition, OffsetSpec> asked = new HashMap<>();
                offsets.keySet().forEach(place -> asked.put(place, spec));
                admin.listOffsets(asked).all().get()
                    .forEach((place, found) -> say(place + " " + found.offset() + " at " + found.timestamp()));
                return null;
            });
        }
        groups(topic, "kafbat-readers");
        ask("alter group offsets", () -> admin.alterConsumerGroupOffsets("kafbat-readers",
            Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(1))).all().get());
        groupOffsets("kafbat-readers");
        ask("producers", () -> {
            admin.describeProducers(offsets.keySet()).all().get().forEach((place, state) -> state.activeProducers()
                .forEach(one -> say(place + " epoch " + one.producerEpoch() + " sequence " + one.lastSequence()
                    + " open " + one.currentTransactionStartOffset().isPresent())));
            return null;
        });
        ask("alter topic configs", () -> admin.incrementalAlterConfigs(Map.of(resource, List.of(
            new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET),
            new AlterConfigOp(new ConfigEntry("max.message.bytes", "2000000"), AlterConfigOp.OpType.SET)))).all().get());
        changed("configs then", resource);
        replaceConfigs(resource);
        ask("alter broker config", () -> admin.incrementalAlterConfigs(Map.of(broker, List.of(
            new AlterConfigOp(new ConfigEntry("log.retention.ms", "7200000"), AlterConfigOp.OpType.SET)))).all().get());
        // Apache Kafka tells of it before it is in effect.
        for (long end = System.nanoTime() + WAIT_NS; !"7200000".equals(valueOf(broker, "log.retention.ms"))
            && System.nanoTime() < end;) {
            Thread.sleep(50);
        }
        changed("broker configs then", broker);
        ask("take broker config back", () -> admin.incrementalAlterConfigs(Map.of(broker, List.of(
            new AlterConfigOp(new ConfigEntry("log.retention.ms", ""), AlterConfigOp.OpType.DELETE)))).all().get());
        ask("more replicas", () -> admin.alterPartitionReassignments(Map.of(new TopicPartition(topic, 0),
            Optional.of(new NewPartitionReassignment(List.of(nodes.get(0).id(), 77))))).all().get());
        ask("same replicas", () -> admin.alterPartitionReassignments(Map.of(new TopicPartition(topic, 0),
            Optional.of(new NewPartitionReassignment(List.of(nodes.get(0).id()))))).all().get());
        ask("move to a folder", () -> admin.alterReplicaLogDirs(Map.of(
            new TopicPartitionReplica(topic, 0, nodes.get(0).id()), "/nowhere")).all().get());
        ask("quotas", () -> {
            say("quotas " + admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get());
            return null;
        });
        ask("alter quota", () -> admin.alterClientQuotas(quota(1000.0)).all().get());
        ask("take quota back", () -> admin.alterClientQuotas(quota(null)).all().get());
        ask("add partitions", () -> admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(4))).all().get());
        ask("delete records", () -> admin.deleteRecords(Map.of(new TopicPartition(topic, 0),
            RecordsToDelete.beforeOffset(2), new TopicPartition(topic, 1), RecordsToDelete.beforeOffset(-1))).all().get());
        ends(topic, offsets.keySet());
        ask("delete group", () -> admin.deleteConsumerGroups(Set.of("kafbat-readers")).all().get());
        ask("delete topic", () -> admin.deleteTopics(Set.of(topic)).all().get());
    }

    private static List<ClientQuotaAlteration> quota(Double bytes) {
        return List.of(new ClientQuotaAlteration(new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, "slow")),
            List.of(new ClientQuotaAlteration.Op("producer_byte_rate", bytes))));
    }

    private List<Node> cluster(DescribeClusterOptions options) throws Exception {
        return ask("cluster", () -> {
            DescribeClusterResult cluster = admin.describeCluster(options);
            List<Node> nodes = new ArrayList<>(cluster.nodes().get());
            say("nodes " + nodes.stream().map(Node::id).collect(Collectors.toList()));
            say("controller " + cluster.controller().get().id());
            Set<?> operations = cluster.authorizedOperations().get();
            say("operations " + (operations == null ? null : new TreeSet<Object>(operations)));
            return nodes;
        }).orElseThrow();
    }

    private void topics(Optional<Set<String>> names) throws Exception {
        ask("describe topics", () -> {
            List<String> ours = names.orElseThrow().stream().filter(name -> !name.startsWith("__"))
                .collect(Collectors.toList());
            for (TopicDescription topic : admin.describeTopics(ours).allTopicNames().get().values()) {
                for (TopicPartitionInfo part : topic.partitions()) {
                    say(topic.name() + " internal " + topic.isInternal() + " partition " + part.partition() + " leader "
                        + part.leader().id() + " replicas " + ids(part.replicas()) + " isr " + ids(part.isr()));
                }
            }
            return null;
        });
    }

    private static List<Integer> ids(List<Node> nodes) {
        return nodes.stream().map(Node::id).collect(Collectors.toList());
    }

    private Map<TopicPartition, Long> produce(String topic) throws Exception {
        Thread.sleep(SETTLE_MS);
        return ask("produce", () -> {
            Map<TopicPartition, Long> last = new HashMap<>();
            try (KafkaProducer<String, String> producer = new KafkaProducer<>(Map.of("bootstrap.servers", bootstrap),
                new StringSerializer(), new StringSerializer())) {
                for (int number = 0; number < RECORDS; number++) {
                    var sent = producer.send(new ProducerRecord<>(topic, number % 2, DAY_2020 + number,
                        "key " + number, "value " + number)).get();
                    last.put(new TopicPartition(topic, number % 2), sent.offset());
                }
            }
            say("last " + last);
            return last;
        }).orElseThrow();
    }

    private KafkaConsumer<String, String> consumer(Map<String, Object> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", bootstrap);
        settings.put("enable.auto.commit", false);
        settings.put("auto.offset.reset", "earliest");
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private void ends(String topic, Collection<TopicPartition> places) throws Exception {
        ask("ends", () -> {
            try (KafkaConsumer<String, String> consumer = consumer(Map.of())) {
                say("from " + sorted(consumer.beginningOffsets(places)));
                say("to " + sorted(consumer.endOffsets(places)));
            }
            return null;
        });
    }

    private static List<String> sorted(Map<?, ?> entries) {
        return entries.entrySet().stream().map(Object::toString).sorted().collect(Collectors.toList());
    }

    private void read(String topic) throws Exception {
        ask("read", () -> {
            TopicPartition place = new TopicPartition(topic, 0);
            try (KafkaConsumer<String, String> consumer = consumer(Map.of("isolation.level", "read_committed"))) {
                consumer.assign(List.of(place));
                say("by time " + consumer.offsetsForTimes(Map.of(place, DAY_2020 + 3)).get(place).offset());
                consumer.seek(place, 2);
                int number = 0;
                for (long end = System.nanoTime() + WAIT_NS; number < 3 && System.nanoTime() < end;) {
                    for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(500))) {
                        say(record.offset() + " " + record.key() + " " + record.value() + " " + record.timestamp());
                        number++;
                    }
                }
            }
            return null;
        });
    }

    private void groups(String topic, String group) throws Exception {
        ask("commit", () -> {
            try (KafkaConsumer<String, String> consumer = consumer(Map.of("group.id", group))) {
                consumer.assign(List.of(new TopicPartition(topic, 0), new TopicPartition(topic, 1)));
                consumer.commitSync(Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(4, "by hand"),
                    new TopicPartition(topic, 1), new OffsetAndMetadata(5)));
            }
            return null;
        });
        ask("list groups", () -> {
            for (ConsumerGroupListing one : admin.listConsumerGroups().all().get()) {
                say(one.groupId() + " " + one.state() + " " + one.type() + " simple " + one.isSimpleConsumerGroup());
            }
            return null;
        });
        ask("describe groups", () -> {
            for (ConsumerGroupDescription one : admin.describeConsumerGroups(List.of(group)).all().get().values()) {
                say(one.groupId() + " " + one.state() + " at " + one.coordinator().id() + " members "
                    + one.members().size() + " assignor '" + one.partitionAssignor() + "'");
            }
            return null;
        });
        groupOffsets(group);
    }

    private void groupOffsets(String group) throws Exception {
        ask("group offsets", () -> {
            admin.listConsumerGroupOffsets(Map.of(group, new ListConsumerGroupOffsetsSpec())).all().get().get(group)
                .forEach((place, offset) -> say(place + " " + offset.offset() + " '" + offset.metadata() + "'"));
            return null;
        });
    }

    private void logDirs(List<Node> nodes, String topic) throws Exception {
        ask("log dirs", () -> {
            var found = admin.describeLogDirs(ids(nodes)).allDescriptions().get();
            for (Map<String, LogDirDescription> dirs : found.values()) {
                say("folders " + dirs.size());
                for (LogDirDescription dir : dirs.values()) {
                    say("error " + dir.error() + " sizes " + dir.totalBytes().isPresent() + dir.usableBytes().isPresent());
                    for (Map.Entry<TopicPartition, ReplicaInfo> one : dir.replicaInfos().entrySet()) {
                        if (one.getKey().topic().equals(topic)) {
                            say(one.getKey() + " is " + (one.getValue().size() > 0 ? "larger than 0" : "empty") + " lag "
                                + one.getValue().offsetLag() + " future " + one.getValue().isFuture());
                        }
                    }
                }
            }
            return null;
        });
    }

    private void configs(String name, ConfigResource resource, DescribeConfigsOptions options) throws Exception {
        ask(name, () -> {
            for (ConfigEntry entry : admin.describeConfigs(List.of(resource), options).all().get().get(resource).entries()) {
                say(described(entry) + " read-only " + entry.isReadOnly() + " sensitive " + entry.isSensitive() + " "
                    + entry.type() + (options.includeDocumentation() ? " documented " + (entry.documentation() != null) : "")
                    + (options.includeSynonyms() ? " synonyms " + entry.synonyms().stream()
                        .map(one -> one.name() + "=" + one.value() + " " + one.source()).collect(Collectors.toList()) : ""));
            }
            return null;
        });
    }

    private String valueOf(ConfigResource resource, String name) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource).get(name).value();
    }

    private static String described(ConfigEntry entry) {
        return entry.name() + "=" + entry.value() + " " + entry.source();
    }

    private void changed(String name, ConfigResource resource) throws Exception {
        Thread.sleep(SETTLE_MS);
        ask(name, () -> {
            for (ConfigEntry entry : admin.describeConfigs(List.of(resource)).all().get().get(resource).entries()) {
                if (entry.source().name().startsWith("DYNAMIC_")) {
                    say(described(entry));
                }
            }
            return null;
        });
    }

    /** What was changed before is named again: who names less takes the rest back. */
    @SuppressWarnings("deprecation")
    private void replaceConfigs(ConfigResource resource) throws Exception {
        ask("replace configs", () -> {
            List<ConfigEntry> entries = new ArrayList<>();
            for (ConfigEntry entry : admin.describeConfigs(List.of(resource)).all().get().get(resource).entries()) {
                if (entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG) {
                    entries.add(new ConfigEntry(entry.name(), entry.value()));
                }
            }
            entries.add(new ConfigEntry("segment.bytes", "10485760"));
            return admin.alterConfigs(Map.of(resource, new Config(entries))).all().get();
        });
        changed("configs after replacing", resource);
        ask("replace with less", () -> admin.alterConfigs(Map.of(resource,
            new Config(List.of(new ConfigEntry("retention.ms", "7200000"))))).all().get());
        changed("configs after replacing with less", resource);
        ask("replace with a wrong one", () -> admin.alterConfigs(Map.of(resource,
            new Config(List.of(new ConfigEntry("retention.ms", "soon"))))).all().get());
    }
}

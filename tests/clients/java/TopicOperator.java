// What Strimzi's topic operator asks to make topics what they are to be, in its order. Each line of the output is a step,
// a tab, and one thing that the answer says. tests/compare/test_admin_programs.py compares them.

import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreateTopicsResult;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;

public final class TopicOperator {
    private static final List<String> TOPICS = List.of("strimzi-orders", "strimzi-wrong", "strimzi-wide");

    private final Admin admin;
    private String step = "";

    private TopicOperator(Admin admin) {
        this.admin = admin;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", arguments[1], "request.timeout.ms", 20_000,
            "default.api.timeout.ms", 20_000);
        try (Admin admin = Admin.create(settings)) {
            new TopicOperator(admin).reconcile();
        }
    }

    private void say(String what) {
        System.out.println(step + "\t" + what);
    }

    private void each(String name, Map<String, ? extends KafkaFuture<?>> answers) throws Exception {
        step = name;
        for (Map.Entry<String, ? extends KafkaFuture<?>> one : answers.entrySet()) {
            try {
                Object found = one.getValue().get();
                say(one.getKey() + " " + (found == null ? "done" : found.getClass().getSimpleName()));
            } catch (ExecutionException failure) {
                say(one.getKey() + " " + failure.getCause().getClass().getSimpleName() + ": "
                    + failure.getCause().getMessage());
            }
        }
    }

    private static ConfigResource resource(String topic) {
        return new ConfigResource(ConfigResource.Type.TOPIC, topic);
    }

    private static Map<String, KafkaFuture<?>> byTopic(Map<ConfigResource, ? extends KafkaFuture<?>> answers) {
        Map<String, KafkaFuture<?>> named = new LinkedHashMap<>();
        answers.forEach((resource, answer) -> named.put(resource.name(), answer));
        return named;
    }

    private void reconcile() throws Exception {
        step = "brokers make topics by themselves";
        for (Node node : admin.describeCluster().nodes().get()) {
            ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, node.idString());
            say(admin.describeConfigs(Set.of(broker)).all().get().get(broker).get("auto.create.topics.enable").value());
        }
        each("not there yet", admin.describeTopics(TOPICS).topicNameValues());
        each("no configs yet", byTopic(admin.describeConfigs(TOPICS.stream().map(TopicOperator::resource)
            .collect(Collectors.toList())).values()));

        CreateTopicsResult created = admin.createTopics(List.of(
            new NewTopic("strimzi-orders", Optional.of(2), Optional.empty())
                .configs(Map.of("retention.ms", "86400000", "cleanup.policy", "compact")),
            new NewTopic("strimzi-wrong", Optional.of(2), Optional.empty()).configs(Map.of("retention.ms", "soon")),
            new NewTopic("strimzi-wide", Optional.of(3), Optional.of((short) 1))));
        each("create", created.values());
        step = "what was created";
        say("partitions " + created.numPartitions("strimzi-orders").get());
        say("replicas " + created.replicationFactor("strimzi-orders").get());
        say("retention " + created.config("strimzi-orders").get().get("retention.ms").value());

        describe("described");
        step = "being moved";
        say("moves " + admin.listPartitionReassignments(
            Set.of(new TopicPartition("strimzi-orders", 0), new TopicPartition("strimzi-orders", 1)))
            .reassignments().get());
        Map<ConfigResource, Collection<AlterConfigOp>> changes = new LinkedHashMap<>();
        changes.put(resource("strimzi-orders"), List.of(
            new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET),
            new AlterConfigOp(new ConfigEntry("cleanup.policy", null), AlterConfigOp.OpType.DELETE)));
        changes.put(resource("strimzi-wide"), List.of(
            new AlterConfigOp(new ConfigEntry("max.message.bytes", "much"), AlterConfigOp.OpType.SET)));
        each("alter configs", byTopic(admin.incrementalAlterConfigs(changes).values()));
        each("add partitions", admin.createPartitions(Map.of("strimzi-orders", NewPartitions.increaseTo(3),
            "strimzi-wide", NewPartitions.increaseTo(1))).values());
        describe("described after changes");
        each("delete", admin.deleteTopics(TopicCollection.ofTopicNames(TOPICS)).topicNameValues());
    }

    private void describe(String name) throws Exception {
        // Apache Kafka answers before it tells of a change, and nothing says when it does.
        Thread.sleep(500);
        step = name;
        List<String> there = List.of("strimzi-orders", "strimzi-wide");
        admin.describeTopics(there).allTopicNames().get().forEach((topic, found) -> found.partitions()
            .forEach(part -> say(topic + " " + part.partition() + " replicas " + part.replicas().size())));
        List<ConfigResource> resources = new ArrayList<>();
        there.forEach(topic -> resources.add(resource(topic)));
        admin.describeConfigs(resources).all().get().forEach((topic, found) -> found.entries().stream()
            .filter(entry -> entry.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG)
            .forEach(entry -> say(topic.name() + " " + entry.name() + "=" + entry.value())));
    }
}

// Members of consumer groups in one JVM; tests/clients/group_members.py says what goes in and what comes out.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class GroupMembers {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, String> ASSIGNORS = Map.of(
        "range", "org.apache.kafka.clients.consumer.RangeAssignor",
        "roundrobin", "org.apache.kafka.clients.consumer.RoundRobinAssignor",
        "sticky", "org.apache.kafka.clients.consumer.StickyAssignor",
        "cooperative-sticky", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
    private static PrintStream events;

    public static void main(String[] arguments) throws Exception {
        events = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err);
        Map<String, Member> members = new HashMap<>();
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            JsonNode request = JSON.readTree(line);
            String name = request.get("member").asText();
            switch (request.get("op").asText()) {
                case "join" -> {
                    members.put(name, new Member(name, request));
                    members.get(name).start();
                }
                case "leave" -> members.get(name).leaving = true;
                case "pause" -> members.get(name).paused = true;
                case "resume" -> members.get(name).paused = false;
                default -> throw new IllegalArgumentException(line);
            }
        }
        Runtime.getRuntime().halt(0);
    }

    private static final class Member extends Thread implements ConsumerRebalanceListener {
        private final String member;
        private final JsonNode request;
        private final TreeSet<Integer> owned = new TreeSet<>();
        private KafkaConsumer<byte[], byte[]> consumer;
        volatile boolean leaving = false;
        volatile boolean paused = false;

        Member(String member, JsonNode request) {
            this.member = member;
            this.request = request;
            setDaemon(true);
        }

        @Override
        public void run() {
            try {
                live();
                write(event("left"));
            } catch (Throwable failure) {
                write(event("failed").put("error", failure.toString()));
            }
        }

        private void live() throws InterruptedException {
            Properties settings = new Properties();
            boolean isClassic = request.get("protocol").asText().equals("classic");
            settings.put("bootstrap.servers", request.get("bootstrap").asText());
            settings.put("group.id", request.get("group").asText());
            settings.put("client.id", member);
            settings.put("group.protocol", request.get("protocol").asText());
            settings.put("enable.auto.commit", "false");
            settings.put("auto.offset.reset", "earliest");
            settings.put("max.poll.interval.ms", request.get("max_poll_interval_ms").asText());
            settings.put("fetch.max.wait.ms", "100");
            settings.put("reconnect.backoff.max.ms", "200");
            String assignor = request.get("assignor").asText();
            if (isClassic) {
                settings.put("session.timeout.ms", request.get("session_timeout_ms").asText());
                settings.put("heartbeat.interval.ms", request.get("heartbeat_interval_ms").asText());
                settings.put("partition.assignment.strategy", ASSIGNORS.get(assignor));
            } else {
                settings.put("group.remote.assignor", assignor);
            }
            if (!request.get("instance_id").isNull()) {
                settings.put("group.instance.id", request.get("instance_id").asText());
            }
            consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
            consumer.subscribe(List.of(request.get("topic").asText()), this);
            while (!leaving) {
                if (paused) {
                    write(event("paused"));
                    while (paused) {
                        Thread.sleep(10);
                    }
                    write(event("resumed"));
                }
                ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofMillis(100));
                Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
                for (TopicPartition partition : polled.partitions()) {
                    List<ConsumerRecord<byte[], byte[]>> records = polled.records(partition);
                    long first = records.get(0).offset();
                    long last = records.get(records.size() - 1).offset();
                    write(event("records").put("partition", partition.partition()).put("first", first).put("last", last)
                        .put("generation", consumer.groupMetadata().generationId())
                        .put("member_id", consumer.groupMetadata().memberId()));
                    ends.put(partition, new OffsetAndMetadata(last + 1));
                }
                if (!ends.isEmpty()) {
                    commit(ends);
                }
            }
            consumer.close();
        }

        private void commit(Map<TopicPartition, OffsetAndMetadata> ends) {
            try {
                consumer.commitSync(ends);
                ends.forEach((partition, end) -> write(
                    event("committed").put("partition", partition.partition()).put("offset", end.offset())));
            } catch (KafkaException failure) {
                write(event("refused").put("error", failure.toString()));
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> owned.add(partition.partition()));
            tellOwned();
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> owned.remove(partition.partition()));
            tellOwned();
        }

        private void tellOwned() {
            ObjectNode event = event("owned");
            ArrayNode partitions = event.putArray("partitions");
            owned.forEach(partitions::add);
            write(event.put("generation", consumer.groupMetadata().generationId()));
        }

        private ObjectNode event(String what) {
            return JSON.createObjectNode().put("member", member).put("at", System.currentTimeMillis()).put("what", what);
        }
    }

    private static void write(ObjectNode event) {
        synchronized (events) {
            events.println(event);
            events.flush();
        }
    }
}

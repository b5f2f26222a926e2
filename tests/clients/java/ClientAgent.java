// The Java clients behind one JSON object a line: a request on stdin, its answer on stdout. One JVM serves all tests.
// tests/clients/agents.py speaks to it and says what each operation takes and returns.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class ClientAgent {
    private static final ObjectMapper JSON = new ObjectMapper();
    private final Map<Integer, KafkaProducer<byte[], byte[]>> producers = new HashMap<>();
    private final Map<Integer, KafkaConsumer<byte[], byte[]>> consumers = new HashMap<>();
    private final Map<Integer, TopicPartition> assignments = new HashMap<>();
    private int lastHandle = 0;

    public static void main(String[] arguments) throws Exception {
        PrintStream answers = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        ClientAgent agent = new ClientAgent();
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            ObjectNode answer = JSON.createObjectNode();
            try {
                agent.answer(JSON.readTree(line), answer);
            } catch (Throwable failure) {
                Throwable cause = failure instanceof ExecutionException ? failure.getCause() : failure;
                answer.removeAll();
                answer.put("error", cause.toString()).put("code", Errors.forException(cause).code());
            }
            answers.println(JSON.writeValueAsString(answer));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private void answer(JsonNode request, ObjectNode answer) throws Exception {
        switch (request.get("op").asText()) {
            case "open_producer" -> {
                Properties settings = settings(request);
                settings.put("acks", "all");
                settings.put("compression.type", request.get("codec").asText());
                settings.put("enable.idempotence", request.get("idempotent").asText());
                settings.put("max.request.size", request.get("max_bytes").asText());
                settings.put("max.block.ms", "60000");
                settings.put("reconnect.backoff.max.ms", "200");
                producers.put(++lastHandle, new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer()));
                answer.put("handle", lastHandle);
            }
            case "send" -> send(request, answer);
            case "close_producer" -> producers.remove(request.get("handle").asInt()).close();
            case "open_consumer" -> {
                KafkaConsumer<byte[], byte[]> consumer = consumer(request);
                TopicPartition partition = partition(request);
                consumer.assign(List.of(partition));
                consumer.seek(partition, request.get("offset").asLong());
                consumers.put(++lastHandle, consumer);
                assignments.put(lastHandle, partition);
                answer.put("handle", lastHandle);
            }
            case "seek" -> {
                int handle = request.get("handle").asInt();
                consumers.get(handle).seek(assignments.get(handle), request.get("offset").asLong());
            }
            case "read" -> read(request, answer);
            // Not waiting for the long poll that is under way. Clients of 3.9 have no other form of this.
            case "close_consumer" -> consumers.remove(request.get("handle").asInt()).close(Duration.ZERO);
            case "watermarks" -> {
                TopicPartition partition = partition(request);
                try (KafkaConsumer<byte[], byte[]> consumer = consumer(request)) {
                    answer.put("low", consumer.beginningOffsets(List.of(partition)).get(partition));
                    answer.put("high", consumer.endOffsets(List.of(partition)).get(partition));
                }
            }
            case "offset_for_time" -> {
                TopicPartition partition = partition(request);
                try (KafkaConsumer<byte[], byte[]> consumer = consumer(request)) {
                    long timestamp = request.get("timestamp").asLong();
                    OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(partition, timestamp)).get(partition);
                    answer.put("offset", found == null ? -1 : found.offset());
                }
            }
            default -> {
                try (Admin admin = Admin.create(settings(request))) {
                    administer(admin, request, answer);
                }
            }
        }
    }

    private static void administer(Admin admin, JsonNode request, ObjectNode answer) throws Exception {
        String topic = request.get("topic").asText();
        switch (request.get("op").asText()) {
            case "create_topic" -> {
                Map<String, String> configs = new HashMap<>();
                request.get("configs").fields().forEachRemaining(entry -> configs.put(entry.getKey(), entry.getValue().asText()));
                admin.createTopics(List.of(new NewTopic(topic, request.get("partitions").asInt(), (short) 1).configs(configs))).all().get();
            }
            case "delete_topic" -> admin.deleteTopics(List.of(topic)).all().get();
            case "create_partitions" ->
                admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(request.get("partitions").asInt()))).all().get();
            case "partitions" -> answer.put("partitions", admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size());
            case "configs" -> {
                ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
                ObjectNode configs = answer.putObject("configs");
                for (ConfigEntry entry : admin.describeConfigs(List.of(resource)).all().get().get(resource).entries()) {
                    configs.put(entry.name(), entry.value());
                }
            }
            default -> throw new IllegalArgumentException("no such operation: " + request);
        }
    }

    private void send(JsonNode request, ObjectNode answer) throws Exception {
        KafkaProducer<byte[], byte[]> producer = producers.get(request.get("handle").asInt());
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (JsonNode record : request.get("records")) {
            RecordHeaders headers = new RecordHeaders();
            for (JsonNode header : record.get(2)) {
                headers.add(header.get(0).asText(), bytes(header.get(1)));
            }
            Long timestamp = record.get(3).isNull() ? null : record.get(3).asLong();
            sent.add(producer.send(new ProducerRecord<>(
                request.get("topic").asText(), request.get("partition").asInt(), timestamp, bytes(record.get(0)), bytes(record.get(1)), headers)));
        }
        producer.flush();
        ArrayNode offsets = answer.putArray("offsets");
        for (Future<RecordMetadata> metadata : sent) {
            offsets.add(metadata.get().offset());
        }
    }

    private void read(JsonNode request, ObjectNode answer) {
        KafkaConsumer<byte[], byte[]> consumer = consumers.get(request.get("handle").asInt());
        long deadline = System.currentTimeMillis() + request.get("timeout_ms").asLong();
        int wanted = request.get("count").asInt();
        ArrayNode records = answer.putArray("records");
        while (records.size() < wanted && System.currentTimeMillis() < deadline) {
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(Math.max(1, deadline - System.currentTimeMillis())))) {
                ArrayNode one = records.addArray();
                one.add(text(record.key())).add(text(record.value()));
                ArrayNode headers = one.addArray();
                for (Header header : record.headers()) {
                    headers.addArray().add(header.key()).add(text(header.value()));
                }
                one.add(record.timestamp()).add(record.offset());
            }
        }
    }

    private static KafkaConsumer<byte[], byte[]> consumer(JsonNode request) {
        Properties settings = settings(request);
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "none");
        settings.put("max.poll.records", "1000000");
        if (request.has("max_wait_ms")) {
            settings.put("fetch.max.wait.ms", request.get("max_wait_ms").asText());
            settings.put("request.timeout.ms", String.valueOf(request.get("max_wait_ms").asInt() + 30000));
        }
        return new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static Properties settings(JsonNode request) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", request.get("bootstrap").asText());
        request.path("settings").fields().forEachRemaining(entry -> settings.put(entry.getKey(), entry.getValue().asText()));
        String tokens = settings.getProperty("sasl.oauthbearer.token.endpoint.url");
        if (tokens != null) {
            // Kafka's clients read from no place that is not named here.
            System.setProperty("org.apache.kafka.sasl.oauthbearer.allowed.urls", tokens);
        }
        return settings;
    }

    private static TopicPartition partition(JsonNode request) {
        return new TopicPartition(request.get("topic").asText(), request.get("partition").asInt());
    }

    private static byte[] bytes(JsonNode text) {
        return text.isNull() ? null : Base64.getDecoder().decode(text.asText());
    }

    private static String text(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }
}

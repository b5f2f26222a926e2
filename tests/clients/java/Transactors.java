// Transactional producers, and readers of what they wrote, in one JVM; tests/clients/transactors.py says what goes in
// and what comes out. Runs on every version of the clients since KIP-447: it uses nothing newer.

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
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public final class Transactors {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Duration POLL = Duration.ofMillis(100);
    private static final Map<String, KafkaProducer<String, String>> PRODUCERS = new ConcurrentHashMap<>();

    public static void main(String[] arguments) throws Exception {
        PrintStream answers = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        ExecutorService threads = Executors.newCachedThreadPool();
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            JsonNode request = JSON.readTree(line);
            threads.submit(() -> {
                ObjectNode answer = JSON.createObjectNode();
                try {
                    answer(request, answer);
                } catch (Throwable failure) {
                    Throwable cause = failure instanceof ExecutionException ? failure.getCause() : failure;
                    answer.removeAll();
                    answer.put("error", cause.getClass().getSimpleName()).put("text", cause.toString());
                }
                answer.set("id", request.get("id"));
                synchronized (answers) {
                    answers.println(answer);
                    answers.flush();
                }
            });
        }
        Runtime.getRuntime().halt(0);
    }

    private static void answer(JsonNode request, ObjectNode answer) throws Exception {
        String name = request.path("producer").asText();
        KafkaProducer<String, String> producer = PRODUCERS.get(name);
        switch (request.get("op").asText()) {
            case "open" -> PRODUCERS.put(name, open(request));
            case "begin" -> producer.beginTransaction();
            case "send" -> send(producer, request);
            case "commit" -> producer.commitTransaction();
            case "abort" -> producer.abortTransaction();
            case "close" -> PRODUCERS.remove(name).close(Duration.ZERO);
            case "read" -> read(request, answer);
            case "process" -> process(request, answer);
            case "commit_when_gone" -> commitWhenGone(producer, request);
            default -> throw new IllegalArgumentException("no such operation: " + request);
        }
    }

    private static KafkaProducer<String, String> open(JsonNode request) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", request.get("bootstrap").asText());
        settings.put("transactional.id", request.get("transactional_id").asText());
        settings.put("transaction.timeout.ms", request.get("timeout_ms").asText());
        settings.put("max.block.ms", "30000");
        KafkaProducer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        try {
            producer.initTransactions();
            return producer;
        } catch (RuntimeException failure) {
            producer.close(Duration.ZERO);
            throw failure;
        }
    }

    private static void send(KafkaProducer<String, String> producer, JsonNode request) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (JsonNode record : request.get("records")) {
            sent.add(producer.send(new ProducerRecord<>(record.get(0).asText(), record.get(1).asInt(), null, record.get(2).asText())));
        }
        producer.flush();
        for (Future<RecordMetadata> metadata : sent) {
            metadata.get();
        }
    }

    private static void read(JsonNode request, ObjectNode answer) {
        String topic = request.get("topic").asText();
        List<TopicPartition> unfinished = new ArrayList<>();
        for (int partition = 0; partition < request.get("partitions").asInt(); partition++) {
            unfinished.add(new TopicPartition(topic, partition));
        }
        ArrayNode records = answer.putArray("records");
        try (KafkaConsumer<String, String> consumer = consumer(request)) {
            consumer.assign(unfinished);
            consumer.seekToBeginning(unfinished);
            while (!unfinished.isEmpty()) {
                for (ConsumerRecord<String, String> record : consumer.poll(POLL)) {
                    if (record.value().equals(request.get("until").asText())) {
                        unfinished.remove(new TopicPartition(topic, record.partition()));
                    } else {
                        records.addArray().add(record.partition()).add(record.offset()).add(record.value());
                    }
                }
            }
        }
    }

    private static KafkaConsumer<String, String> consumer(JsonNode request) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", request.get("bootstrap").asText());
        settings.put("isolation.level", request.get("is_committed").asBoolean() ? "read_committed" : "read_uncommitted");
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "earliest");
        settings.put("fetch.max.wait.ms", "100");
        if (request.has("group")) {
            settings.put("group.id", request.get("group").asText());
            settings.put("group.protocol", request.get("protocol").asText());
            settings.put("max.poll.records", request.get("batch").asText());
            if (request.get("protocol").asText().equals("classic")) {
                settings.put("session.timeout.ms", request.get("session_timeout_ms").asText());
                settings.put("heartbeat.interval.ms", "300");
            }
        }
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static void process(JsonNode request, ObjectNode answer) throws Exception {
        String output = request.get("output").asText();
        int abortEvery = request.get("abort_every").asInt();
        int holdAfter = request.get("hold_after").asInt();
        int number = 0;
        Set<Integer> finished = new HashSet<>();
        KafkaProducer<String, String> producer = open(request);
        KafkaConsumer<String, String> consumer = consumer(request);
        consumer.subscribe(List.of(request.get("topic").asText()));
        while (finished.size() < request.get("partitions").asInt()) {
            ConsumerRecords<String, String> polled = consumer.poll(POLL);
            if (polled.isEmpty()) {
                continue;
            }
            number++;
            Set<Integer> ending = new HashSet<>();
            Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
            producer.beginTransaction();
            for (ConsumerRecord<String, String> record : polled) {
                producer.send(new ProducerRecord<>(output, record.partition(), null, record.value() + "+"));
                ends.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
                if (record.value().equals(request.get("until").asText())) {
                    ending.add(record.partition());
                }
            }
            producer.sendOffsetsToTransaction(ends, consumer.groupMetadata());
            if (number == holdAfter) {
                producer.flush();
                answer.put("is_held", true);
                return;
            }
            if (abortEvery > 0 && number % abortEvery == 0) {
                producer.abortTransaction();
                for (TopicPartition partition : polled.partitions()) {
                    consumer.seek(partition, polled.records(partition).get(0).offset());
                }
            } else {
                producer.commitTransaction();
                finished.addAll(ending);
            }
        }
        consumer.close();
        producer.close();
        answer.put("is_held", false);
    }

    private static void commitWhenGone(KafkaProducer<String, String> producer, JsonNode request) {
        ConsumerGroupMetadata member;
        Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
        try (KafkaConsumer<String, String> consumer = consumer(request)) {
            consumer.subscribe(List.of(request.get("topic").asText()));
            while (ends.isEmpty()) {
                consumer.poll(POLL).forEach(record ->
                    ends.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1)));
            }
            member = consumer.groupMetadata();
        }
        producer.beginTransaction();
        producer.sendOffsetsToTransaction(ends, member);
    }
}

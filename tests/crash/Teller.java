// A processor of the bank test; tests/crash/teller.py says what goes in and what comes out.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.AuthorizationException;
import org.apache.kafka.common.errors.FencedInstanceIdException;
import org.apache.kafka.common.errors.OutOfOrderSequenceException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.errors.UnsupportedVersionException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public final class Teller {
    private final JsonNode settings;
    private final Random chance;
    private final KafkaProducer<String, String> producer;
    private final KafkaConsumer<String, String> consumer;
    private int attempts = 0;

    private Teller(JsonNode settings) {
        this.settings = settings;
        chance = new Random(text("name").hashCode());
        Properties ours = new Properties();
        ours.put("bootstrap.servers", text("bootstrap"));
        ours.put("transactional.id", text("transactional_id"));
        ours.put("transaction.timeout.ms", text("timeout_ms"));
        ours.put("max.block.ms", "20000");
        ours.put("reconnect.backoff.max.ms", "200");
        producer = new KafkaProducer<>(ours, new StringSerializer(), new StringSerializer());
        Properties theirs = new Properties();
        theirs.put("bootstrap.servers", text("bootstrap"));
        theirs.put("group.id", text("group"));
        theirs.put("group.protocol", text("protocol"));
        theirs.put("enable.auto.commit", "false");
        theirs.put("auto.offset.reset", "none");
        theirs.put("isolation.level", "read_committed");
        theirs.put("max.poll.records", text("batch"));
        theirs.put("fetch.max.wait.ms", "100");
        theirs.put("reconnect.backoff.max.ms", "200");
        if (!settings.get("instance_id").isNull()) {
            theirs.put("group.instance.id", text("instance_id"));
        }
        if (text("protocol").equals("classic")) {
            theirs.put("session.timeout.ms", text("session_timeout_ms"));
            theirs.put("heartbeat.interval.ms", "300");
        }
        consumer = new KafkaConsumer<>(theirs, new StringDeserializer(), new StringDeserializer());
    }

    public static void main(String[] arguments) throws Exception {
        boolean[] ending = {false};
        Thread listener = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // Nothing is said to it but the end.
                }
            } catch (IOException failure) {
                say("failed", failure.toString());
            }
            synchronized (ending) {
                ending[0] = true;
            }
        });
        listener.setDaemon(true);
        listener.start();
        int code = 0;
        try {
            Teller teller = new Teller(new ObjectMapper().readTree(arguments[0]));
            teller.persist(teller.producer::initTransactions);
            teller.consumer.subscribe(List.of(teller.text("orders")));
            while (true) {
                synchronized (ending) {
                    if (ending[0]) {
                        break;
                    }
                }
                teller.work();
            }
            teller.consumer.close();
            teller.producer.close();
        } catch (KafkaException failure) {
            say("failed", failure.toString());
            code = 1;
        }
        Runtime.getRuntime().halt(code);
    }

    private void work() {
        ConsumerRecords<String, String> orders = consumer.poll(Duration.ofMillis(100));
        if (orders.isEmpty()) {
            return;
        }
        attempts++;
        String attempt = text("name") + "/" + attempts;
        StringBuilder places = new StringBuilder(attempt);
        orders.forEach(order -> places.append(" ").append(order.partition()).append(":").append(order.offset()));
        say("began", places.toString());
        try {
            producer.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
            for (ConsumerRecord<String, String> order : orders) {
                String[] parts = order.value().split(" ");
                book(parts[1], parts[0] + " " + parts[1] + " " + -Integer.parseInt(parts[3]) + " " + attempt);
                book(parts[2], parts[0] + " " + parts[2] + " " + parts[3] + " " + attempt);
                ends.put(new TopicPartition(order.topic(), order.partition()), new OffsetAndMetadata(order.offset() + 1));
            }
            persist(() -> producer.sendOffsetsToTransaction(ends, consumer.groupMetadata()));
            if (chance.nextDouble() < settings.get("abort_share").asDouble()) {
                producer.abortTransaction();
                say("aborted", attempt);
                goBack();
                return;
            }
            persist(producer::commitTransaction);
            say("committed", attempt);
        } catch (ProducerFencedException | FencedInstanceIdException | OutOfOrderSequenceException | AuthorizationException
                | UnsupportedVersionException fatal) {
            throw fatal;
        } catch (KafkaException failure) {
            persist(producer::abortTransaction);
            say("aborted", attempt);
            goBack();
        }
    }

    private void book(String account, String entry) {
        int partition = Integer.parseInt(account) % settings.get("partitions").asInt();
        producer.send(new ProducerRecord<>(text("entries"), partition, account, entry));
    }

    /** To the committed offsets. */
    private void goBack() {
        persist(() -> consumer.committed(consumer.assignment()).forEach(consumer::seek));
    }

    /** What the broker was too slow for is asked again. */
    private void persist(Runnable call) {
        while (true) {
            try {
                call.run();
                return;
            } catch (TimeoutException late) {
                // Again.
            }
        }
    }

    private String text(String name) {
        return settings.get(name).asText();
    }

    private static void say(String what, String about) {
        System.out.println(what + " " + about);
        System.out.flush();
    }
}

// Reads a topic and prints how fast; offsets of a partition must go on without a gap.
// Kafka's own consumer perf tool counts the time of joining a group, which measures something else.
//
// Arguments: bootstrap servers, topic, number of partitions, number of records, group or "" for none.
// Prints "ready" when its partitions are assigned, at the end: records, bytes, seconds since "ready", seconds since the
// first record.

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Consumer {
    private static final long PATIENCE_NS = 30_000_000_000L;

    public static void main(String[] arguments) {
        String topic = arguments[1];
        long wanted = Long.parseLong(arguments[3]);
        String group = arguments[4];
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("auto.offset.reset", "earliest");
        settings.put("max.poll.records", "10000");
        if (group.isEmpty()) {
            settings.put("enable.auto.commit", "false");
        } else {
            settings.put("group.id", group);
        }
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            if (group.isEmpty()) {
                List<TopicPartition> partitions = new ArrayList<>();
                for (int partition = 0; partition < Integer.parseInt(arguments[2]); partition++) {
                    partitions.add(new TopicPartition(topic, partition));
                }
                consumer.assign(partitions);
                consumer.seekToBeginning(partitions);
                System.out.println("ready");
            } else {
                consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
                    @Override
                    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {}

                    @Override
                    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
                        System.out.println("ready");
                    }
                });
            }
            read(consumer, wanted);
        }
    }

    private static void read(KafkaConsumer<byte[], byte[]> consumer, long wanted) {
        Map<TopicPartition, Long> next = new HashMap<>();
        long records = 0;
        long bytes = 0;
        long start = System.nanoTime();
        long first = 0;
        long lastProgress = start;
        while (records < wanted) {
            ConsumerRecords<byte[], byte[]> polled = consumer.poll(Duration.ofSeconds(10));
            if (!polled.isEmpty()) {
                lastProgress = System.nanoTime();
                first = first == 0 ? lastProgress : first;
            } else if (System.nanoTime() - lastProgress > PATIENCE_NS) {
                throw new IllegalStateException("nothing came for 30 s after " + records + " records");
            }
            for (TopicPartition partition : polled.partitions()) {
                long expected = next.getOrDefault(partition, 0L);
                for (ConsumerRecord<byte[], byte[]> record : polled.records(partition)) {
                    if (record.offset() != expected) {
                        throw new IllegalStateException(
                                partition + ": offset " + record.offset() + " instead of " + expected);
                    }
                    expected++;
                    records++;
                    bytes += record.value().length;
                }
                next.put(partition, expected);
            }
        }
        long end = System.nanoTime();
        System.out.printf(
                Locale.ROOT, "%d records, %d bytes, %.6f s, %.6f s%n", records, bytes, (end - start) / 1e9, (end - first) / 1e9);
    }
}

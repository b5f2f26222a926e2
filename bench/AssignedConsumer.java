// Reads records of partition 0 from the beginning, without a group, and prints how fast.
// Kafka's own consumer perf tool joins a group, which measures something else.
// Arguments: bootstrap servers, topic, number of records.

import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class AssignedConsumer {
    public static void main(String[] arguments) {
        long wanted = Long.parseLong(arguments[2]);
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "none");
        settings.put("max.poll.records", "10000");
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            TopicPartition partition = new TopicPartition(arguments[1], 0);
            consumer.assign(List.of(partition));
            consumer.seek(partition, 0);
            long records = 0;
            long bytes = 0;
            long expectedOffset = 0;
            long start = System.nanoTime();
            long lastProgress = start;
            while (records < wanted) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(10))) {
                    if (record.offset() != expectedOffset) {
                        throw new IllegalStateException("offset " + record.offset() + " instead of " + expectedOffset);
                    }
                    expectedOffset++;
                    records++;
                    bytes += record.value().length;
                    lastProgress = System.nanoTime();
                }
                if (System.nanoTime() - lastProgress > 30_000_000_000L) {
                    throw new IllegalStateException("nothing came for 30 s after " + records + " records");
                }
            }
            double seconds = (System.nanoTime() - start) / 1e9;
            System.out.printf(Locale.ROOT, "%d records, %d bytes, %.1f records/sec%n", records, bytes, records / seconds);
        }
    }
}

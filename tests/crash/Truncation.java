// A consumer without a reset policy; tests/crash/test_truncation.py says what goes in and what comes out.

import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.LogTruncationException;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Truncation {
    public static void main(String[] arguments) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("auto.offset.reset", "none");
        settings.put("enable.auto.commit", "false");
        settings.put("fetch.max.wait.ms", "100");
        settings.put("reconnect.backoff.max.ms", "200");
        settings.put("metadata.max.age.ms", "500");
        TopicPartition partition = new TopicPartition(arguments[1], 0);
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, 0);
            while (true) {
                try {
                    if (!consumer.poll(Duration.ofMillis(100)).isEmpty()) {
                        System.out.println("read " + consumer.position(partition));
                    }
                } catch (LogTruncationException truncated) {
                    Map<TopicPartition, OffsetAndMetadata> divergent = truncated.divergentOffsets();
                    System.out.println("truncated " + divergent.get(partition).offset());
                    return;
                }
            }
        }
    }
}

// A transactional producer at full speed: records of a payload file, a commit whenever a transaction is old enough.
//
// Arguments: bootstrap, topic, payload file, records, batch.size, linger.ms, ms of a transaction.
// Prints: records, seconds, and the milliseconds of each commitTransaction(), the first fifth of the records left out.

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.StringJoiner;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Transactions {
    public static void main(String[] arguments) throws Exception {
        String topic = arguments[1];
        List<byte[]> values = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(arguments[2]))) {
            values.add(line.getBytes(StandardCharsets.UTF_8));
        }
        int records = Integer.parseInt(arguments[3]);
        int warmUp = records / 5;
        long lengthNs = Long.parseLong(arguments[6]) * 1_000_000;
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("batch.size", arguments[4]);
        settings.put("linger.ms", arguments[5]);
        settings.put("acks", "all");
        settings.put("transactional.id", "bench-" + UUID.randomUUID());
        AtomicReference<Exception> failure = new AtomicReference<>();
        List<Double> commits = new ArrayList<>();
        long start = 0;
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.initTransactions();
            int sent = 0;
            while (sent < records) {
                if (start == 0 && sent >= warmUp) {
                    start = System.nanoTime();
                    warmUp = sent;
                }
                long begun = System.nanoTime();
                producer.beginTransaction();
                do {
                    byte[] value = values.get(sent++ % values.size());
                    producer.send(new ProducerRecord<>(topic, value), (metadata, error) -> {
                        if (error != null) {
                            failure.set(error);
                        }
                    });
                } while (sent < records && System.nanoTime() - begun < lengthNs);
                producer.flush();
                long asked = System.nanoTime();
                producer.commitTransaction();
                if (start != 0) {
                    commits.add((System.nanoTime() - asked) / 1e6);
                }
            }
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        if (failure.get() != null) {
            throw failure.get();
        }
        StringJoiner times = new StringJoiner(" ");
        commits.forEach(time -> times.add(String.format("%.3f", time)));
        System.out.println((records - warmUp) + " records, " + seconds + " s, commits " + times);
    }
}

// A Kafka Streams job: counts words, so that lines are keyed anew (a repartition topic) and counts are kept (a changelog
// topic). Every new count is a record of the output topic. tests/clients/test_streams.py starts and kills it.
//
// Arguments: bootstrap, application id, state folder, processing guarantee, input topic, output topic.
// Says each state on a line of its own; ends in good order when its input ends.

import java.time.Duration;
import java.util.Arrays;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.KeyValueStore;

public final class WordCount {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", arguments[0]);
        settings.put("application.id", arguments[1]);
        settings.put("state.dir", arguments[2]);
        settings.put("processing.guarantee", arguments[3]);
        settings.put("num.stream.threads", "2");
        settings.put("commit.interval.ms", "100");
        settings.put("statestore.cache.max.bytes", "0");
        settings.put("repartition.purge.interval.ms", "1000");
        settings.put("consumer.session.timeout.ms", "4000");
        settings.put("consumer.heartbeat.interval.ms", "300");
        settings.put("reconnect.backoff.max.ms", "200");

        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(arguments[4], Consumed.with(Serdes.String(), Serdes.String()))
            .flatMapValues(line -> Arrays.asList(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with("words", Serdes.String(), Serdes.String()))
            .count(Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("counts")
                .withLoggingEnabled(Map.of("segment.ms", "500", "min.cleanable.dirty.ratio", "0.01")))
            .toStream()
            .mapValues(count -> Long.toString(count))
            .to(arguments[5], Produced.with(Serdes.String(), Serdes.String()));

        KafkaStreams job = new KafkaStreams(builder.build(), settings);
        job.setUncaughtExceptionHandler(failure -> {
            failure.printStackTrace();
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        job.setStateListener((now, before) -> System.out.println(now));
        job.start();
        while (System.in.read() >= 0) {
            // Nothing is said to it but the end.
        }
        boolean ended = job.close(Duration.ofSeconds(60));
        Runtime.getRuntime().halt(ended ? 0 : 1);
    }
}

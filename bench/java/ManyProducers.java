// Kafka's producer perf tool, several times at once in one JVM: as many threads, each with a producer of its own.
// It is in the tool's package because its entry point is visible there only.
//
// Arguments: number of producers, then those of kafka-producer-perf-test.
// Prints what each prints.

package org.apache.kafka.tools;

import java.util.Arrays;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicReference;

public final class ManyProducers {
    public static void main(String[] arguments) throws Exception {
        int count = Integer.parseInt(arguments[0]);
        String[] rest = Arrays.copyOfRange(arguments, 1, arguments.length);
        CountDownLatch started = new CountDownLatch(1);
        AtomicReference<Throwable> failure = new AtomicReference<>();
        Thread[] threads = new Thread[count];
        for (int number = 0; number < count; number++) {
            threads[number] = new Thread(() -> {
                try {
                    started.await();
                    new ProducerPerformance().start(rest);
                } catch (Throwable thrown) {
                    failure.set(thrown);
                }
            });
            threads[number].start();
        }
        started.countDown();
        for (Thread thread : threads) {
            thread.join();
        }
        if (failure.get() != null) {
            throw new IllegalStateException(failure.get());
        }
    }
}

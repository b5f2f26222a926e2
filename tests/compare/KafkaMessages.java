import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.HexFormat;
import org.apache.kafka.common.message.ApiMessageType;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Errors;
import org.apache.kafka.common.protocol.ObjectSerializationCache;

/**
 * What Kafka's own classes know of the protocol, for test_messages.py.
 *
 * <pre>
 * errors     prints each error: name code
 * apis       prints each API and version: name key version request-header response-header is-stable
 * messages   reads lines: key version kind hex; prints, for each, what Kafka writes for the message that it read there
 * </pre>
 */
public class KafkaMessages {
    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "errors" -> {
                for (Errors error : Errors.values()) {
                    System.out.println(error.name() + " " + error.code());
                }
            }
            case "apis" -> apis();
            case "messages" -> messages();
            default -> throw new IllegalArgumentException(arguments[0]);
        }
    }

    private static void apis() {
        for (ApiMessageType type : ApiMessageType.values()) {
            for (short version = type.lowestSupportedVersion(); version <= type.highestSupportedVersion(true); version++) {
                System.out.printf("%s %d %d %d %d %b%n", type.name, type.apiKey(), version,
                    type.requestHeaderVersion(version), type.responseHeaderVersion(version),
                    version <= type.highestSupportedVersion(false));
            }
        }
    }

    private static void messages() throws Exception {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ", -1);
            ApiMessageType type = ApiMessageType.fromApiKey(Short.parseShort(words[0]));
            short version = Short.parseShort(words[1]);
            ApiMessage message = words[2].equals("request") ? type.newRequest() : type.newResponse();
            System.out.println(written(message, version, HexFormat.of().parseHex(words[3])));
        }
    }

    private static String written(ApiMessage message, short version, byte[] given) {
        try {
            ByteBuffer body = ByteBuffer.wrap(given);
            message.read(new ByteBufferAccessor(body), version);
            if (body.hasRemaining()) {
                return body.remaining() + " bytes are left of " + message;
            }
            ObjectSerializationCache cache = new ObjectSerializationCache();
            ByteBuffer answer = ByteBuffer.allocate(message.size(cache, version));
            message.write(new ByteBufferAccessor(answer), cache, version);
            return HexFormat.of().formatHex(answer.array());
        } catch (RuntimeException error) {
            return error.toString().replace('\n', ' ');
        }
    }
}

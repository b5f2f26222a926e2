// Runs main classes of Kafka's tools in one JVM: a request {"op": "run", "main": CLASS, "arguments": [...]} on stdin, its
// answer {"output", "errors", "code"} on stdout. "input", if it is there, is what the tool reads from its stdin.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.common.utils.internals.Exit;

public final class ToolRunner {
    private static final class Ended extends RuntimeException {
        private static final long serialVersionUID = 1L;
    }

    public static void main(String[] none) throws Exception {
        ObjectMapper json = new ObjectMapper();
        PrintStream answers = System.out;
        // The first exit counts: some tools take what it throws for a failure of theirs and exit again.
        AtomicReference<Integer> ended = new AtomicReference<>();
        Exit.Procedure procedure = (code, message) -> {
            ended.compareAndSet(null, code);
            throw new Ended();
        };
        Exit.setExitProcedure(procedure);
        Exit.setHaltProcedure(procedure);
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            JsonNode request = json.readTree(line);
            List<String> arguments = new ArrayList<>();
            request.get("arguments").forEach(argument -> arguments.add(argument.asText()));
            ByteArrayOutputStream output = new ByteArrayOutputStream();
            ByteArrayOutputStream errors = new ByteArrayOutputStream();
            System.setOut(new PrintStream(output, true, StandardCharsets.UTF_8));
            System.setErr(new PrintStream(errors, true, StandardCharsets.UTF_8));
            String input = request.path("input").asText("");
            System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
            ended.set(null);
            int code = 0;
            try {
                Class.forName(request.get("main").asText()).getMethod("main", String[].class)
                    .invoke(null, (Object) arguments.toArray(new String[0]));
            } catch (InvocationTargetException failure) {
                if (!(failure.getCause() instanceof Ended)) {
                    failure.getCause().printStackTrace();
                    code = 1;
                }
            }
            code = ended.get() == null ? code : ended.get();
            answers.println(json.createObjectNode().put("output", output.toString(StandardCharsets.UTF_8))
                .put("errors", errors.toString(StandardCharsets.UTF_8)).put("code", code));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }
}

// Runs main classes of Kafka's tools in one JVM: a request {"op": "run", "main": CLASS, "arguments": [...]} on stdin, its
// answer {"output", "errors", "code"} on stdout. tests/clients/test_group_tools.py speaks to it.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

public final class ToolRunner {
    private static final class Ended extends RuntimeException {
        final int code;

        Ended(int code) {
            this.code = code;
        }
    }

    public static void main(String[] none) throws Exception {
        ObjectMapper json = new ObjectMapper();
        PrintStream answers = System.out;
        Exit.setExitProcedure((code, message) -> { throw new Ended(code); });
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            JsonNode request = json.readTree(line);
            List<String> arguments = new ArrayList<>();
            request.get("arguments").forEach(argument -> arguments.add(argument.asText()));
            ByteArrayOutputStream output = new ByteArrayOutputStream();
            ByteArrayOutputStream errors = new ByteArrayOutputStream();
            System.setOut(new PrintStream(output, true, StandardCharsets.UTF_8));
            System.setErr(new PrintStream(errors, true, StandardCharsets.UTF_8));
            int code = 0;
            try {
                Class.forName(request.get("main").asText()).getMethod("main", String[].class)
                    .invoke(null, (Object) arguments.toArray(new String[0]));
            } catch (InvocationTargetException failure) {
                if (failure.getCause() instanceof Ended) {
                    code = ((Ended) failure.getCause()).code;
                } else {
                    failure.getCause().printStackTrace();
                    code = 1;
                }
            }
            answers.println(json.createObjectNode().put("output", output.toString(StandardCharsets.UTF_8))
                .put("errors", errors.toString(StandardCharsets.UTF_8)).put("code", code));
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }
}

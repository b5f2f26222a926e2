// kafkajs behind one JSON object a line: a request on stdin, its answer on stdout. tests/clients/agents.py speaks to it
// and says what each operation takes and returns. kafkajs consumes in groups only: each consumer here has one of its own.

"use strict";

const crypto = require("node:crypto");
const fs = require("node:fs");
const readline = require("node:readline");
const { Kafka, logLevel } = require("kafkajs");

const producers = new Map();
const consumers = new Map(); // handle: {consumer, records, failure, wake}
let lastHandle = 0;

function client({ bootstrap, login }) {
  const settings = {
    brokers: [bootstrap],
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 50, maxRetryTime: 500, retries: 10 },
  };
  if (login?.ca) {
    settings.ssl = { ca: [fs.readFileSync(login.ca)] };
    if (login.certificate) {
      settings.ssl.cert = fs.readFileSync(login.certificate);
      settings.ssl.key = fs.readFileSync(login.key);
    }
  }
  if (login?.token) {
    const oauthBearerProvider = async () => ({ value: fs.readFileSync(login.token, "utf8").trim() });
    settings.sasl = { mechanism: "oauthbearer", oauthBearerProvider };
  } else if (login?.mechanism) {
    settings.sasl = { mechanism: login.mechanism.toLowerCase(), username: login.name, password: login.password };
  }
  // It logs in again so long before a session's end, by default ten seconds: sessions of the tests are shorter.
  settings.reauthenticationThreshold = 300;
  return new Kafka(settings);
}

const text = (bytes) => (bytes === null || bytes === undefined ? null : Buffer.from(bytes).toString("base64"));
const bytes = (encoded) => (encoded === null ? null : Buffer.from(encoded, "base64"));

async function send({ handle, topic, partition, records }) {
  const messages = records.map(([key, value, headers, timestamp]) => ({
    key: bytes(key),
    value: bytes(value),
    headers: Object.fromEntries(headers.map(([name, content]) => [name, bytes(content)])),
    timestamp: timestamp === null ? undefined : String(timestamp),
    partition,
  }));
  const [{ baseOffset }] = await producers.get(handle).send({ topic, acks: -1, messages });
  return { offsets: records.map((_, place) => Number(baseOffset) + place) };
}

async function openConsumer(given) {
  const one = { records: [], failure: null, wake: () => {} };
  one.consumer = client(given).consumer({ groupId: `kafkajs-${crypto.randomUUID()}`, maxWaitTimeInMs: given.max_wait_ms });
  one.consumer.on(one.consumer.events.CRASH, ({ payload }) => {
    one.failure = payload.error;
    one.wake();
  });
  await one.consumer.connect();
  await one.consumer.subscribe({ topic: given.topic, fromBeginning: true });
  await one.consumer.run({
    eachMessage: async ({ message, partition }) => {
      if (partition !== given.partition || Number(message.offset) < given.offset) return;
      const headers = Object.entries(message.headers).map(([name, content]) => [name, text(content)]);
      const { key, value, timestamp, offset } = message;
      one.records.push([text(key), text(value), headers, Number(timestamp), Number(offset)]);
      one.wake();
    },
  });
  consumers.set(++lastHandle, one);
  return { handle: lastHandle };
}

async function read({ handle, count, timeout_ms: timeoutMs }) {
  const one = consumers.get(handle);
  const deadline = Date.now() + timeoutMs;
  while (one.records.length < count && Date.now() < deadline) {
    if (one.failure) {
      const failure = one.failure;
      one.failure = null;
      throw failure;
    }
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, deadline - Date.now());
      one.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
  return { records: one.records.splice(0) };
}

async function answer(given) {
  switch (given.op) {
    case "open_producer": {
      const producer = client(given).producer({ allowAutoTopicCreation: false });
      await producer.connect();
      producers.set(++lastHandle, producer);
      return { handle: lastHandle };
    }
    case "send":
      return send(given);
    case "close_producer":
      producers.get(given.handle).disconnect().catch(() => {});
      return {};
    case "open_consumer":
      return openConsumer(given);
    case "read":
      return read(given);
    case "close_consumer":
      consumers.get(given.handle).consumer.disconnect().catch(() => {});
      return {};
    default:
      throw new Error(`no such operation: ${given.op}`);
  }
}

readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    answer(JSON.parse(line))
      .catch((failure) => {
        const cause = failure.cause ?? failure;
        return { error: `${cause.name}: ${cause.message}`, code: cause.code ?? -1 };
      })
      .then((found) => process.stdout.write(JSON.stringify(found) + "\n"));
  })
  .on("close", () => process.exit(0));
process.on("unhandledRejection", () => {}); // kafkajs leaves some behind when a connection is cut

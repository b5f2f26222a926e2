// Transactional producers, and readers of what they wrote, in one process; tests/clients/transactors.py says what goes
// in and what comes out. kafkajs reads in groups only, and hands the offsets of a group on without its member.

"use strict";

const crypto = require("node:crypto");
const readline = require("node:readline");
const { Kafka, logLevel } = require("kafkajs");

const producers = new Map(); // name: {producer, transaction}

function client(given) {
  return new Kafka({
    brokers: [given.bootstrap],
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 50, maxRetryTime: 500, retries: 100 },
  });
}

async function open(given) {
  const producer = client(given).producer({
    transactionalId: given.transactional_id,
    transactionTimeout: given.timeout_ms,
    maxInFlightRequests: 1,
    idempotent: true,
    retry: { initialRetryTime: 50, maxRetryTime: 500, retries: 100 },
  });
  await producer.connect();
  // The first transaction asks for the producer id; an empty one sends nothing else.
  await (await producer.transaction()).abort();
  return { producer };
}

async function send(transaction, records) {
  const topics = new Map();
  for (const [topic, partition, value] of records) {
    if (!topics.has(topic)) topics.set(topic, []);
    topics.get(topic).push({ partition, value });
  }
  await transaction.sendBatch({ topicMessages: [...topics].map(([topic, messages]) => ({ topic, messages })) });
}

// Consumes a topic in a group until `eachBatch` says that it has seen enough.
async function consume(given, group, eachBatch) {
  const consumer = client(given).consumer({
    groupId: group,
    readUncommitted: !given.is_committed,
    sessionTimeout: given.session_timeout_ms ?? 10000,
    rebalanceTimeout: 10000,
    heartbeatInterval: 300,
    maxWaitTimeInMs: 100,
  });
  await consumer.connect();
  await consumer.subscribe({ topic: given.topic, fromBeginning: true });
  await new Promise((resolve, reject) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => payload.restart || reject(payload.error));
    consumer
      .run({
        autoCommit: false,
        eachBatchAutoResolve: false,
        eachBatch: async (one) => {
          try {
            if (await eachBatch(one, consumer)) resolve();
          } catch (failure) {
            reject(failure);
          }
        },
      })
      .catch(reject);
  });
  return consumer;
}

async function read(given) {
  const records = [];
  const finished = new Set();
  const consumer = await consume(given, `read-${crypto.randomUUID()}`, async ({ batch, resolveOffset }) => {
    for (const { offset, value } of batch.messages) {
      if (value.toString() === given.until) finished.add(batch.partition);
      else records.push([batch.partition, Number(offset), value.toString()]);
      resolveOffset(offset);
    }
    return finished.size === given.partitions;
  });
  consumer.disconnect().catch(() => {});
  return { records };
}

async function process_(given) {
  const { producer } = await open(given);
  const finished = new Set();
  let number = 0;
  let isHeld = false;
  let last = Promise.resolve();

  async function work({ batch, resolveOffset, heartbeat, isRunning, isStale }) {
    const { partition, messages } = batch;
    for (let first = 0; first < messages.length; ) {
      await heartbeat();
      if (isHeld || !isRunning() || isStale()) return false;
      const chunk = messages.slice(first, first + given.batch);
      const offset = String(BigInt(chunk[chunk.length - 1].offset) + 1n);
      number += 1;
      const transaction = await producer.transaction();
      try {
        await send(transaction, chunk.map(({ value }) => [given.output, partition, `${value}+`]));
        await transaction.sendOffsets({
          consumerGroupId: given.group,
          topics: [{ topic: given.topic, partitions: [{ partition, offset }] }],
        });
      } catch (failure) {
        if (!failure.retriable) throw failure;
        await transaction.abort(); // it does not itself try again when a coordinator is not ready
        continue;
      }
      if (number === given.hold_after) {
        isHeld = true;
        return true;
      }
      if (given.abort_every > 0 && number % given.abort_every === 0) {
        await transaction.abort(); // and the same chunk again
      } else {
        await transaction.commit();
        resolveOffset(chunk[chunk.length - 1].offset);
        if (chunk.some(({ value }) => value.toString() === given.until)) finished.add(partition);
        first += chunk.length;
      }
    }
    return finished.size === given.partitions;
  }

  const consumer = await consume(given, given.group, (one) => (last = last.then(() => work(one))));
  if (isHeld) return { is_held: true };
  await consumer.disconnect();
  await producer.disconnect();
  return { is_held: false };
}

async function answer(given) {
  const one = producers.get(given.producer);
  switch (given.op) {
    case "open":
      producers.set(given.producer, await open(given));
      return {};
    case "begin":
      one.transaction = await one.producer.transaction();
      return {};
    case "send":
      await send(one.transaction, given.records);
      return {};
    case "commit":
      await one.transaction.commit();
      return {};
    case "abort":
      await one.transaction.abort();
      return {};
    case "close":
      one.producer.disconnect().catch(() => {});
      return {};
    case "read":
      return read(given);
    case "process":
      return process_(given);
    default:
      throw new Error(`no such operation: ${given.op}`);
  }
}

readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const given = JSON.parse(line);
    answer(given)
      .catch((failure) => {
        const cause = failure.cause ?? failure;
        return { error: cause.type ?? cause.name, text: String(failure) };
      })
      .then((found) => process.stdout.write(JSON.stringify({ id: given.id, ...found }) + "\n"));
  })
  .on("close", () => process.exit(0));

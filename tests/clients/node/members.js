// Members of consumer groups in one process; tests/clients/group_members.py says what goes in and what comes out.
// kafkajs tells no generation, has an assignor of its own, and learns of a rebalance between two batches only.

"use strict";

const readline = require("node:readline");
const { Kafka, logLevel } = require("kafkajs");

const members = new Map();

function tell(member, what, more = {}) {
  process.stdout.write(JSON.stringify({ member: member.name, at: Date.now(), what, ...more }) + "\n");
}

async function pauseOver(member) {
  if (member.paused) {
    tell(member, "paused");
    while (member.paused) await new Promise((resume) => setTimeout(resume, 10));
    tell(member, "resumed");
  }
}

async function join(member, given) {
  const kafka = new Kafka({
    clientId: member.name,
    brokers: [given.bootstrap],
    logLevel: logLevel.NOTHING,
    retry: { initialRetryTime: 100, maxRetryTime: 500, retries: 100 },
  });
  member.consumer = kafka.consumer({
    groupId: given.group,
    sessionTimeout: given.session_timeout_ms,
    rebalanceTimeout: given.max_poll_interval_ms,
    heartbeatInterval: given.heartbeat_interval_ms,
    maxWaitTimeInMs: 100,
  });
  const { GROUP_JOIN, REBALANCING } = member.consumer.events;
  member.consumer.on(GROUP_JOIN, ({ payload }) => {
    // Nothing of what it had before is its own still; where it was thrown out it has not said so.
    tell(member, "owned", { partitions: [], generation: null });
    tell(member, "owned", { partitions: payload.memberAssignment[given.topic] ?? [], generation: null });
  });
  member.consumer.on(REBALANCING, () => tell(member, "owned", { partitions: [], generation: null }));
  await member.consumer.connect();
  await member.consumer.subscribe({ topic: given.topic, fromBeginning: true });
  await member.consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat, isRunning, isStale }) => {
      await pauseOver(member);
      await heartbeat(); // throws, and joins again, when the group has gone on without it
      if (!isRunning() || isStale() || batch.messages.length === 0) return;
      const [first, last] = [batch.messages[0], batch.messages[batch.messages.length - 1]];
      const partition = batch.partition;
      tell(member, "records", { partition, first: Number(first.offset), last: Number(last.offset), generation: null });
      const offset = BigInt(last.offset) + 1n;
      try {
        await member.consumer.commitOffsets([{ topic: given.topic, partition, offset: String(offset) }]);
      } catch (failure) {
        tell(member, "refused", { error: String(failure) }); // thrown on, it would end the consumer
        return;
      }
      tell(member, "committed", { partition, offset: Number(offset) });
      resolveOffset(last.offset);
      await heartbeat();
    },
  });
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const request = JSON.parse(line);
  if (request.op === "join") {
    const member = { name: request.member, paused: false };
    members.set(request.member, member);
    join(member, request).catch((failure) => tell(member, "failed", { error: String(failure) }));
    return;
  }
  const member = members.get(request.member);
  if (request.op === "leave") {
    member.consumer.disconnect().then(() => tell(member, "left"));
  } else {
    member.paused = request.op === "pause";
  }
}).on("close", () => process.exit(0));

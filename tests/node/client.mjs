// A client of CAS Events with nothing but a NATS library: what docs/protocol-for-clients.md says, and no more.
//
//   node client.mjs start AGENT TASK [BODY]   store the execute command; print the ack or the server's refusal
//   node client.mjs run AGENT TASK [BODY]     follow the task live, start it, print its events to the terminal one
//   node client.mjs follow AGENT TASK         print the task's events live, to the terminal one
//   node client.mjs cancel TASK [BODY]        store the cancel command; print the ack or the server's refusal
//   node client.mjs answer AGENT TASK INTERRUPT [BODY]  store the answer to an interrupt; print the ack or the refusal
//   node client.mjs replay AGENT TASK [SEQ]   print the task's stored events from a stream sequence on
//
// NATS_URL says where the server is, CAS_DEPLOYMENT the first token of every subject ("cas" without it).
// Output is JSON lines on stdout. Exit code 0: done; 3: the server refused; 4: no terminal event within
// CAS_TIMEOUT_S (30); 1: anything else.

import { connect } from "@nats-io/transport-node";
import { jetstream, JetStreamApiError } from "@nats-io/jetstream";

const TERMINAL = new Set([
  "cas.task.completed",
  "cas.task.failed",
  "cas.task.cancelled",
  "cas.task.rejected",
]);

const deployment = process.env.CAS_DEPLOYMENT ?? "cas";
const eventStream = `${deployment.toUpperCase()}_EVENTS`;
const deadlineMs = 1000 * Number(process.env.CAS_TIMEOUT_S ?? 30);

function print(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

// The server stores one message per subject. It answers a repeat with error 10077, in every language.
async function store(nc, subject, body) {
  try {
    const { stream, seq, duplicate } = await jetstream(nc).publish(subject, body);
    print({ ack: { stream, seq, duplicate } });
    return 0;
  } catch (error) {
    print({ refused: refusal(error) });
    return 3;
  }
}

// What the server answered. Anything else, such as no answer in time, is no refusal: the message may be stored.
function refusal(error) {
  if (error instanceof JetStreamApiError) {
    const { code, err_code, description } = error.apiError();
    return { code, err_code, description };
  }
  if (error.cause?.isNoResponders?.()) return { code: 503, description: "no stream takes this subject" };
  throw error;
}

function execute(nc, agent, task, body = "{}") {
  return store(nc, `${deployment}.cmd.execute.${agent}.${task}`, body);
}

function cancel(nc, task, body = "{}") {
  return store(nc, `${deployment}.cmd.cancel.${task}`, body);
}

function answer(nc, agent, task, interrupt, body = "{}") {
  return store(nc, `${deployment}.cmd.resume.${agent}.${task}.${interrupt}`, body);
}

// Only what the log stored is republished below `live`, each with its sequence in a header.
async function follow(nc, agent, task, onceSubscribed = async () => 0) {
  const subscription = nc.subscribe(`${deployment}.live.evt.*.${agent}.${task}`);
  const timer = setTimeout(() => subscription.unsubscribe(), deadlineMs);
  await nc.flush();
  print({ following: subscription.getSubject() });
  const refused = await onceSubscribed();
  if (refused) return refused;
  try {
    for await (const message of subscription) {
      const raw = message.string();
      const seq = Number(message.headers.get("Nats-Sequence"));
      print({ subject: message.headers.get("Nats-Subject"), seq, raw });
      if (TERMINAL.has(JSON.parse(raw).type)) return 0;
    }
    return 4;
  } finally {
    clearTimeout(timer);
  }
}

async function replay(nc, agent, task, from = "1") {
  const consumer = await jetstream(nc).consumers.get(eventStream, {
    filter_subjects: [`${deployment}.evt.*.${agent}.${task}`],
    deliver_policy: "by_start_sequence",
    opt_start_seq: Number(from),
  });
  const { num_pending: pending } = await consumer.info(true);
  if (pending === 0) return 0;
  const messages = await consumer.consume();
  const timer = setTimeout(() => messages.stop(), deadlineMs);
  try {
    for await (const message of messages) {
      print({ subject: message.subject, seq: message.seq, raw: message.string() });
      if (message.info.pending === 0) return 0;
    }
    return 4;
  } finally {
    clearTimeout(timer);
  }
}

const commands = {
  start: execute,
  run: (nc, agent, task, body) => follow(nc, agent, task, () => execute(nc, agent, task, body)),
  follow: (nc, agent, task) => follow(nc, agent, task),
  cancel,
  answer,
  replay,
};

const [name, ...rest] = process.argv.slice(2);
const command = commands[name];
if (!command) {
  process.stderr.write(`client.mjs: unknown command ${name}; one of ${Object.keys(commands).join(", ")}\n`);
  process.exit(1);
}
const nc = await connect({ servers: process.env.NATS_URL ?? "127.0.0.1:4222", name: "any-client" });
try {
  process.exitCode = await command(nc, ...rest);
} finally {
  await nc.close();
}

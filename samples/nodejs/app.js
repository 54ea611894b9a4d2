"use strict";
// An app without an SDK: the contract in proto/ and a gRPC library. It writes one line after the other to a file, each
// with its number and the monotonic time in nanoseconds, and stops while it is frozen. "Duty 3" is the third point of
// WHAT AN APP OWES in proto/appvss/v1/app.proto.
//
// node samples/nodejs/app.js /var/tmp/lines.txt [NAME]

const { randomBytes } = require("node:crypto");
const fs = require("node:fs/promises");
const net = require("node:net");
const path = require("node:path");
const { setTimeout: sleep } = require("node:timers/promises");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const [FILE, NAME = "nodejs-lines"] = process.argv.slice(2);
const PLACE = process.platform === "linux" ? "/run/appvss" : "/var/run/appvss";
const DIRECTORY = process.env.APPVSS_RUNTIME_DIRECTORY || PLACE;
const INCARNATION = randomBytes(16).toString("hex"); // Once per process, kept over reconnects.
const HOLD_LIMIT = 60_000; // The longest hold that this app bears. All lengths are milliseconds of now().
const GREETING_LIMIT = 10_000; // How long a broker may take to give a token, and to say welcome.
const CHANNEL_OPTIONS = {
  "grpc.keepalive_time_ms": 10_000, // A broker that hangs is noticed. Pings more often than each 5 s are refused.
  "grpc.keepalive_timeout_ms": 5_000,
  "grpc.max_receive_message_length": 64 * 1024,
  "grpc.max_send_message_length": 64 * 1024,
  "grpc.use_local_subchannel_pool": 1, // No connection and no back-off is shared: each attempt below is a real one.
};
// `oneofs`: response.message is the name of the field that is set, undefined for one that this app.proto does not have.
const LOADING = { includeDirs: [path.join(__dirname, "../../proto")], longs: Number, defaults: true, oneofs: true };
const { AppService } = grpc.loadPackageDefinition(protoLoader.loadSync("appvss/v1/app.proto", LOADING)).appvss.v1;

let file; // What the hold protects.
let lastLine = 0;
let writing; // The line that is being written.
let stream = null; // The present call, once it has brought its welcome.
let hold = null; // From a freeze to its end: {cycle, deadline, timer}, and {frozenAt, ack} once it is answered.
let past = null; // How the last one ended, as a Thawed: the thaw may come late, or twice.
let lastNote; // The last line of the log.

const now = () => performance.now(); // Monotonic, as duty 3 demands; Date.now() can be set, forth and back.
const milliseconds = (duration) => duration.seconds * 1000 + duration.nanos / 1e6;
const duration = (length) => ({ seconds: Math.floor(length / 1000), nanos: Math.floor((length % 1000) * 1e6) });
const say = (kind, body) => stream?.write({ [kind]: body });

function note(sentence) {
  // Nothing while frozen: standard error may be a file, and is a write like any other (duty 2).
  if (hold === null && sentence !== lastNote) console.error((lastNote = sentence));
}

function letGo(reason) {
  clearTimeout(hold.timer);
  past = { cycle: hold.cycle, unbroken: reason === "", reason: reason.slice(0, 500) };
  hold = null; // The writer goes on.
  setImmediate(note, `cycle ${past.cycle}: ${reason || "held, unbroken"}`); // The answer first: a log may block.
}

function veto(reason) {
  letGo(reason); // First, since a veto says that nothing is held.
  say("veto", { cycle: past.cycle, reason: past.reason });
}

// Called at the deadline, and before whatever depends on the hold: a process that was stopped past its limit (SIGSTOP,
// a debugger) may read the thaw before its timer runs, and must not say `unbroken` then (duty 5).
function passDeadline() {
  if (hold === null) return;
  clearTimeout(hold.timer);
  const left = hold.deadline - now();
  if (left > 0) {
    hold.timer = setTimeout(passDeadline, Math.min(Math.ceil(left), 0x7fffffff)); // A timer can be early: look again.
  } else if (hold.ack === undefined) {
    veto("the time to get quiet ran out"); // An answer after the budget counts as none.
  } else {
    letGo("the hold limit passed before a thaw came"); // Duty 3. Nobody is asked, and no stream is needed:
    say("holdLost", { cycle: past.cycle, reason: past.reason }); // without one, the next hello claims no hold.
  }
}

async function freeze({ cycle, budget, holdLimit }) {
  if (hold?.cycle === cycle) return hold.ack && say("frozen", hold.ack); // Asked twice. A veto would be a lie.
  if (hold) return say("veto", { cycle, reason: `the app is in cycle ${hold.cycle}`, retryable: true });
  const mine = (hold = { cycle, deadline: now() + milliseconds(budget) }); // From here on no line is begun.
  passDeadline();
  try {
    await writing; // No line is half written.
    await file.sync();
  } catch (error) {
    if (hold === mine) veto(`the lines cannot be brought to the disk: ${error.message}`);
  }
  if (hold === mine) passDeadline();
  if (hold !== mine) return; // It failed, its time ran out, it was aborted, or its stream broke: all answered there.
  mine.ack = { cycle, evidence: { last_line: `${lastLine}` } };
  mine.frozenAt = now(); // Duty 3: the limit counts from here. Never longer than this app's own.
  mine.deadline = mine.frozenAt + Math.min(milliseconds(holdLimit), HOLD_LIMIT);
  say("frozen", mine.ack); // Duty 2 begins.
  passDeadline();
}

function thaw({ cycle }) {
  if (hold?.cycle === cycle) {
    if (hold.ack) letGo("");
    else veto("the cycle ended before the app was frozen"); // Duty 4. The freeze is answered too (duty 1).
  }
  say("thawed", past?.cycle === cycle ? past : { cycle, unbroken: false, reason: "nothing is held for this cycle" });
}

const ANSWERS = {
  prepare: ({ cycle }) => say("ready", { cycle }), // Not sent, as the hello does not ask for it; duty 1 all the same.
  freeze,
  thaw,
  abort: thaw,
  refusal: ({ name, sentence }) => note(`refused: ${name}: ${sentence}`),
  goodbye: ({ reason }) => note(`goodbye: ${reason}`), // The stream will end, and that is what the app acts on.
};

// IDENTITY in app.proto. The connection stays open as long as the stream; it tells the broker that the process lives.
function fetchToken() {
  return new Promise((resolve, reject) => {
    const side = net.connect(path.join(DIRECTORY, "apps.peer.sock"));
    let line = "";
    side.setTimeout(GREETING_LIMIT, () => side.destroy());
    side.on("data", (data) => {
      line += data;
      if (!line.endsWith("\n") && line.length < 65) return;
      side.setTimeout(0); // From here on silence is what is expected.
      resolve({ side, token: line.trim() });
    });
    side.on("error", reject);
    side.on("close", () => reject(new Error("the side socket was closed without a token")));
  });
}

// One call, from the hello to its end; resolves to whether there was a welcome.
function attach(token) {
  return new Promise((resolve) => {
    const address = `unix:${path.join(DIRECTORY, "apps.sock")}`;
    const client = new AppService(address, grpc.credentials.createInsecure(), CHANNEL_OPTIONS);
    const metadata = new grpc.Metadata();
    metadata.set("appvss-token", token);
    const call = client.attach(metadata); // No deadline: it lasts as long as the app.
    const greeting = setTimeout(() => call.cancel(), GREETING_LIMIT);
    call.on("data", (response) => {
      passDeadline();
      if (stream === call) ANSWERS[response.message]?.(response[response.message]); // Passes over what is not known.
      else if (response.message === "welcome") {
        clearTimeout(greeting);
        stream = call;
        note(`attached to ${response.welcome.broker}`);
      }
    });
    call.on("error", () => {}); // `status` tells it.
    call.on("status", ({ code, details }) => {
      clearTimeout(greeting);
      resolve(stream === call);
      stream = null;
      if (hold && !hold.ack) letGo("the stream broke before the app was frozen"); // An ack that was given goes on.
      note(`not attached: ${grpc.status[code]}: ${details}`);
      client.close();
    });
    passDeadline();
    const holding = hold && { cycle: hold.cycle, heldFor: duration(now() - hold.frozenAt) };
    const hello = { protocolVersions: [1], name: NAME, incarnation: INCARNATION, holdLimit: duration(HOLD_LIMIT) };
    call.write({ hello: { ...hello, paths: [path.resolve(FILE)], library: "nodejs-sample/0.1.0", holding } });
  });
}

async function stayAttached() {
  for (let failures = 0; ; failures++) {
    try {
      const { side, token } = await fetchToken(); // Good for one call.
      if (await attach(token).finally(() => side.destroy())) failures = 0;
    } catch (error) {
      note(`not attached: ${error.message}`);
    }
    await sleep(Math.random() * Math.min(50 * 2 ** failures, 3_000)); // Random: all apps come back at the same time.
  }
}

async function writeLines() {
  for (;;) {
    const line = lastLine + 1;
    if (hold === null) writing = file.appendFile(`${line} ${process.hrtime.bigint()}\n`).then(() => (lastLine = line));
    await writing;
    await sleep(2);
  }
}

async function main() {
  file = await fs.open(FILE, "w");
  await Promise.all([writeLines(), stayAttached()]);
}

main();

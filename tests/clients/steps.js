// Steps of a session in Node: runs each in turn; the first that fails is named and ends the program with 1.
//
// A program gives run() its client's name and its steps. Each step makes its own keys and may be run again on the same
// server, since every session is run on a cold cache and on a warm one.
"use strict";

const [port, outside, ...more] = process.argv.slice(2);

/** A program that hangs ends, and says at which step. */
const PATIENCE = 120_000;

/** All bytes that there are. */
const BINARY = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
/** 1 MiB of them. */
const BIG = Buffer.alloc(1 << 20, BINARY);

const assert = require("node:assert/strict");

/** Waits until `read` gives `wanted`. */
async function becomes(read, wanted, what) {
  const end = Date.now() + 10_000;
  for (;;) {
    const got = await read();
    if (got === wanted) return;
    assert(Date.now() < end, `${what}: still ${got}, not ${wanted}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Waits until `call` comes back with something that is not an error, as an application does that tries again. */
async function succeeds(call, what) {
  let last;
  const tries = async () => call().then(() => true, (error) => ((last = error), false));
  await becomes(tries, true, what).catch((error) => {
    throw last ?? error;
  });
}

/** What an emitter says next. */
function next(emitter, event) {
  return new Promise((resolve) => emitter.once(event, (...args) => resolve(args)));
}

async function run(client, steps) {
  let at = "start";
  const watchdog = setTimeout(() => {
    console.error(`FAILED ${at}: no end within ${PATIENCE} ms`);
    process.exit(1);
  }, PATIENCE);
  try {
    for (const [name, step] of Object.entries(steps)) {
      at = name;
      await step();
    }
  } catch (error) {
    console.error(`FAILED ${at}: ${error.message}\n${error.stack.split("\n").filter((line) => line.includes(__dirname)).join("\n")}`);
    process.exit(1);
  }
  clearTimeout(watchdog);
  console.log(`OK ${client}, ${Object.keys(steps).length} steps`);
  process.exit(0);
}

module.exports = { port: Number(port), outside: Number(outside), more, BINARY, BIG, becomes, succeeds, next, run };

// node-redis's cluster through a sidecache before a cluster: it finds one node, and stays there while slots and masters
// move. Says `ready`, then `round` for each round of commands, until a line comes in. `2` as the last argument: in RESP2,
// else in the library's own choice; `--plain`: by the ordinary client, which takes the cluster for one server.
"use strict";

const assert = require("node:assert/strict");
const { createClient, createCluster } = require("redis");
const { port, more, run } = require("./steps.js");

const plain = more[0] === "--plain";
// The library's own limit of 5 s for a command is for machines that do nothing else.
const defaults = { name: "application", commandOptions: { timeout: 20_000 } };
const socket = { host: "127.0.0.1", port };
const create = () =>
  plain
    ? createClient({ socket, ...defaults })
    : createCluster({ rootNodes: [{ socket }], defaults, ...(more[0] === "2" ? { RESP: 2 } : {}) });
const cluster = create().on("error", () => {});

let told = false;
process.stdin.once("data", () => (told = true)).once("end", () => (told = true));

async function round(number) {
  const value = `${number}`;
  for (let i = 0; i < 150; i++) {
    assert.equal(await cluster.set(`k:${i}`, value), "OK");
    assert.equal(await cluster.get(`k:${i}`), value);
  }
  const all = Array.from({ length: 100 }, (_, i) => cluster.incr(`n:${i}`));
  assert.deepEqual(await Promise.all(all), Array(100).fill(number));
  assert.equal(await cluster.mSet({ "{t}a": value, "{t}b": value }), "OK");
  assert.deepEqual(await cluster.mGet(["{t}a", "{t}b", "{t}none"]), [value, value, null]);
  assert.deepEqual(await cluster.multi().set("{t}c", value).get("{t}c").exec(), ["OK", value]);
  assert.equal(await cluster.eval("return redis.call('GET', KEYS[1])", { keys: ["k:7"] }), value);
  if (plain) {
    assert.deepEqual(await cluster.mGet(["k:1", "none", "k:3"]), [value, null, value]);
    assert.equal(await cluster.mSet({ "m:1": "1", "m:2": "2" }), "OK");
    assert.equal(await cluster.del(["m:1", "m:2"]), 2);
  }
}

function is_one_node() {
  if (plain) return;
  assert.deepEqual(cluster.masters.map(({ host, port }) => [host, port]), [["127.0.0.1", port]]);
  assert.deepEqual(cluster.replicas, []);
  assert(cluster.slots.length === 16384 && cluster.slots.every(({ master }) => master === cluster.masters[0]));
}

run(`node-redis ${require("redis/package.json").version}, cluster`, {
  async connects() {
    await cluster.connect();
    await Promise.all(Array.from({ length: 100 }, (_, i) => cluster.del(`n:${i}`)));
    is_one_node();
  },

  async stays() {
    for (let number = 1; number === 1 || !told; number++) {
      await round(number);
      if (number === 1) console.log("ready");
      console.log("round");
    }
    is_one_node();
  },

  async hears_of_news() {
    const listener = plain ? await cluster.duplicate().connect() : cluster;
    const message = new Promise((resolve) => void listener.subscribe("news", resolve).then(() => cluster.publish("news", "over")));
    assert.equal(await message, "over");
    const sharded = new Promise((resolve) => void listener.sSubscribe("shard", resolve).then(() => cluster.sPublish("shard", "over")));
    assert.equal(await sharded, "over");
    is_one_node();
  },
});

// ioredis's Cluster through a sidecache before a cluster: it finds one node, and stays there while slots and masters move.
// Says `ready`, then `round` for each round of commands, until a line comes in. `2` as the last argument: in RESP2, else
// in the library's own choice; `--plain`: by the ordinary client, which takes the cluster for one server.
"use strict";

const assert = require("node:assert/strict");
const { Cluster, Redis } = require("ioredis");
const { port, more, next, run } = require("./steps.js");

const plain = more[0] === "--plain";
const redisOptions = { connectionName: "application", ...(more[0] === "2" ? { protocol: 2 } : {}) };
const cluster = plain
  ? new Redis({ port, ...redisOptions })
  : // The library's own second is for machines that do nothing else.
    new Cluster([{ host: "127.0.0.1", port }], { slotsRefreshTimeout: 20_000, redisOptions });
const subscriber = cluster.duplicate();

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
  const pipeline = cluster.pipeline();
  for (let i = 0; i < 100; i++) pipeline.get(`k:${i}`);
  assert.deepEqual(await pipeline.exec(), Array(100).fill([null, value]));
  assert.equal(await cluster.mset("{t}a", value, "{t}b", value), "OK");
  assert.deepEqual(await cluster.mget("{t}a", "{t}b", "{t}none"), [value, value, null]);
  assert.deepEqual(await cluster.multi().set("{t}c", value).get("{t}c").exec(), [[null, "OK"], [null, value]]);
  assert.equal(await cluster.eval("return redis.call('GET', KEYS[1])", 1, "k:7"), value);
  if (plain) {
    assert.deepEqual(await cluster.mget("k:1", "none", "k:3"), [value, null, value]);
    assert.equal(await cluster.mset("m:1", 1, "m:2", 2), "OK");
    assert.equal(await cluster.del("m:1", "m:2"), 2);
  }
}

function is_one_node() {
  if (plain) return;
  const nodes = cluster.nodes("all").map(({ options }) => [options.host, options.port]);
  assert.deepEqual(nodes, [["127.0.0.1", port]]);
  assert.deepEqual(cluster.nodes("master").length, 1);
  assert(cluster.slots.length === 16384 && cluster.slots.every(([node]) => node === `127.0.0.1:${port}`));
}

run(`ioredis ${require("ioredis/package.json").version}, Cluster`, {
  async connects() {
    await subscriber.subscribe("news");
    await Promise.all(Array.from({ length: 100 }, (_, i) => cluster.del(`n:${i}`)));
    is_one_node();
    assert.equal(await cluster.cluster("KEYSLOT", "foo"), 12182);
  },

  async stays() {
    for (let number = 1; number === 1 || !told; number++) {
      await round(number);
      if (number === 1) console.log("ready");
      console.log("round");
    }
    is_one_node();
  },

  async asks_again() {
    if (!plain) {
      await new Promise((resolve, reject) => cluster.refreshSlotsCache((error) => (error ? reject(error) : resolve())));
    }
    is_one_node();
    const message = next(subscriber, "message");
    await cluster.publish("news", "over");
    assert.deepEqual(await message, ["news", "over"]);
  },
});

// node-redis with its defaults, a client and a pool of them: what an ordinary service does with Redis, through
// sidecache. The last argument: `2` for RESP2, `cache` for the library's own cache in the client, none in the pool; else
// RESP3, its default.
"use strict";

const assert = require("node:assert/strict");
const { createClient, createClientPool, RESP_TYPES, WatchError } = require("redis");
const { port, outside: past, more, BINARY, BIG, becomes, succeeds, next, run } = require("./steps.js");

// The library's own limit of 5 s for a command is for machines that do nothing else, and so is its pool's of 3 s.
const commandOptions = { timeout: 20_000 };
const options = { ...(more[0] === "2" ? { RESP: 2 } : {}), socket: { port }, commandOptions };
const redis = connects(createClient(more[0] === "cache" ? { ...options, clientSideCache: {} } : options));
const pool = connects(createClientPool(options, { acquireTimeout: 20_000 }));
const outside = connects(createClient({ socket: { port: past }, commandOptions }));
const bytes = redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });

/** The library reports lost connections as events, and they are lost on purpose below. */
function connects(client) {
  return client.on("error", () => {});
}

/** A map of the library's has no prototype. */
const plain = (map) => ({ ...map });

run(`node-redis ${require("redis/package.json").version}`, {
  async connects() {
    await Promise.all([redis.connect(), pool.connect(), outside.connect()]);
    assert.equal(await redis.ping(), "PONG");
  },

  async reads_what_is_kept() {
    for (let i = 0; i < 4; i++) assert.equal(await pool.getRange("kept", 0, -1), "kept");
    for (let i = 0; i < 4; i++) assert.equal(await redis.get("kept"), "kept");
  },

  async writes_and_reads() {
    await redis.del(["a", "h"]);
    assert.equal(await redis.get("a"), null);
    assert.equal(await redis.set("a", 1), "OK");
    for (let i = 0; i < 4; i++) assert.equal(await redis.get("a"), "1");
    assert.equal(await redis.incr("a"), 2);
    assert.equal(await redis.get("a"), "2");
    await redis.hSet("h", { f: 1, g: 2 });
    for (let i = 0; i < 3; i++) assert.deepEqual(plain(await redis.hGetAll("h")), { f: "1", g: "2" });
    for (let i = 0; i < 3; i++) assert.deepEqual(await redis.mGet(["a", "none"]), ["2", null]);
    assert.equal(await redis.set("e", "x", { expiration: { type: "PX", value: 20 } }), "OK");
    await becomes(() => redis.get("e"), null, "an expired key");
  },

  async sees_a_write_from_outside() {
    for (const value of ["1", "2"]) {
      await outside.set("o", value);
      await becomes(() => redis.get("o"), value, "a write from outside");
      await becomes(() => pool.get("o"), value, "a write from outside");
    }
  },

  async pipelines() {
    // What is called in one turn of the event loop goes out as one pipeline.
    const replies = await Promise.all(
      Array.from({ length: 500 }, (_, i) => [redis.set(`p:${i}`, i), redis.get(`p:${i}`)]).flat(),
    );
    assert.deepEqual(replies, Array.from({ length: 500 }, (_, i) => ["OK", `${i}`]).flat());
    assert.deepEqual(await redis.multi().get("p:1").get("p:2").execAsPipeline(), ["1", "2"]);
  },

  async sends_a_hundred_at_once_to_the_pool() {
    const one = async (i) => {
      await pool.set(`t:${i}`, i);
      assert.equal(await pool.get(`t:${i}`), `${i}`);
    };
    await Promise.all(Array.from({ length: 100 }, (_, i) => one(i)));
  },

  async transactions() {
    for (const client of [redis, pool]) {
      assert.deepEqual(await client.multi().set("t", 1).incr("t").get("t").exec(), ["OK", 2, "2"]);
      await assert.rejects(client.multi().set("t", 1).addCommand(["NOSUCH"]).exec(), /unknown command/);
      assert.equal(await client.get("t"), "2");
    }
  },

  async watch_notices_a_write() {
    await pool.execute(async (own) => {
      await own.watch("w");
      await outside.incr("w");
      await assert.rejects(own.multi().set("w", 1).exec(), WatchError);
      await own.watch("w");
      assert.deepEqual(await own.multi().set("w", 1).exec(), ["OK"]);
    });
  },

  async scripts() {
    await redis.del("s");
    const add = { keys: ["s"], arguments: ["2"] };
    const sha = await redis.scriptLoad("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    for (let i = 1; i < 4; i++) {
      assert.equal(await redis.evalSha(sha, add), 2 * i);
      await becomes(() => redis.get("s"), `${2 * i}`, "a script's write");
    }
  },

  async publishes_and_subscribes() {
    const sub = connects(redis.duplicate());
    await sub.connect();
    const id = await sub.sendCommand(["CLIENT", "ID"]);
    await sub.subscribe("news", (message, channel) => sub.emit("heard", message, channel));
    await sub.pSubscribe("weather.*", (message) => sub.emit("sensed", message), true);
    let heard = next(sub, "heard");
    assert.equal(await redis.publish("news", "inside"), 1);
    assert.deepEqual(await heard, ["inside", "news"]);
    heard = next(sub, "sensed");
    await outside.publish("weather.rome", BINARY);
    assert.deepEqual(await heard, [BINARY]);
    await sub.pUnsubscribe("weather.*");
    assert.equal(await redis.publish("weather.rome", "nobody"), 0);

    // Its connection is lost: the library subscribes again by itself.
    const lost = next(sub, "reconnecting");
    assert.equal(await redis.sendCommand(["CLIENT", "KILL", "ID", String(id)]), 1);
    await lost;
    heard = next(sub, "heard");
    await becomes(() => redis.publish("news", "again"), 1, "subscribed again");
    assert.deepEqual(await heard, ["again", "news"]);
    await sub.unsubscribe();
    // In RESP2 the library gives bytes from then on.
    assert.equal(String(await sub.get("kept")), "kept");
    sub.destroy();
  },

  async blocks_until_another_pushes() {
    await redis.del("q");
    assert.equal(await pool.blPop("q", 0.05), null);
    const popped = pool.blPop("q", 20);
    await becomes(async () => /flags=\w*b\w* .*cmd=blpop/.test(await outside.sendCommand(["CLIENT", "LIST"])), true, "blocked");
    await redis.rPush("q", "woken");
    assert.deepEqual(plain(await popped), { key: "q", element: "woken" });
  },

  async errors() {
    await redis.del("err");
    await redis.rPush("err", "x");
    for (let i = 0; i < 3; i++) await assert.rejects(redis.get("err"), /WRONGTYPE/);
    await assert.rejects(redis.sendCommand(["NOSUCH", "x"]), /unknown command/);
    await assert.rejects(pool.get("err"), /WRONGTYPE/);
  },

  async binary_and_big() {
    await redis.set(BINARY, BINARY);
    for (let i = 0; i < 3; i++) assert.deepEqual(await bytes.get(BINARY), BINARY);
    await redis.set("big", BIG);
    for (let i = 0; i < 3; i++) assert(BIG.equals(await bytes.get("big")));
    await redis.del(["big", BINARY]);
  },

  async scans() {
    await Promise.all(Array.from({ length: 1000 }, (_, i) => redis.set(`scan:${i}`, i)));
    const found = new Set();
    for await (const keys of redis.scanIterator({ MATCH: "scan:*", COUNT: 100 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 1000);
  },

  async comes_back_after_being_cut() {
    await redis.set("cut", "before");
    const killer = connects(createClient(options));
    await killer.connect();
    const lost = next(redis, "reconnecting");
    assert((await killer.sendCommand(["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])) >= 1);
    await lost;
    // No error reaches the application: the command waits until the library has connected again.
    assert.equal(await redis.get("cut"), "before");
    assert.equal(await redis.set("cut", "after"), "OK");
    assert.equal(await redis.get("cut"), "after");
    await succeeds(() => pool.get("cut"), "the pool connects again");
    killer.destroy();
  },

  async ends() {
    await redis.close();
    await pool.close();
  },
});

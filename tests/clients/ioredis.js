// ioredis with its defaults: what an ordinary service does with Redis, through sidecache. `2` as the last argument:
// in RESP2, else in the library's own choice.
"use strict";

const assert = require("node:assert/strict");
const { Redis } = require("ioredis");
const { port, outside: past, more, BINARY, BIG, becomes, succeeds, next, run } = require("./steps.js");

const options = more[0] === "2" ? { port, protocol: 2 } : { port };
const redis = new Redis(options);
const outside = new Redis(past);
// The library reports lost connections as events, and they are lost on purpose below.
for (const client of [redis, outside]) client.on("error", () => {});

run(`ioredis ${require("ioredis/package.json").version}`, {
  async reads_what_is_kept() {
    for (let i = 0; i < 4; i++) assert.equal(await redis.getrange("kept", 0, -1), "kept");
  },

  async writes_and_reads() {
    await redis.del("a", "h");
    assert.equal(await redis.get("a"), null);
    assert.equal(await redis.set("a", 1), "OK");
    for (let i = 0; i < 4; i++) assert.equal(await redis.get("a"), "1");
    assert.equal(await redis.incr("a"), 2);
    assert.equal(await redis.get("a"), "2");
    await redis.hset("h", { f: 1, g: 2 });
    for (let i = 0; i < 3; i++) assert.deepEqual(await redis.hgetall("h"), { f: "1", g: "2" });
    for (let i = 0; i < 3; i++) assert.deepEqual(await redis.mget("a", "none"), ["2", null]);
    assert.equal(await redis.set("e", "x", "PX", 20), "OK");
    await becomes(() => redis.get("e"), null, "an expired key");
  },

  async sees_a_write_from_outside() {
    for (const value of ["1", "2"]) {
      await outside.set("o", value);
      await becomes(() => redis.get("o"), value, "a write from outside");
    }
  },

  async pipelines() {
    const pipeline = redis.pipeline();
    for (let i = 0; i < 500; i++) pipeline.set(`p:${i}`, i).get(`p:${i}`);
    const replies = await pipeline.exec();
    for (let i = 0; i < 500; i++) assert.deepEqual(replies.slice(2 * i, 2 * i + 2), [[null, "OK"], [null, `${i}`]]);
  },

  async sends_a_hundred_at_once() {
    const one = async (i) => {
      await redis.set(`t:${i}`, i);
      assert.equal(await redis.get(`t:${i}`), `${i}`);
    };
    await Promise.all(Array.from({ length: 100 }, (_, i) => one(i)));
  },

  async pipelines_by_itself() {
    const auto = new Redis({ ...options, enableAutoPipelining: true });
    await auto.set("auto", 1);
    assert.deepEqual(await Promise.all([auto.get("auto"), auto.incr("auto"), auto.get("auto")]), ["1", 2, "2"]);
    auto.disconnect();
  },

  async transactions() {
    assert.deepEqual(await redis.multi().set("t", 1).incr("t").get("t").exec(), [[null, "OK"], [null, 2], [null, "2"]]);
    // Not as one pipeline, but each command when the one before is answered.
    await redis.multi({ pipeline: false });
    assert.equal(await redis.incr("t"), "QUEUED");
    assert.deepEqual(await redis.exec(), [[null, 3]]);
    await assert.rejects(redis.multi().set("t", 1).call("NOSUCH").exec(), /EXECABORT/);
    assert.equal(await redis.get("t"), "3");
  },

  async watch_notices_a_write() {
    const own = redis.duplicate();
    for (const writes of [true, false]) {
      await own.watch("w");
      if (writes) await outside.incr("w");
      const replies = await own.multi().set("w", 1).exec();
      assert.deepEqual(replies, writes ? null : [[null, "OK"]]);
    }
    own.disconnect();
  },

  async scripts() {
    await redis.del("s");
    await redis.script("FLUSH");
    redis.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
    for (let i = 1; i < 4; i++) {
      assert.equal(await redis.add("s", 2), 2 * i);
      assert.equal(await redis.get("s"), `${2 * i}`);
    }
  },

  async publishes_and_subscribes() {
    const sub = redis.duplicate();
    const id = await sub.client("ID");
    assert.equal(await sub.subscribe("news"), 1);
    assert.equal(await sub.psubscribe("weather.*"), 2);
    let heard = next(sub, "message");
    assert.equal(await redis.publish("news", "inside"), 1);
    assert.deepEqual(await heard, ["news", "inside"]);
    heard = next(sub, "pmessageBuffer");
    await outside.publish("weather.rome", BINARY);
    assert.deepEqual((await heard)[2], BINARY);
    assert.equal(await sub.unsubscribe("news"), 1);
    assert.equal(await sub.punsubscribe("weather.*"), 0);
    assert.equal(await sub.get("kept"), "kept");

    // Its connection is lost: the library subscribes again by itself.
    await sub.subscribe("news");
    const lost = next(sub, "close");
    assert.equal(await redis.client("KILL", "ID", id), 1);
    await lost;
    heard = next(sub, "message");
    await becomes(() => redis.publish("news", "again"), 1, "subscribed again");
    assert.deepEqual(await heard, ["news", "again"]);
    sub.disconnect();
  },

  async blocks_until_another_pushes() {
    await redis.del("q");
    const own = redis.duplicate();
    assert.equal(await own.blpop("q", 0.05), null);
    const popped = own.blpop("q", 20);
    await becomes(async () => /flags=\w*b\w* .*cmd=blpop/.test(await outside.client("LIST")), true, "blocked");
    await redis.rpush("q", "woken");
    assert.deepEqual(await popped, ["q", "woken"]);
    own.disconnect();
  },

  async errors() {
    await redis.del("err");
    await redis.rpush("err", "x");
    for (let i = 0; i < 3; i++) await assert.rejects(redis.get("err"), /WRONGTYPE/);
    await assert.rejects(redis.call("NOSUCH", "x"), /unknown command/);
    const replies = await redis.pipeline().get("err").ping().exec();
    assert.match(replies[0][0].message, /WRONGTYPE/);
    assert.equal(replies[1][1], "PONG");
  },

  async binary_and_big() {
    await redis.set(BINARY, BINARY);
    for (let i = 0; i < 3; i++) assert.deepEqual(await redis.getBuffer(BINARY), BINARY);
    await redis.set("big", BIG);
    for (let i = 0; i < 3; i++) assert(BIG.equals(await redis.getBuffer("big")));
    await redis.del("big", BINARY);
  },

  async scans() {
    const pipeline = redis.pipeline();
    for (let i = 0; i < 1000; i++) pipeline.set(`scan:${i}`, i);
    await pipeline.exec();
    const found = new Set();
    for await (const keys of redis.scanStream({ match: "scan:*", count: 100 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 1000);
  },

  async comes_back_after_being_cut() {
    await redis.set("cut", "before");
    const killer = new Redis(options);
    const lost = next(redis, "close");
    assert((await killer.client("KILL", "TYPE", "normal", "SKIPME", "yes")) >= 1);
    await lost;
    // No error reaches the application: the command waits until the library has connected again.
    assert.equal(await redis.get("cut"), "before");
    assert.equal(await redis.set("cut", "after"), "OK");
    assert.equal(await redis.get("cut"), "after");
    killer.disconnect();
  },

  async quits() {
    assert.equal(await redis.quit(), "OK");
    await succeeds(() => outside.quit(), "quit");
  },
});

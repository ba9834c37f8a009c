"""redis-py, asyncio: the same ground as session.py, with many tasks at once instead of threads."""

import asyncio
import time

import redis.asyncio as redis
from redis.exceptions import NoPermissionError, ResponseError, WatchError
from steps import WAIT, equal, parse, raised, run_async, step

WHERE = parse()


class Session:
    """A client with the library's defaults, and one past sidecache."""

    def __init__(self):
        self.options = WHERE.options
        self.client = self.connect()
        self.outside = redis.Redis(port=WHERE.outside)

    def connect(self, **more):
        return redis.Redis(**self.options, **more)


@step
async def reads_what_is_kept(s):
    equal([await s.client.getrange("kept", 0, -1) for _ in range(4)], [b"kept"] * 4)


@step
async def reads_and_writes(s):
    equal(await s.client.ping(), True)
    await s.client.delete("aa", "ah")
    equal(await s.client.get("aa"), None)
    equal(await s.client.set("aa", "1"), True)
    for _ in range(4):
        equal(await s.client.get("aa"), b"1")
    equal(await s.client.hset("ah", mapping={"f": "1", "g": "2"}), 2)
    for _ in range(3):
        equal(await s.client.hgetall("ah"), {b"f": b"1", b"g": b"2"})
    for value in (b"1", b"2"):
        await s.outside.set("aa", value)
        await until_equal(lambda: s.client.get("aa"), value)


@step
async def eighty_tasks_at_once(s):
    async def work(number):
        key = f"task:{number}"
        for i in range(5):
            await s.client.set(key, i)
            equal(await s.client.get(key), b"%d" % i)
            equal(await s.client.get(key), b"%d" % i)

    await asyncio.gather(*(work(number) for number in range(80)))


@step
async def pipelines_a_thousand(s):
    async with s.client.pipeline(transaction=False) as pipe:
        for i in range(500):
            pipe.set(f"ap:{i}", i).get(f"ap:{i}")
        equal(await pipe.execute(), [x for i in range(500) for x in (True, b"%d" % i)])


@step
async def transactions(s):
    async with s.client.pipeline(transaction=True) as pipe:
        equal(await pipe.set("at", 1).incr("at").get("at").execute(), [True, 2, b"2"])
    await s.client.set("aw", 1)
    async with s.client.pipeline() as pipe:
        await pipe.watch("aw")
        await s.outside.set("aw", 2)
        pipe.multi()
        pipe.set("aw", 3)
        with raised(WatchError):
            await pipe.execute()
    await until_equal(lambda: s.client.get("aw"), b"2")

    async def increment(pipe):
        value = int(await pipe.get("ac"))
        pipe.multi()
        pipe.set("ac", value + 1)

    await s.client.set("ac", 0)
    await asyncio.gather(*(s.client.transaction(increment, "ac") for _ in range(10)))
    equal(await s.client.get("ac"), b"10")


@step
async def scripts(s):
    await s.client.delete("as")
    add = s.client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    await s.client.script_flush()
    for i in range(1, 4):
        equal(await add(keys=["as"], args=[2]), 2 * i)
        equal(await s.client.get("as"), b"%d" % (2 * i))


@step
async def publishes_and_subscribes(s):
    async with s.client.pubsub() as sub:
        await sub.subscribe("async-news")
        await sub.psubscribe("async.*")
        equal([(await next_of(sub))["type"] for _ in range(2)], ["subscribe", "psubscribe"])
        await s.client.publish("async-news", "inside")
        equal((await next_of(sub))["data"], b"inside")
        await s.outside.publish("async.x", "outside")
        equal((await next_of(sub))["type"], "pmessage")
        await sub.unsubscribe()
        await sub.punsubscribe()
        equal([(await next_of(sub))["type"] for _ in range(2)], ["unsubscribe", "punsubscribe"])


@step
async def blocking_pops(s):
    await s.client.delete("aq")
    equal(await s.client.blpop("aq", timeout=0.1), None)
    waiting = [asyncio.create_task(s.client.blpop("aq", timeout=20)) for _ in range(10)]
    for i in range(10):
        await s.client.rpush("aq", i)
    got = await asyncio.gather(*waiting)
    equal(sorted(int(value) for _, value in got), list(range(10)))


@step
async def a_cancelled_task_shifts_no_reply(s):
    for i in range(20):
        await s.client.set("cancelled", i)
        waiting = asyncio.create_task(s.client.blpop("never", timeout=60))
        # Of a task that is cancelled while it connects, the library may lose the cancellation, and wait for ever.
        await until_blocked(s, 1)
        waiting.cancel()
        with raised(asyncio.CancelledError):
            await waiting
        equal(await s.client.get("cancelled"), b"%d" % i)
        await until_blocked(s, 0)


@step
async def stream_groups(s):
    await s.client.delete("ast")
    equal(await s.client.xgroup_create("ast", "g", mkstream=True), True)
    waiting = asyncio.create_task(s.client.xreadgroup("g", "me", {"ast": ">"}, block=20000))
    first = await s.client.xadd("ast", {"n": "1"})
    assert first in repr(await waiting).encode(), "the entry was not read"
    equal(await s.client.xack("ast", "g", first), 1)


@step
async def scans_five_thousand_keys(s):
    async with s.client.pipeline(transaction=False) as pipe:
        for i in range(5000):
            pipe.set(f"ascan:{i}", i)
        await pipe.execute()
    found = {key async for key in s.client.scan_iter("ascan:*", count=1000)}
    equal(found, {b"ascan:%d" % i for i in range(5000)})


@step
async def ten_megabytes(s):
    value = bytes(range(256)) * 40960
    await s.client.set("abig", value)
    got = await asyncio.gather(*(s.client.get("abig") for _ in range(4)), s.client.ping())
    equal(got[:4], [value] * 4)
    await s.client.delete("abig")


@step
async def comes_back_after_being_cut(s):
    await s.client.set("acut", "before")
    async with s.connect() as killer:
        assert await killer.client_kill_filter(_type="normal", skipme=True) >= 1
        equal(await asyncio.gather(*(s.client.get("acut") for _ in range(10))), [b"before"] * 10)
        equal(await s.client.set("acut", "after"), True)
        equal(await s.client.get("acut"), b"after")


@step
async def errors(s):
    await s.client.delete("aerr")
    await s.client.rpush("aerr", "x")
    with raised(ResponseError, "WRONGTYPE"):
        await s.client.get("aerr")
    await s.client.delete("aerr")


@step
async def another_user(s):
    await s.outside.acl_setuser("areader", enabled=True, passwords=["+secret"], keys=["open:*"], categories=["+@all"], reset=True)
    await s.client.set("aclosed", "x")
    for _ in range(3):
        await s.client.get("aclosed")
    async with s.connect(username="areader", password="secret") as reader:
        with raised(NoPermissionError):
            await reader.get("aclosed")


async def next_of(sub):
    message = await sub.get_message(timeout=10)
    assert message is not None, "no message within 10 s"
    return message


async def until_blocked(s, count):
    async def blocked():
        return (await s.outside.info("clients"))["blocked_clients"]

    await until_equal(blocked, count)


async def until_equal(read, value):
    end = time.monotonic() + WAIT
    while (got := await read()) != value:
        assert time.monotonic() < end, f"still {got!r} after {WAIT} s, not {value!r}"


async def main():
    session = Session()
    await run_async(session)


if __name__ == "__main__":
    asyncio.run(main())

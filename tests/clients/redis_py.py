"""redis-py, synchronous: what an ordinary service does with Redis, through sidecache."""

import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from steps import equal, parse, raises, run, step, text, until

WHERE = parse()


class Session:
    """A client with the library's defaults, and one past sidecache."""

    def __init__(self):
        self.options = WHERE.options
        self.client = self.connect()
        self.outside = redis.Redis(port=WHERE.outside)

    def connect(self, **more):
        return redis.Redis(**self.options, **more)

    def sees(self, key, value):
        until(lambda: self.client.get(key), value)


@step
def connects(s):
    equal(s.client.ping(), True)
    assert s.client.client_id() > 0
    named = s.connect(client_name="a-service")
    equal(text(named.client_getname()), "a-service")
    assert s.client.info("server")["redis_version"]
    assert s.client.info()["connected_clients"] >= 1
    equal(s.client.echo("hello"), b"hello")
    assert abs(s.client.time()[0] - time.time()) < 60


@step
def reads_what_is_kept(s):
    equal([s.client.getrange("kept", 0, -1) for _ in range(4)], [b"kept"] * 4)


@step
def writes_and_reads(s):
    s.client.delete("a", "h", "l", "s", "z")
    equal(s.client.get("a"), None)
    equal(s.client.set("a", "1"), True)
    for _ in range(4):
        equal(s.client.get("a"), b"1")
    equal(s.client.incr("a"), 2)
    equal(s.client.get("a"), b"2")
    equal(s.client.hset("h", mapping={"f": "1", "g": "2"}), 2)
    for _ in range(3):
        equal(s.client.hgetall("h"), {b"f": b"1", b"g": b"2"})
        equal(s.client.hmget("h", "g", "none"), [b"2", None])
    equal(s.client.rpush("l", "x", "y"), 2)
    equal(s.client.lrange("l", 0, -1), [b"x", b"y"])
    equal(s.client.sadd("s", "m", "n"), 2)
    for _ in range(3):
        equal(s.client.smembers("s"), {b"m", b"n"})
        equal(s.client.sismember("s", "m"), 1)
    equal(s.client.zadd("z", {"one": 1, "half": 0.5}), 2)
    for _ in range(3):
        equal([(m, float(x)) for m, x in s.client.zrange("z", 0, -1, withscores=True)], [(b"half", 0.5), (b"one", 1.0)])
        equal(s.client.zscore("z", "half"), 0.5)
    equal(s.client.mset({"m1": "1", "m2": "2"}), True)
    for _ in range(3):
        equal(s.client.mget("m1", "none", "m2"), [b"1", None, b"2"])
    equal(s.client.exists("m1", "m2", "none"), 2)
    equal(s.client.type("h"), b"hash")
    equal(s.client.rename("m1", "m3"), True)
    equal(s.client.mget("m1", "m3"), [None, b"1"])


@step
def sees_a_write_from_outside(s):
    for value in (b"1", b"2", b"3"):
        s.outside.set("from-outside", value)
        s.sees("from-outside", value)
        equal([s.client.get("from-outside") for _ in range(3)], [value] * 3)
    s.outside.delete("from-outside")
    s.sees("from-outside", None)


@step
def pipelines_a_thousand(s):
    pipe = s.client.pipeline(transaction=False)
    for i in range(500):
        pipe.set(f"p:{i}", i)
        pipe.get(f"p:{i}")
    equal(pipe.execute(), [x for i in range(500) for x in (True, b"%d" % i)])
    for i in range(1000):
        pipe.get(f"p:{i % 500}")
    equal(pipe.execute(), [b"%d" % (i % 500) for i in range(1000)])


@step
def pipelines_a_mixture(s):
    s.client.delete("pm", "pl")
    pipe = s.client.pipeline(transaction=False)
    pipe.set("pm", 1).get("pm").eval("return redis.call('INCR', 'pm')", 0).get("pm")
    pipe.rpush("pl", "x").blpop("pl", timeout=1).get("pm").lrange("pm", 0, 1).delete("pm").get("pm").ping()
    got = pipe.execute(raise_on_error=False)
    assert isinstance(got[7], redis.ResponseError) and "WRONGTYPE" in str(got[7]), got
    got[5], got[7] = tuple(got[5]), None
    equal(got, [True, b"1", 2, b"2", 1, (b"pl", b"x"), b"2", None, 1, None, True])


@step
def transactions(s):
    pipe = s.client.pipeline()
    equal(pipe.set("t", 1).incr("t").get("t").hgetall("none").execute(), [True, 2, b"2", {}])
    pipe.multi()
    pipe.set("t", "text").incr("t").get("t")
    got = pipe.execute(raise_on_error=False)
    assert isinstance(got[1], redis.ResponseError), got
    equal((got[0], got[2]), (True, b"text"))
    big = s.client.pipeline()
    for i in range(1000):
        big.incr("t:big").get("t:big")
    s.client.delete("t:big")
    equal(big.execute(), [x for i in range(1, 1001) for x in (i, b"%d" % i)])


@step
def watch_notices_a_write(s):
    s.client.set("w", 1)
    s.client.get("w")
    with s.client.pipeline() as pipe:
        pipe.watch("w")
        equal(pipe.get("w"), b"1")
        s.outside.set("w", 2)
        pipe.multi()
        pipe.set("w", 3)
        raises(redis.WatchError, "", pipe.execute)
    s.sees("w", b"2")
    with s.client.pipeline() as pipe:
        pipe.watch("w")
        equal(pipe.get("w"), b"2")
        pipe.unwatch()
        equal(pipe.set("w", 4).get("w").execute(), [True, b"4"])


@step
def watch_loops_lose_no_increment(s):
    s.client.set("contended", 0)

    def increment(pipe):
        value = int(pipe.get("contended"))
        pipe.multi()
        pipe.set("contended", value + 1)

    def work():
        for _ in range(10):
            s.client.transaction(increment, "contended")

    in_threads(5, work)
    equal(s.client.get("contended"), b"50")


@step
def scripts(s):
    s.client.delete("sc")
    equal(s.client.eval("return {KEYS[1], ARGV[1], redis.call('INCRBY', KEYS[1], ARGV[1])}", 1, "sc", 5), [b"sc", b"5", 5])
    equal(s.client.get("sc"), b"5")
    s.client.script_flush()
    add = s.client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    for i in range(1, 4):
        equal(add(keys=["sc"], args=[1]), 5 + i)
        equal(s.client.get("sc"), b"%d" % (5 + i))
    equal(s.client.script_exists(add.sha), [True])
    hidden = s.client.register_script("redis.call('SET', 's'..'c', 'hidden') return 1")
    hidden()
    equal(s.client.get("sc"), b"hidden")
    pipe = s.client.pipeline()
    add(keys=["sc2"], args=[2], client=pipe)
    s.client.delete("sc2")
    equal(pipe.execute(), [2])
    raises(redis.exceptions.NoScriptError, "", s.client.evalsha, "0" * 40, 0)
    raises(redis.ResponseError, "my own", s.client.eval, "return redis.error_reply('my own')", 0)


@step
def publishes_and_subscribes(s):
    with s.client.pubsub() as sub:
        sub.subscribe("news")
        sub.psubscribe("weather.*")
        equal([next_of(sub)["type"] for _ in range(2)], ["subscribe", "psubscribe"])
        assert s.client.publish("news", "inside") >= 1
        equal((lambda m: (m["type"], m["channel"], m["data"]))(next_of(sub)), ("message", b"news", b"inside"))
        s.outside.publish("weather.rome", b"\x00sun\xff")
        got = next_of(sub)
        equal((got["type"], got["pattern"], got["channel"], got["data"]), ("pmessage", b"weather.*", b"weather.rome", b"\x00sun\xff"))
        sub.ping()
        equal(next_of(sub)["type"], "pong")
        sub.unsubscribe("news")
        sub.punsubscribe()
        equal([next_of(sub)["type"] for _ in range(2)], ["unsubscribe", "punsubscribe"])
        equal(sub.subscribed, False)
        s.client.publish("news", "nobody")
        sub.subscribe("news")
        equal(next_of(sub)["type"], "subscribe")
        s.outside.publish("news", "again")
        equal(next_of(sub)["data"], b"again")


@step
def a_message_never_overtakes_its_write(s):
    with s.client.pubsub(ignore_subscribe_messages=True) as sub:
        sub.subscribe("written")
        sub.get_message(timeout=5)
        for i in range(50):
            s.client.get("overtaken"), s.client.get("overtaken")
            s.outside.pipeline(transaction=False).set("overtaken", i).publish("written", i).execute()
            equal(next_of(sub)["data"], b"%d" % i)
            equal(s.client.get("overtaken"), b"%d" % i)


@step
def blocking_pops(s):
    s.client.delete("q", "q2")
    equal(s.client.blpop("q", timeout=0.1), None)
    popped = []
    waiting = threading.Thread(target=lambda: popped.append(s.client.blpop(["q", "q2"], timeout=20)))
    waiting.start()
    until(lambda: any("b" in c["flags"] and c["cmd"] == "blpop" for c in s.outside.client_list()))
    equal(s.client.rpush("q2", "woken"), 1)
    waiting.join(10)
    equal([tuple(p) for p in popped], [(b"q2", b"woken")])
    equal(s.client.llen("q2"), 0)
    s.client.rpush("q", "there")
    equal(tuple(s.client.brpop("q", timeout=1)), (b"q", b"there"))
    equal(s.client.blmove("q", "q2", timeout=0.05), None)
    equal(s.client.bzpopmin("none", timeout=0.05), None)


@step
def stream_groups(s):
    s.client.delete("st")
    equal(s.client.xgroup_create("st", "g", mkstream=True), True)
    raises(redis.ResponseError, "BUSYGROUP", s.client.xgroup_create, "st", "g")
    first = s.client.xadd("st", {"n": "1"})
    got = entries(s.client.xreadgroup("g", "me", {"st": ">"}, count=10, block=1000))
    equal(got, [(first, {b"n": b"1"})])
    equal(entries(s.client.xreadgroup("g", "me", {"st": ">"}, block=50)), [])
    read = []
    waiting = threading.Thread(target=lambda: read.append(s.client.xreadgroup("g", "me", {"st": ">"}, block=20000)))
    waiting.start()
    until(lambda: any("b" in c["flags"] and c["cmd"] == "xreadgroup" for c in s.outside.client_list()))
    second = s.client.xadd("st", {"n": "2"})
    waiting.join(10)
    equal([entries(r) for r in read], [[(second, {b"n": b"2"})]])
    equal(s.client.xpending("st", "g")["pending"], 2)
    equal(s.client.xack("st", "g", first, second), 2)
    equal(s.client.xpending("st", "g")["pending"], 0)
    equal(s.client.xrange("st"), [(first, {b"n": b"1"}), (second, {b"n": b"2"})])
    equal(s.client.xlen("st"), 2)
    equal(s.client.xinfo_groups("st")[0]["name"], b"g")


@step
def scans_five_thousand_keys(s):
    pipe = s.client.pipeline(transaction=False)
    for i in range(5000):
        pipe.set(f"scan:{i}", i)
    pipe.execute()
    equal(set(s.client.scan_iter("scan:*", count=500)), {b"scan:%d" % i for i in range(5000)})
    s.client.delete("sh")
    s.client.hset("sh", mapping={f"f{i}": i for i in range(1000)})
    equal(len(dict(s.client.hscan_iter("sh"))), 1000)


@step
def ten_megabytes(s):
    value = bytes(range(256)) * 40960
    equal(s.client.set("big", value), True)
    for _ in range(3):
        equal(s.client.get("big"), value)
    equal(s.client.strlen("big"), len(value))
    pipe = s.client.pipeline(transaction=False)
    equal(pipe.set("small", "x").get("big").get("small").append("big", "y").get("small").execute(), [True, value, b"x", len(value) + 1, b"x"])
    equal(s.client.delete("big"), 1)
    equal(s.client.get("big"), None)


@step
def binary_keys(s):
    for key in (b"", b"\r\n", b"\x00", bytes(range(256)), "ключ ☃".encode(), b"$5\r\nhello", b"k" * 70000):
        s.client.set(key, key)
        for _ in range(3):
            equal(s.client.get(key), key)
        equal(s.client.delete(key), 1)
        equal(s.client.get(key), None)


@step
def expiry(s):
    s.client.set("e:long", "1", px=100_000)
    assert 0 < s.client.pttl("e:long") <= 100_000
    s.client.set("e", "1", px=300)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        got = s.client.get("e")
        assert got in (b"1", None), got
    s.sees("e", None)
    s.client.set("e", "2")
    s.client.get("e"), s.client.get("e")
    s.client.pexpire("e", 50)
    s.sees("e", None)
    s.client.set("e", "3", ex=100)
    assert 90 < s.client.ttl("e") <= 100
    equal(s.client.persist("e"), True)
    equal(s.client.ttl("e"), -1)
    equal(s.client.getdel("e"), b"3")
    equal(s.client.get("e"), None)


@step
def errors(s):
    s.client.delete("err")
    s.client.rpush("err", "x")
    for _ in range(3):
        raises(redis.ResponseError, "WRONGTYPE", s.client.get, "err")
    raises(redis.ResponseError, "unknown command", s.client.execute_command, "NOSUCH", "x")
    raises(redis.ResponseError, "wrong number of arguments", s.client.execute_command, "GET")
    raises(redis.ResponseError, "not an integer", s.client.execute_command, "INCRBY", "err:i", "x")
    if WHERE.port != WHERE.outside:
        raises(redis.ResponseError, "is refused", s.client.execute_command, "SHUTDOWN")
    equal(s.client.delete("err"), 1)
    equal(s.client.get("err"), None)


@step
def authenticates(s):
    s.outside.acl_setuser("reader", enabled=True, passwords=["+secret"], keys=["open:*"], categories=["+@all"], reset=True)
    s.client.set("open:1", "x")
    s.client.set("closed", "x")
    s.client.get("closed"), s.client.get("closed"), s.client.get("closed")
    reader = s.connect(username="reader", password="secret")
    equal(reader.get("open:1"), b"x")
    equal(text(reader.acl_whoami()), "reader")
    for _ in range(2):
        raises(redis.exceptions.NoPermissionError, "", reader.get, "closed")
    at_once = Retry(NoBackoff(), 0)  # by default the library tries a wrong password ten times
    for user, password in (("reader", "wrong"), ("nobody", "secret")):
        raises(redis.AuthenticationError, "", s.connect(username=user, password=password, retry=at_once).ping)
    equal(s.client.get("closed"), b"x")
    equal(text(s.client.acl_whoami()), "default")


@step
def databases(s):
    other = s.connect(db=3)
    s.client.set("db", "zero")
    other.set("db", "three")
    for _ in range(3):
        equal((s.client.get("db"), other.get("db")), (b"zero", b"three"))
    equal(other.delete("db"), 1)
    equal((s.client.get("db"), other.get("db")), (b"zero", None))
    raises(redis.ResponseError, "out of range", s.connect(db=99).get, "db")


@step
def twenty_threads_on_one_pool(s):
    pool = redis.BlockingConnectionPool(max_connections=20, **s.options)
    client = redis.Redis(connection_pool=pool)
    client.delete("shared")

    def work(number):
        key = f"own:{number}"
        for i in range(30):
            client.set(key, i)
            equal(client.get(key), b"%d" % i)
            client.incr("shared")
            client.pipeline().set(key, -i).get(key).execute()
            equal(client.get(key), b"%d" % -i)

    in_threads(20, work, range(20))
    equal(client.get("shared"), b"600")
    pool.disconnect()


@step
def a_lock(s):
    s.client.delete("lock")
    count = [0]

    def work():
        for _ in range(5):
            with s.client.lock("lock", timeout=10, sleep=0.005):
                was = count[0]
                s.client.get("lock")
                count[0] = was + 1

    in_threads(4, work)
    equal(count[0], 20)


@step
def comes_back_after_being_cut(s):
    s.client.set("cut", "before")
    killer = s.connect()
    assert killer.client_kill_filter(_type="normal", skipme=True) >= 1
    equal(s.client.get("cut"), b"before")
    equal(s.client.set("cut", "after"), True)
    equal(s.client.pipeline().get("cut").execute(), [b"after"])
    with s.client.pubsub(ignore_subscribe_messages=True) as sub:
        sub.subscribe("cut")
        sub.get_message(timeout=5)
        host, port = sub.connection._sock.getsockname()
        equal(killer.client_kill(f"{host}:{port}"), True)
        equal(sub.get_message(timeout=0.01), None)
        until(lambda: s.client.publish("cut", "again") >= 1)
        equal(next_of(sub)["data"], b"again")


@step
def monitors(s):
    with s.client.monitor() as watching:
        s.outside.get("watched-by-monitor")
        while "watched-by-monitor" not in (seen := watching.next_command())["command"]:
            pass
        equal(seen["command"], "GET watched-by-monitor")


def next_of(sub):
    message = sub.get_message(timeout=10)
    assert message is not None, "no message within 10 s"
    return message


def entries(reply):
    """The entries of the one stream that XREADGROUP read; RESP3 gives a map."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    ((_, got),) = pairs
    return got[0] if len(got) == 1 and isinstance(got[0], list) else got


def in_threads(number, work, arguments=None):
    failures = []

    def guarded(*args):
        try:
            work(*args)
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=guarded, args=() if arguments is None else (arguments[i],)) for i in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    run(Session())

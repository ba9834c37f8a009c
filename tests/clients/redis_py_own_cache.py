"""redis-py's own client-side cache (RESP3, CLIENT TRACKING) on top of sidecache's."""

import redis
from redis.cache import CacheConfig
from steps import equal, parse, run, step, until

WHERE = parse()

# The library refuses Valkey, and Redis below 7.4, though all that it needs, tracking, is in Redis 6.
SERVER = redis.Redis(port=WHERE.outside).info("server").get("server_name", "redis")
redis.connection.CacheProxyConnection.DEFAULT_SERVER_NAME = SERVER
redis.connection.CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"


class Session:
    """A client that caches, a plain one beside it, and one past sidecache."""

    def __init__(self):
        self.caching = redis.Redis(port=WHERE.port, protocol=3, cache_config=CacheConfig())
        self.plain = redis.Redis(port=WHERE.port)
        self.outside = redis.Redis(port=WHERE.outside)

    def sees(self, key, value):
        until(lambda: self.caching.get(key), value)


@step
def it_reads_what_is_kept(s):
    equal([s.plain.getrange("kept", 0, -1) for _ in range(4)], [b"kept"] * 4)
    equal([s.caching.get("kept") for _ in range(4)], [b"kept"] * 4)


@step
def it_keeps_what_it_read(s):
    s.plain.set("own", "1")
    equal(s.caching.get("own"), b"1")
    equal(s.caching.get("own"), b"1")
    assert s.caching.get_cache().size >= 1, "nothing was kept"


@step
def it_hears_of_writes_from_everywhere(s):
    for i in range(20):
        for writer in (s.plain, s.outside):
            writer.set("heard", i)
            s.sees("heard", b"%d" % i)
            s.sees("heard", b"%d" % i)
        writer.delete("heard")
        s.sees("heard", None)


@step
def its_own_writes_are_seen(s):
    for i in range(20):
        s.caching.set("mine", i)
        s.sees("mine", b"%d" % i)
        equal(s.plain.get("mine"), b"%d" % i)


@step
def pipelines_and_transactions_go_on(s):
    for transaction in (False, True):
        pipe = s.caching.pipeline(transaction=transaction)
        s.caching.delete("went-on")
        equal(pipe.incr("went-on").get("went-on").execute(), [1, b"1"])


if __name__ == "__main__":
    run(Session())

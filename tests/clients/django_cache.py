"""django-redis, Django's cache in Redis, with its defaults: pickled values, locks, atomic counters, sessions."""

import threading

import django
import django_redis
import redis
from django.conf import settings
from steps import equal, parse, raises, run, step, until

WHERE = parse()

settings.configure(
    CACHES={
        name: {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"redis://127.0.0.1:{port}/1"}
        for name, port in (("default", WHERE.port), ("outside", WHERE.outside))
    },
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402, once Django is set up
from django.core.cache import cache, caches  # noqa: E402


class Session:
    """Django's cache through sidecache, and past it."""

    def __init__(self):
        self.cache = cache
        self.outside = caches["outside"]


@step
def reads_what_is_kept(s):
    plain = redis.Redis(port=WHERE.port)
    equal([plain.getrange("kept", 0, -1) for _ in range(4)], [b"kept"] * 4)


@step
def gets_and_sets(s):
    s.cache.delete("a")
    equal(s.cache.get("a"), None)
    equal(s.cache.get("a", "default"), "default")
    s.cache.set("a", {"user": 7, "bytes": bytes(range(256))}, timeout=60)
    for _ in range(4):
        equal(s.cache.get("a"), {"user": 7, "bytes": bytes(range(256))})
    equal(s.cache.add("a", 1), False)
    equal(s.cache.has_key("a"), True)
    assert 0 < s.cache.ttl("a") <= 60
    s.cache.set_many({"m1": 1, "m2": [2]})
    for _ in range(3):
        equal(s.cache.get_many(["m1", "m2", "none"]), {"m1": 1, "m2": [2]})
    equal(s.cache.delete_many(["m1", "m2"]), 2)
    equal(s.cache.get_or_set("computed", lambda: 5), 5)
    s.cache.touch("computed", 0)
    equal(s.cache.get("computed"), None)


@step
def sees_a_write_from_outside(s):
    for value in (1, 2):
        s.outside.set("o", value)
        until(lambda: s.cache.get("o"), value)


@step
def counts(s):
    s.cache.set("n", 0)
    threads = [threading.Thread(target=lambda: [s.cache.incr("n") for _ in range(20)]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(s.cache.get("n"), 100)
    equal(s.cache.decr("n", 10), 90)
    s.cache.delete("none")
    raises(ValueError, "", s.cache.incr, "none")


@step
def locks(s):
    held = s.cache.lock("job", timeout=10)
    equal(held.acquire(blocking=False), True)
    equal(s.cache.lock("job", timeout=10).acquire(blocking=False), False)
    held.release()
    with s.cache.lock("job", timeout=10, blocking_timeout=5):
        pass


@step
def finds_and_deletes_by_pattern(s):
    s.cache.set_many({f"found:{i}": i for i in range(300)})
    equal(len(set(s.cache.iter_keys("found:*"))), 300)
    equal(s.cache.delete_pattern("found:*"), 300)
    equal(s.cache.keys("found:*"), [])


@step
def keeps_sessions(s):
    session = SessionStore()
    session["cart"] = ["book"]
    session.save()
    for _ in range(3):
        equal(SessionStore(session.session_key)["cart"], ["book"])
    session.flush()
    equal(SessionStore(session.session_key).get("cart"), None)


@step
def keeps_a_megabyte(s):
    value = bytes(range(256)) * 4096
    s.cache.set("big", value)
    for _ in range(3):
        equal(s.cache.get("big"), value)


@step
def the_client_below_does_the_rest(s):
    below = django_redis.get_redis_connection("default")
    below.delete("below")
    equal(below.pipeline().incr("below").get("below").execute(), [1, b"1"])
    below.rpush("q", "x")
    equal(tuple(below.blpop("q", timeout=5)), (b"q", b"x"))
    below.lpush("list", 1)
    raises(redis.ResponseError, "WRONGTYPE", below.get, "list")


@step
def comes_back_after_being_cut(s):
    def tries():
        # Django's pool looks whether a connection has been closed before it takes one; whoever is quicker is told.
        try:
            return s.cache.get("cut") == "before"
        except redis.ConnectionError:
            return False

    s.cache.set("cut", "before")
    killer = redis.Redis(port=WHERE.port)
    assert killer.client_kill_filter(_type="normal", skipme=True) >= 1
    until(tries)
    s.cache.set("cut", "after")
    equal(s.cache.get("cut"), "after")


if __name__ == "__main__":
    run(Session(), "django-redis " + ".".join(map(str, django_redis.VERSION)))

"""redis-py across a restart of upstream: prints `ready`, waits for a line on stdin while upstream is restarted,
then expects every kind of use to go on with nothing but the library's own retries.
"""

import sys
import time

import redis
from steps import equal, parse, run, step

WHERE = parse()


class Session:
    """One client and one subscription, made before the restart."""

    def __init__(self):
        self.client = redis.Redis(**WHERE.options)
        self.sub = self.client.pubsub(ignore_subscribe_messages=True)
        self.sub.subscribe("after")
        self.sub.get_message(timeout=5)
        self.client.delete("scripted")
        self.client.set("before", "1")
        for _ in range(3):
            equal(self.client.get("before"), b"1")
        self.script = self.client.register_script("return redis.call('INCR', KEYS[1])")
        equal(self.script(keys=["scripted"]), 1)


@step
def reads_and_writes_go_on(s):
    s.client.set("after", "2")
    equal(s.client.get("after"), b"2")
    equal(s.client.get("before"), None)  # it came back empty: nothing is served from before


@step
def a_transaction_goes_on(s):
    equal(s.client.pipeline().set("t", 1).incr("t").execute(), [True, 2])


@step
def a_script_is_loaded_again(s):
    equal(s.script(keys=["scripted"]), 1)


@step
def a_subscription_is_made_again(s):
    end = time.monotonic() + 10
    while (message := s.sub.get_message(timeout=0.05)) is None:
        assert time.monotonic() < end, "no message within 10 s"
        s.client.publish("after", "hello")
    equal(message["data"], b"hello")


@step
def a_blocking_pop_goes_on(s):
    s.client.rpush("q", "x")
    equal(tuple(s.client.blpop("q", timeout=5)), (b"q", b"x"))


if __name__ == "__main__":
    session = Session()
    print("ready", flush=True)
    sys.stdin.readline()
    run(session)

"""redis-py's RedisCluster through a sidecache before a cluster: it finds one node, and stays there while slots and masters
move. Says `ready`, then `round` for each round of commands, until a line comes in. With --plain: the same by redis-py's
ordinary client, which takes the cluster for one server.
"""

import sys
import threading
import time

import redis
from redis.cluster import RedisCluster
from steps import WAIT, equal, finish, parse, tell

WHERE = parse()


def stop_when_told(stop):
    sys.stdin.readline()
    stop.set()


def round_of_commands(client, number):
    value = str(number).encode()
    for i in range(150):
        equal(client.set(f"k:{i}", value), True)
        equal(client.get(f"k:{i}"), value)
    pipe = client.pipeline(transaction=False)
    for i in range(100):
        pipe.get(f"k:{i}").incr(f"n:{i}")
    replies = pipe.execute()
    equal(replies, [reply for _ in range(100) for reply in (value, number)])
    equal(client.mset({"{t}a": value, "{t}b": value}), True)
    equal(client.mget("{t}a", "{t}b", "{t}none"), [value, value, None])
    # RedisCluster gives what EXEC brings as it is.
    set_reply = True if WHERE.plain else b"OK"
    equal(client.pipeline(transaction=True).set("{t}c", value).get("{t}c").execute(), [set_reply, value])
    equal(client.eval("return redis.call('GET', KEYS[1])", 1, "k:7"), value)
    if WHERE.plain:
        of_several_slots(client, value)
    else:
        equal(client.mget_nonatomic("k:1", "k:2", "k:3"), [value] * 3)


def of_several_slots(client, value):
    equal(client.mget("k:1", "none", "k:3"), [value, None, value])
    equal(client.mset({"m:1": value, "m:2": value}), True)
    equal(client.exists("m:1", "m:2", "none"), 2)
    equal(client.delete("m:1", "m:2"), 2)
    equal({key for key in client.scan_iter(match="k:*", count=1000)}, {f"k:{i}".encode() for i in range(150)})


def is_one_node(client):
    if WHERE.plain:
        return
    equal([node.name for node in client.get_nodes()], [f"127.0.0.1:{WHERE.port}"])
    node = client.get_primaries()[0]
    equal(client.cluster_myid(node), client.get_redis_connection(node).execute_command("CLUSTER MYID"))
    equal(client.cluster_keyslot("foo"), 12182)
    equal(client.cluster_info()["cluster_state"], "ok")
    nodes = client.cluster_nodes()
    equal(list(nodes), [f"127.0.0.1:{WHERE.port}"])
    equal(nodes[f"127.0.0.1:{WHERE.port}"]["slots"], [["0", "16383"]])
    assert client.cluster_countkeysinslot(client.cluster_keyslot("k:7")) >= 1
    equal(client.cluster_get_keys_in_slot(client.cluster_keyslot("n:7"), 10), ["n:7"])


def main():
    kind = redis.Redis if WHERE.plain else RedisCluster
    client = kind(**WHERE.options, client_name="application")
    client.delete(*[f"n:{i}" for i in range(100)])
    stop = threading.Event()
    threading.Thread(target=stop_when_told, args=[stop], daemon=True).start()
    channel = client.pubsub(ignore_subscribe_messages=True)
    channel.subscribe("news")
    number = 0
    while number == 0 or not stop.is_set():
        number += 1
        round_of_commands(client, number)
        if number == 1:
            is_one_node(client)
            print("ready", flush=True)
        print("round", flush=True)
    is_one_node(client)
    if not WHERE.plain:
        client.nodes_manager.initialize()
        is_one_node(client)
    # Asking for the nodes anew has made the library connect anew; it subscribes again when it is next asked for messages.
    end = time.monotonic() + WAIT
    while (message := channel.get_message(timeout=0.1)) is None:
        assert time.monotonic() < end, "no message"
        client.publish("news", "over")
    equal(message["data"], b"over")


if __name__ == "__main__":
    failed = 0
    try:
        main()
    except Exception:
        failed = tell(main)
    finish(failed, f"redis-py {redis.__version__}, {'Redis' if WHERE.plain else 'RedisCluster'}")

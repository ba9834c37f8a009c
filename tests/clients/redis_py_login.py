"""redis-py with a password, through a sidecache that has none of its own: the client's word is upstream's to judge.

Upstream asks for the password `open sesame` and knows a user `reader`, password `secret`, who may read `open:*`.
"""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from steps import equal, parse, raises, run, step, text

WHERE = parse()
PASSWORD = "open sesame"
AT_ONCE = Retry(NoBackoff(), 0)  # by default the library tries a wrong password ten times


class Session:
    """The options of every client here."""

    def __init__(self):
        self.options = {**WHERE.options, "retry": AT_ONCE}

    def connect(self, **more):
        return redis.Redis(**self.options, **more)


@step
def the_right_password_opens(s):
    client = s.connect(password=PASSWORD)
    client.set("open:1", "x")
    client.set("closed", "x")
    for _ in range(4):
        equal(client.mget("open:1", "closed"), [b"x", b"x"])
        equal(client.get("closed"), b"x")
    equal(client.pipeline().incr("n").delete("n").execute(), [1, 1])


@step
def without_it_nothing_is_answered(s):
    for call in (s.connect().ping, lambda: s.connect().get("open:1"), lambda: s.connect().set("open:1", "y")):
        raises(redis.AuthenticationError, "", call)


@step
def a_wrong_one_is_refused(s):
    raises(redis.AuthenticationError, "", s.connect(password="wrong").ping)
    raises(redis.AuthenticationError, "", s.connect(username="reader", password=PASSWORD).ping)
    raises(redis.AuthenticationError, "", s.connect(username="nobody", password="secret").ping)


@step
def another_user_has_their_own_rights(s):
    reader = s.connect(username="reader", password="secret")
    equal(text(reader.acl_whoami()), "reader")
    for _ in range(4):
        equal(reader.get("open:1"), b"x")
        raises(redis.exceptions.NoPermissionError, "", reader.get, "closed")
    raises(redis.exceptions.NoPermissionError, "", reader.set, "open:1", "y")


if __name__ == "__main__":
    run(Session())

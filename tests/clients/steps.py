"""Steps of a session: runs each, prints what failed, ends with an exit code.

A program marks its functions with @step and ends with run(). Each step makes its own keys and may be run again
on the same server, since the tests run every session twice: on a cold cache and on a warm one.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import sys
import time
import traceback

import redis

STEPS = []

# Seconds; a program that hangs shows where, and ends.
PATIENCE = 120

# Seconds; within this a condition must come true.
WAIT = 10


def step(function):
    """A function that takes the session; its name is what is printed if it fails."""
    STEPS.append(function)
    return function


def equal(got, wanted):
    """As `assert got == wanted`, but shows both, cut where they are long."""
    if got != wanted:
        raise AssertionError(f"got {short(got)}, wanted {short(wanted)}")


def short(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"


def text(value):
    """The library gives some names as bytes in one protocol and as text in the other."""
    return value.decode() if isinstance(value, bytes) else value


def raises(error, text, call, *args):
    """Calls and expects this error with this text in it."""
    with raised(error, text):
        call(*args)


@contextlib.contextmanager
def raised(error, text=""):
    """Expects this error with this text in it of the block."""
    try:
        yield
    except error as e:
        assert text in str(e), f"{error.__name__} says {short(str(e))}, wanted {text!r} in it"
        return
    raise AssertionError(f"no {error.__name__}")


def until(read, wanted=True):
    """Calls until this is what comes: a write from outside, say, is seen after one network delay."""
    end = time.monotonic() + WAIT
    while (got := read()) != wanted:
        assert time.monotonic() < end, f"still {short(got)} after {WAIT} s, not {short(wanted)}"
        time.sleep(0.002)


def parse():
    """Where to connect: `port` is sidecache's, `outside` the server's own, `options` a client's with the library's
    defaults. Bounds the program's time as well.
    """
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("outside", type=int)
    parser.add_argument("protocol", type=int, nargs="?", choices=(2, 3), help="the library's default without it")
    parser.add_argument("--plain", action="store_true", help="a client that knows nothing of clusters, before one")
    where = parser.parse_args()
    where.options = {"host": "127.0.0.1", "port": where.port}
    if where.protocol is not None:
        where.options["protocol"] = where.protocol
    return where


def run(session, client=f"redis-py {redis.__version__}"):
    """All steps in the order of the file; one that fails does not keep the rest from being run."""
    failed = 0
    for function in STEPS:
        try:
            function(session)
        except Exception:
            failed += tell(function)
    finish(failed, client)


async def run_async(session, client=f"redis-py {redis.__version__}"):
    """As run, for steps that are coroutines."""
    failed = 0
    # Of a coroutine that waits, a dump of threads shows nothing.
    asyncio.get_running_loop().call_later(PATIENCE - 5, tell_tasks)
    for function in STEPS:
        try:
            await function(session)
        except Exception:
            failed += tell(function)
    finish(failed, client)


def tell_tasks():
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


def tell(function):
    print(f"FAILED {function.__name__}", file=sys.stderr)
    traceback.print_exc(limit=-4, chain=False)
    return 1


def finish(failed, client):
    sys.stderr.flush()
    if failed:
        print(f"{failed} of {len(STEPS)} steps failed")
    else:
        print(f"OK {client}, {len(STEPS)} steps")
    sys.exit(1 if failed else 0)

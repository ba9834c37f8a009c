"""Celery with Redis as its broker and for its results, with its defaults: tasks are sent, a worker in this process
takes them by BRPOP, results come by publish and subscribe, remote control by a fanout."""

import threading

import celery
import redis
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TimeoutError as NotReady
from steps import equal, parse, raises, run, step

WHERE = parse()
URL = f"redis://127.0.0.1:{WHERE.port}/2"
PATIENCE = 20

app = celery.Celery("tasks", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
let_go = threading.Event()


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def fails():
    raise ValueError("on purpose")


@app.task(bind=True, max_retries=3, default_retry_delay=0)
def succeeds_at_the_third(self):
    if self.request.retries < 2:
        raise self.retry()
    return self.request.retries


@app.task
def waits():
    return let_go.wait(PATIENCE)


@step
def reads_what_is_kept(_):
    plain = redis.Redis(port=WHERE.port)
    equal([plain.getrange("kept", 0, -1) for _ in range(4)], [b"kept"] * 4)


@step
def a_task_is_done(_):
    result = add.delay(2, 3)
    equal(result.get(timeout=PATIENCE), 5)
    equal([result.state for _ in range(4)], ["SUCCESS"] * 4)
    equal(result.forget(), None)


@step
def fifty_tasks_are_done(_):
    results = [add.delay(i, i) for i in range(50)]
    equal([result.get(timeout=PATIENCE) for result in results], [2 * i for i in range(50)])


@step
def a_result_is_waited_for(_):
    let_go.clear()
    result = waits.delay()
    raises(NotReady, "", lambda: result.get(timeout=0.05))
    equal(result.state, "PENDING")
    let_go.set()
    equal(result.get(timeout=PATIENCE), True)


@step
def a_failure_is_told(_):
    raises(ValueError, "on purpose", lambda: fails.delay().get(timeout=PATIENCE))


@step
def a_task_is_tried_again(_):
    equal(succeeds_at_the_third.delay().get(timeout=PATIENCE), 2)


@step
def groups_chains_and_chords(_):
    equal(celery.group(add.s(i, 1) for i in range(10))().get(timeout=PATIENCE), list(range(1, 11)))
    equal(celery.chain(add.s(1, 2), add.s(4))().get(timeout=PATIENCE), 7)
    equal(celery.chord((add.s(i, i) for i in range(10)), total.s())().get(timeout=PATIENCE), 90)


@step
def a_megabyte_goes_there_and_back(_):
    equal(add.delay("x" * (1 << 20), "y").get(timeout=PATIENCE), "x" * (1 << 20) + "y")


@step
def the_worker_is_asked_by_remote_control(_):
    replies = app.control.ping(timeout=PATIENCE, limit=1)
    equal([list(reply.values()) for reply in replies], [[{"ok": "pong"}]])


@step
def comes_back_after_being_cut(_):
    killer = redis.Redis(port=WHERE.port)
    for kind in ("normal", "pubsub"):
        killer.client_kill_filter(_type=kind, skipme=True)
    equal(add.delay(4, 5).get(timeout=PATIENCE), 9)


if __name__ == "__main__":
    app.set_default()
    with start_worker(app, perform_ping_check=False, shutdown_timeout=PATIENCE):
        run(None, f"celery {celery.__version__}")

/* hiredis, Debian's, synchronous and by its event interface (poll): what a C program does with Redis, through sidecache.
 * It has neither a pool nor retries: connections are the program's, and a lost one is made again by redisReconnect. */
#include <assert.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <hiredis/async.h>
#include <hiredis/hiredis.h>

enum { BIG = 1 << 20, BINARY = 256, PATIENCE = 120 };

static int port, outside_port;
static redisContext *redis, *outside;
static const char *at = "start";

static void fail(const char *what, const char *got) {
    fprintf(stderr, "FAILED %s: %s: %s\n", at, what, got ? got : "(nothing)");
    exit(1);
}

static void too_long(int signal) {
    (void)signal;
    fail("no end within two minutes", NULL);
}

static redisContext *connects(int to) {
    redisContext *made = redisConnect("127.0.0.1", to);
    if (!made || made->err) fail("connect", made ? made->errstr : NULL);
    struct timeval patience = {PATIENCE, 0};
    redisSetTimeout(made, patience);
    return made;
}

/* A reply of this type; the program's end if it is another. */
static redisReply *expect(redisContext *to, int type, redisReply *reply) {
    if (!reply) fail("no reply", to->errstr);
    if (reply->type != type) fail("another type", reply->str);
    return reply;
}

static void expect_integer(redisReply *reply, long long wanted) {
    if (expect(redis, REDIS_REPLY_INTEGER, reply)->integer != wanted) fail("integer", "another");
    freeReplyObject(reply);
}

static void expect_bytes(redisReply *reply, int type, const char *wanted, size_t len) {
    expect(redis, type, reply);
    if (reply->len != len || memcmp(reply->str, wanted, len)) fail(wanted, reply->str);
    freeReplyObject(reply);
}

static void expect_text(redisReply *reply, const char *wanted) {
    expect_bytes(reply, REDIS_REPLY_STRING, wanted, strlen(wanted));
}

static void expect_ok(redisReply *reply) { expect_bytes(reply, REDIS_REPLY_STATUS, "OK", 2); }

static void expect_nil(redisReply *reply) { freeReplyObject(expect(redis, REDIS_REPLY_NIL, reply)); }

static void expect_error(redisReply *reply, const char *begins) {
    expect(redis, REDIS_REPLY_ERROR, reply);
    if (strncmp(reply->str, begins, strlen(begins))) fail(begins, reply->str);
    freeReplyObject(reply);
}

/* What does not matter, but is no error. */
static void run(redisContext *to, const char *command) {
    redisReply *reply = redisCommand(to, command);
    if (!reply || reply->type == REDIS_REPLY_ERROR) fail(command, reply ? reply->str : to->errstr);
    freeReplyObject(reply);
}

/* The reply of what was appended to the pipeline next. */
static redisReply *next(redisContext *of) {
    void *reply = NULL;
    if (redisGetReply(of, &reply) != REDIS_OK) fail("no reply", of->errstr);
    return reply;
}

static void becomes(const char *key, const char *wanted) {
    for (int i = 0;; i++) {
        redisReply *reply = expect(redis, REDIS_REPLY_STRING, redisCommand(redis, "GET %s", key));
        int is = !strcmp(reply->str, wanted);
        if (!is && i > 5000) fail(wanted, reply->str);
        freeReplyObject(reply);
        if (is) return;
        usleep(2000);
    }
}

static void writes_and_reads(void) {
    run(redis, "DEL a h e");
    expect_nil(redisCommand(redis, "GET a"));
    expect_ok(redisCommand(redis, "SET a 1"));
    for (int i = 0; i < 4; i++) expect_text(redisCommand(redis, "GET a"), "1");
    expect_integer(redisCommand(redis, "INCR a"), 2);
    expect_text(redisCommand(redis, "GET a"), "2");
    expect_integer(redisCommand(redis, "HSET h f 1 g 2"), 2);
    for (int i = 0; i < 3; i++) {
        redisReply *reply = expect(redis, REDIS_REPLY_ARRAY, redisCommand(redis, "HGETALL h"));
        if (reply->elements != 4 || strcmp(reply->element[3]->str, "2")) fail("HGETALL", NULL);
        freeReplyObject(reply);
    }
}

static void sees_a_write_from_outside(void) {
    const char *values[] = {"1", "2"};
    run(redis, "SET o 0");
    for (int i = 0; i < 2; i++) {
        freeReplyObject(redisCommand(outside, "SET o %s", values[i]));
        becomes("o", values[i]);
    }
}

static void pipelines(void) {
    for (int i = 0; i < 500; i++) {
        redisAppendCommand(redis, "SET p:%d %d", i, i);
        redisAppendCommand(redis, "GET p:%d", i);
    }
    for (int i = 0; i < 500; i++) {
        char wanted[16];
        snprintf(wanted, sizeof wanted, "%d", i);
        expect_ok(next(redis));
        expect_text(next(redis), wanted);
    }
}

static void transactions(void) {
    const char *commands[] = {"MULTI", "SET t 1", "INCR t", "GET t", "EXEC"};
    for (int pipelined = 0; pipelined < 2; pipelined++) {
        redisReply *last = NULL;
        for (int i = 0; pipelined && i < 5; i++) redisAppendCommand(redis, commands[i]);
        for (int i = 0; i < 5; i++) {
            if (last) freeReplyObject(last);
            last = pipelined ? next(redis) : redisCommand(redis, commands[i]);
        }
        expect(redis, REDIS_REPLY_ARRAY, last);
        if (last->elements != 3 || last->element[1]->integer != 2 || strcmp(last->element[2]->str, "2")) fail("EXEC", NULL);
        freeReplyObject(last);
    }
    run(redis, "MULTI");
    expect_error(redisCommand(redis, "NOSUCH"), "ERR unknown command");
    expect_error(redisCommand(redis, "EXEC"), "EXECABORT");
    expect_text(redisCommand(redis, "GET t"), "2");
}

static void watch_notices_a_write(void) {
    for (int writes = 1; writes >= 0; writes--) {
        run(redis, "WATCH w");
        if (writes) run(outside, "INCR w");
        run(redis, "MULTI");
        run(redis, "SET w 1");
        redisReply *reply = redisCommand(redis, "EXEC");
        freeReplyObject(expect(redis, writes ? REDIS_REPLY_NIL : REDIS_REPLY_ARRAY, reply));
    }
}

/* A message pushed to a subscriber: its kind, and its last part. */
static void expect_message(redisContext *of, const char *kind, const char *payload) {
    redisReply *reply = expect(of, REDIS_REPLY_ARRAY, next(of));
    redisReply *last = reply->element[reply->elements - 1];
    if (strcmp(reply->element[0]->str, kind)) fail(kind, reply->element[0]->str);
    if (payload && strcmp(last->str, payload)) fail(payload, last->str);
    freeReplyObject(reply);
}

static void publishes_and_subscribes(void) {
    redisContext *sub = connects(port);
    redisAppendCommand(sub, "SUBSCRIBE news");
    expect_message(sub, "subscribe", NULL);
    redisAppendCommand(sub, "PSUBSCRIBE weather.*");
    expect_message(sub, "psubscribe", NULL);
    expect_integer(redisCommand(redis, "PUBLISH news inside"), 1);
    expect_message(sub, "message", "inside");
    run(outside, "PUBLISH weather.rome outside");
    expect_message(sub, "pmessage", "outside");
    redisAppendCommand(sub, "UNSUBSCRIBE news");
    expect_message(sub, "unsubscribe", NULL);
    redisAppendCommand(sub, "PUNSUBSCRIBE");
    expect_message(sub, "punsubscribe", NULL);
    expect_text(redisCommand(sub, "GET kept"), "kept");
    redisFree(sub);
}

static void blocks_until_another_pushes(void) {
    redisContext *own = connects(port);
    run(redis, "DEL q");
    expect_nil(redisCommand(own, "BLPOP q 0.05"));
    redisAppendCommand(own, "BLPOP q 20");
    for (int done = 0; !done;) assert(redisBufferWrite(own, &done) == REDIS_OK);
    for (int i = 0, blocked = 0; !blocked; i++) {
        redisReply *reply = expect(outside, REDIS_REPLY_STRING, redisCommand(outside, "CLIENT LIST"));
        const char *it = strstr(reply->str, "flags=b "), *end = it ? strchr(it, '\n') : NULL;
        const char *command = it ? strstr(it, "cmd=blpop") : NULL;
        blocked = command && (!end || command < end);
        if (i > 5000) fail("not blocked", reply->str);
        freeReplyObject(reply);
        usleep(2000);
    }
    expect_integer(redisCommand(redis, "RPUSH q woken"), 1);
    redisReply *reply = expect(own, REDIS_REPLY_ARRAY, next(own));
    if (reply->elements != 2 || strcmp(reply->element[1]->str, "woken")) fail("BLPOP", NULL);
    freeReplyObject(reply);
    redisFree(own);
}

static void errors(void) {
    run(redis, "DEL err");
    run(redis, "RPUSH err x");
    for (int i = 0; i < 3; i++) expect_error(redisCommand(redis, "GET err"), "WRONGTYPE");
    expect_error(redisCommand(redis, "NOSUCH x"), "ERR unknown command");
}

static void binary_and_big(void) {
    char *big = malloc(BIG);
    for (int i = 0; i < BIG; i++) big[i] = (char)i;
    expect_ok(redisCommand(redis, "SET %b %b", big, (size_t)BINARY, big, (size_t)BINARY));
    for (int i = 0; i < 3; i++)
        expect_bytes(redisCommand(redis, "GET %b", big, (size_t)BINARY), REDIS_REPLY_STRING, big, BINARY);
    expect_ok(redisCommand(redis, "SET big %b", big, (size_t)BIG));
    for (int i = 0; i < 3; i++) expect_bytes(redisCommand(redis, "GET big"), REDIS_REPLY_STRING, big, BIG);
    expect_integer(redisCommand(redis, "DEL big %b", big, (size_t)BINARY), 2);
    free(big);
}

/* The event interface, with poll as its loop: the library says what it waits for. */
static int wants_read, wants_write, answered;
static void add_read(void *unused) { (void)unused, wants_read = 1; }
static void del_read(void *unused) { (void)unused, wants_read = 0; }
static void add_write(void *unused) { (void)unused, wants_write = 1; }
static void del_write(void *unused) { (void)unused, wants_write = 0; }

static void on_reply(redisAsyncContext *of, void *reply, void *wanted) {
    if (!reply) fail("event interface", of->errstr);
    char got[24];
    redisReply *got_reply = reply;
    snprintf(got, sizeof got, "%s", got_reply->type == REDIS_REPLY_STRING ? got_reply->str : "OK");
    if (strcmp(got, wanted)) fail(wanted, got);
    answered++;
}

static void runs_by_events(void) {
    redisAsyncContext *events = redisAsyncConnect("127.0.0.1", port);
    if (events->err) fail("event interface", events->errstr);
    events->ev.addRead = add_read, events->ev.delRead = del_read;
    events->ev.addWrite = add_write, events->ev.delWrite = del_write;
    wants_write = 1;
    for (int i = 0; i < 50; i++) {
        redisAsyncCommand(events, on_reply, "OK", "SET ev x");
        redisAsyncCommand(events, on_reply, "x", "GET ev");
    }
    while (answered < 100) {
        struct pollfd on = {events->c.fd, (short)((wants_read ? POLLIN : 0) | (wants_write ? POLLOUT : 0)), 0};
        if (poll(&on, 1, PATIENCE * 1000) < 1) fail("event interface", "silence");
        if (on.revents & POLLOUT) redisAsyncHandleWrite(events);
        if (on.revents & ~POLLOUT) redisAsyncHandleRead(events);
    }
    redisAsyncFree(events);
}

static void comes_back_after_being_cut(void) {
    redisContext *killer = connects(port);
    expect_ok(redisCommand(redis, "SET cut before"));
    redisReply *reply = redisCommand(killer, "CLIENT KILL TYPE normal SKIPME yes");
    if (expect(killer, REDIS_REPLY_INTEGER, reply)->integer < 1) fail("nobody was cut", NULL);
    freeReplyObject(reply);
    if ((reply = redisCommand(redis, "GET cut"))) fail("answered by a lost connection", reply->str);
    if (redisReconnect(redis) != REDIS_OK) fail("connect again", redis->errstr);
    expect_text(redisCommand(redis, "GET cut"), "before");
    expect_ok(redisCommand(redis, "SET cut after"));
    expect_text(redisCommand(redis, "GET cut"), "after");
    redisFree(killer);
}

static void reads_what_is_kept(void) {
    for (int i = 0; i < 4; i++) expect_text(redisCommand(redis, "GETRANGE kept 0 -1"), "kept");
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } steps[] = {
#define STEP(name) {#name, name}
        STEP(reads_what_is_kept), STEP(writes_and_reads), STEP(sees_a_write_from_outside), STEP(pipelines),
        STEP(transactions), STEP(watch_notices_a_write), STEP(publishes_and_subscribes),
        STEP(blocks_until_another_pushes), STEP(errors), STEP(binary_and_big), STEP(runs_by_events),
        STEP(comes_back_after_being_cut),
    };
    enum { STEPS = sizeof steps / sizeof *steps };
    if (argc < 3) fail("arguments", "PORT OUTSIDE");
    signal(SIGALRM, too_long);
    alarm(PATIENCE);
    port = atoi(argv[1]), outside_port = atoi(argv[2]);
    redis = connects(port), outside = connects(outside_port);
    for (int i = 0; i < STEPS; i++) at = steps[i].name, steps[i].run();
    printf("OK hiredis %d.%d.%d, %d steps\n", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH, STEPS);
    redisFree(redis), redisFree(outside);
    return 0;
}

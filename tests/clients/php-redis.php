<?php
// php-redis (phpredis), Debian's, with its defaults and with a persistent connection (its pool): what a web page does
// with Redis, through sidecache.

[, $port, $outside_port] = $argv;
$port = (int) $port;
$outside_port = (int) $outside_port;

/** No page may hang; the library's own default is to wait for ever. */
const PATIENCE = 20;

function connects(int $port, bool $persistent = false): Redis {
    $made = new Redis();
    $persistent ? $made->pconnect('127.0.0.1', $port) : $made->connect('127.0.0.1', $port);
    $made->setOption(Redis::OPT_READ_TIMEOUT, PATIENCE);
    return $made;
}

function equal($got, $wanted): void {
    if ($got !== $wanted) {
        throw new Exception('got ' . substr(var_export($got, true), 0, 300) . ', wanted ' . substr(var_export($wanted, true), 0, 300));
    }
}

function raises(string $text, callable $call): void {
    try {
        $got = $call();
    } catch (RedisException $e) {
        equal(str_contains($e->getMessage(), $text), true);
        return;
    }
    throw new Exception("no RedisException with '$text', but " . var_export($got, true));
}

function becomes(callable $read, $wanted): void {
    $end = microtime(true) + 10;
    while (($got = $read()) !== $wanted) {
        if (microtime(true) > $end) equal($got, $wanted);
        usleep(2000);
    }
}

/** What another connection does as soon as this program waits for it. */
function another(string ...$does): void {
    global $port, $outside_port;
    $words = array_map('escapeshellarg', [__DIR__ . '/another.sh', $port, $outside_port, ...$does]);
    exec(implode(' ', $words) . ' >/dev/null 2>&1 &');
}

$redis = connects($port);
$outside = connects($outside_port);

$steps = [
    'reads_what_is_kept' => function () use ($redis) {
        for ($i = 0; $i < 4; $i++) equal($redis->getRange('kept', 0, -1), 'kept');
    },

    'writes_and_reads' => function () use ($redis) {
        $redis->del('a', 'h');
        equal($redis->get('a'), false);
        equal($redis->set('a', '1'), true);
        for ($i = 0; $i < 4; $i++) equal($redis->get('a'), '1');
        equal($redis->incr('a'), 2);
        equal($redis->get('a'), '2');
        $redis->hMSet('h', ['f' => '1', 'g' => '2']);
        for ($i = 0; $i < 3; $i++) equal($redis->hGetAll('h'), ['f' => '1', 'g' => '2']);
        for ($i = 0; $i < 3; $i++) equal($redis->mGet(['a', 'none']), ['2', false]);
        equal($redis->set('e', 'x', ['px' => 20]), true);
        becomes(fn () => $redis->get('e'), false);
    },

    'sees_a_write_from_outside' => function () use ($redis, $outside) {
        foreach (['1', '2'] as $value) {
            $outside->set('o', $value);
            becomes(fn () => $redis->get('o'), $value);
        }
    },

    'a_persistent_connection_is_taken_up_again' => function () use ($port) {
        $first = connects($port, true);
        $first->set('persistent', '1');
        $id = $first->client('id');
        unset($first);
        $second = connects($port, true);
        equal($second->get('persistent'), '1');
        equal($second->client('id'), $id);
    },

    'serializes' => function () use ($port) {
        $own = connects($port);
        $own->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_PHP);
        $own->setOption(Redis::OPT_PREFIX, 'prefixed:');
        $own->set('session', ['user' => 7]);
        for ($i = 0; $i < 3; $i++) equal($own->get('session'), ['user' => 7]);
    },

    'pipelines' => function () use ($redis) {
        $redis->multi(Redis::PIPELINE);
        for ($i = 0; $i < 500; $i++) $redis->set("p:$i", "$i")->get("p:$i");
        $replies = $redis->exec();
        for ($i = 0; $i < 500; $i++) equal(array_slice($replies, 2 * $i, 2), [true, "$i"]);
    },

    'transactions' => function () use ($redis) {
        equal($redis->multi()->set('t', 1)->incr('t')->get('t')->exec(), [true, 2, '2']);
        $redis->multi();
        $redis->incr('t');
        $redis->discard();
        equal($redis->get('t'), '2');
        $redis->pipeline();
        equal($redis->multi()->incr('t')->get('t')->exec()->exec(), [[3, '3']]);
    },

    'watch_notices_a_write' => function () use ($redis, $outside) {
        foreach ([true, false] as $writes) {
            $redis->watch('w');
            if ($writes) $outside->incr('w');
            equal($redis->multi()->set('w', 1)->exec(), $writes ? false : [true]);
        }
    },

    'scripts' => function () use ($redis) {
        $redis->del('s');
        $sha = $redis->script('load', "return redis.call('INCRBY', KEYS[1], ARGV[1])");
        for ($i = 1; $i < 4; $i++) {
            equal($redis->evalSha($sha, ['s', 2], 1), 2 * $i);
            equal($redis->get('s'), (string) (2 * $i));
        }
    },

    'publishes_and_subscribes' => function () use ($port, $redis) {
        $sub = connects($port);
        another('publish', 'news', 'hello');
        $heard = [];
        $hear = function ($sub, $channel, $message) use (&$heard) {
            $heard[] = [$channel, $message];
            equal($sub->unsubscribe(['news', 'more']), ['news' => true, 'more' => true]);
            $sub->close();
        };
        // The library listens until its connection is lost; closing it from within is the way out.
        raises('closed', fn () => $sub->subscribe(['news', 'more'], $hear));
        equal($heard, [['news', 'hello']]);
        equal($sub->get('kept'), 'kept');
        equal($redis->publish('news', 'nobody'), 0);
    },

    'blocks_until_another_pushes' => function () use ($redis) {
        $redis->del('q');
        another('push', 'q', 'woken');
        equal($redis->blPop(['q'], PATIENCE), ['q', 'woken']);
    },

    'errors' => function () use ($redis) {
        $redis->del('err');
        $redis->rPush('err', 'x');
        // An error that is not one of the connection is a false, and its text is kept.
        for ($i = 0; $i < 3; $i++) {
            $redis->clearLastError();
            equal($redis->get('err'), false);
            equal(str_starts_with($redis->getLastError(), 'WRONGTYPE'), true);
        }
        equal($redis->rawCommand('NOSUCH', 'x'), false);
        equal(str_contains($redis->getLastError(), 'unknown command'), true);
    },

    'binary_and_big' => function () use ($redis) {
        $binary = implode('', array_map('chr', range(0, 255)));
        $big = str_repeat($binary, 4096);
        $redis->set($binary, $binary);
        for ($i = 0; $i < 3; $i++) equal($redis->get($binary), $binary);
        $redis->set('big', $big);
        for ($i = 0; $i < 3; $i++) equal($redis->get('big'), $big);
        equal($redis->del('big', $binary), 2);
    },

    'scans' => function () use ($redis) {
        $redis->mSet(array_combine(array_map(fn ($i) => "scan:$i", range(0, 999)), range(0, 999)));
        $redis->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
        $found = [];
        $cursor = null;
        while ($keys = $redis->scan($cursor, 'scan:*', 100)) $found += array_flip($keys);
        equal(count($found), 1000);
    },

    'comes_back_after_being_cut' => function () use ($port, $redis) {
        $redis->set('cut', 'before');
        $killer = connects($port);
        equal($killer->rawCommand('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes') >= 1, true);
        // The library looks before it sends, and connects again by itself; whoever is quicker is told.
        becomes(function () use ($redis) {
            try {
                return $redis->get('cut');
            } catch (RedisException) {
                return null;
            }
        }, 'before');
        equal($redis->set('cut', 'after'), true);
        equal($redis->get('cut'), 'after');
        // A transaction is not taken up again.
        $redis->watch('cut');
        $redis->multi();
        $killer->rawCommand('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
        raises('', fn () => $redis->incr('cut')->exec());
    },
];

set_error_handler(fn ($severity, $message) => throw new ErrorException($message));
foreach ($steps as $name => $step) {
    try {
        $step();
    } catch (Throwable $e) {
        fwrite(STDERR, "FAILED $name: {$e->getMessage()} (line {$e->getLine()})\n");
        exit(1);
    }
}
echo 'OK php-redis ', phpversion('redis'), ', ', count($steps), " steps\n";

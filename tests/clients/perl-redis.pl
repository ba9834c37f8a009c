#!/usr/bin/perl
# Redis.pm (Debian's libredis-perl) with its defaults: what an ordinary service does with Redis, through sidecache.
use strict;
use warnings;
use FindBin;
use Redis;
use Time::HiRes qw(sleep time);

my ($port, $outside_port) = @ARGV;
my $binary = join '', map { chr } 0 .. 255;
my $big = $binary x 4096;

sub connects {
    my ($to, @more) = @_;
    return Redis->new(server => "127.0.0.1:$to", @more);
}

sub shown { return defined $_[0] ? '"' . substr($_[0], 0, 300) . '"' : 'undef' }

sub equal {
    my ($got, $wanted) = @_;
    return if defined $got && defined $wanted ? $got eq $wanted : !defined $got && !defined $wanted;
    die 'got ' . shown($got) . ', wanted ' . shown($wanted) . ' at line ' . (caller)[2] . "\n";
}

sub equal_all {
    my ($got, @wanted) = @_;
    equal(join('|', map { $_ // 'undef' } @$got), join('|', map { $_ // 'undef' } @wanted));
}

sub raises {
    my ($text, $call) = @_;
    die "no error with '$text'\n" if eval { $call->(); 1 };
    die "the error is $@" unless $@ =~ /\Q$text\E/;
}

sub becomes {
    my ($wanted, $read) = @_;
    my $end = time + 10;
    while (1) {
        my $got = $read->();
        return if defined $wanted ? defined $got && $got eq $wanted : !defined $got;
        equal($got, $wanted) if time > $end;
        sleep 0.002;
    }
}

# What another connection does as soon as this program waits for it.
sub another {
    system("'$FindBin::Bin/another.sh' $port $outside_port @_ >/dev/null 2>&1 &");
}

my $redis = connects($port);
my $outside = connects($outside_port);

my @steps = (
    reads_what_is_kept => sub {
        equal($redis->getrange('kept', 0, -1), 'kept') for 1 .. 4;
    },

    writes_and_reads => sub {
        $redis->del('a', 'h');
        equal($redis->get('a'), undef);
        equal($redis->set(a => 1), 'OK');
        equal($redis->get('a'), 1) for 1 .. 4;
        equal($redis->incr('a'), 2);
        equal($redis->get('a'), 2);
        $redis->hmset('h', f => 1, g => 2);
        equal_all([$redis->hgetall('h')], f => 1, g => 2) for 1 .. 3;
        equal_all([$redis->mget('a', 'none')], 2, undef) for 1 .. 3;
        equal($redis->set(e => 'x', PX => 20), 'OK');
        becomes(undef, sub { $redis->get('e') });
    },

    sees_a_write_from_outside => sub {
        for my $value (1, 2) {
            $outside->set(o => $value);
            becomes($value, sub { $redis->get('o') });
        }
    },

    pipelines => sub {
        my @replies;
        for my $i (0 .. 499) {
            $redis->set("p:$i" => $i, sub { push @replies, $_[0] });
            $redis->get("p:$i", sub { push @replies, $_[0] });
        }
        $redis->wait_all_responses;
        equal_all(\@replies, map { ('OK', $_) } 0 .. 499);
    },

    transactions => sub {
        $redis->multi;
        equal($redis->set(t => 1), 'QUEUED');
        $redis->incr('t');
        $redis->get('t');
        equal_all([$redis->exec], 'OK', 2, 2);
        # In one go.
        my @replies;
        $redis->multi(sub { });
        $redis->incr('t', sub { });
        $redis->get('t', sub { });
        $redis->exec(sub { @replies = map { $_->[0] } @{$_[0]} });
        $redis->wait_all_responses;
        equal_all(\@replies, 3, 3);
        $redis->multi;
        raises('unknown command', sub { $redis->nosuch });
        raises('EXECABORT', sub { $redis->exec });
        equal($redis->get('t'), 3);
    },

    watch_notices_a_write => sub {
        for my $writes (1, 0) {
            $redis->watch('w');
            $outside->incr('w') if $writes;
            $redis->multi;
            $redis->set(w => 1);
            equal(scalar($redis->exec) ? 'written' : 'not written', $writes ? 'not written' : 'written');
        }
    },

    scripts => sub {
        $redis->del('s');
        my $sha = $redis->script_load("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        for my $i (1 .. 3) {
            equal($redis->evalsha($sha, 1, 's', 2), 2 * $i);
            equal($redis->get('s'), 2 * $i);
        }
    },

    publishes_and_subscribes => sub {
        my $sub = connects($port);
        my @heard;
        my $hear = sub { push @heard, join '|', @_ };
        $sub->subscribe('news', $hear);
        $sub->psubscribe('weather.*', $hear);
        equal($redis->publish('news', 'inside'), 1);
        # It returns when nothing has come for so long.
        becomes('inside|news|news', sub { $sub->wait_for_messages(0.05); $heard[0] });
        $outside->publish('weather.rome', $binary);
        becomes("$binary|weather.rome|weather.*", sub { $sub->wait_for_messages(0.05); $heard[1] });
        another('publish', 'news', 'later');
        becomes('later|news|news', sub { $sub->wait_for_messages(0.05); $heard[2] });
        equal(scalar(@heard), 3);
        raises('SUBSCRIBE mode', sub { $sub->get('kept') });
        $sub->unsubscribe('news', $hear);
        $sub->punsubscribe('weather.*', $hear);
        equal($sub->get('kept'), 'kept');
        equal($redis->publish('news', 'nobody'), 0);
    },

    blocks_until_another_pushes => sub {
        $redis->del('q');
        equal(scalar($redis->blpop('q', 0.05)), undef);
        another('push', 'q', 'woken');
        equal_all([$redis->blpop('q', 20)], 'q', 'woken');
    },

    errors => sub {
        $redis->del('err');
        $redis->rpush(err => 'x');
        raises('WRONGTYPE', sub { $redis->get('err') }) for 1 .. 3;
        raises('unknown command', sub { $redis->nosuch('x') });
        my @replies;
        $redis->get('err', sub { push @replies, $_[1] });
        $redis->get('kept', sub { push @replies, $_[0] });
        $redis->wait_all_responses;
        equal($replies[0] =~ /WRONGTYPE/ ? 1 : 0, 1);
        equal($replies[1], 'kept');
    },

    binary_and_big => sub {
        $redis->set($binary => $binary);
        equal($redis->get($binary), $binary) for 1 .. 3;
        $redis->set(big => $big);
        equal($redis->get('big') eq $big ? 1 : 0, 1) for 1 .. 3;
        equal($redis->del('big', $binary), 2);
    },

    scans => sub {
        $redis->mset(map { ("scan:$_" => $_) } 0 .. 999);
        my (%found, $keys);
        my $cursor = 0;
        do {
            ($cursor, $keys) = $redis->scan($cursor, MATCH => 'scan:*', COUNT => 100);
            @found{@$keys} = ();
        } while $cursor;
        equal(scalar(keys %found), 1000);
    },

    comes_back_after_being_cut => sub {
        # By default the library does not connect again; `reconnect`, in seconds, has it do so.
        my $patient = connects($port, reconnect => 10);
        $patient->set(cut => 'before');
        my $killer = connects($port);
        equal($killer->client_kill(qw(TYPE normal SKIPME yes)) >= 1 ? 1 : 0, 1);
        raises('', sub { $redis->get('cut') });
        $redis->connect;
        equal($redis->get('cut'), 'before');
        # It looks before it sends; whoever is quicker is told.
        becomes('before', sub { eval { $patient->get('cut') } });
        equal($patient->set(cut => 'after'), 'OK');
        equal($patient->get('cut'), 'after');
    },

    quits => sub {
        equal($redis->quit ? 1 : 0, 1);
        equal($redis->ping ? 1 : 0, 0);
    },
);

my $steps = @steps / 2;
my $name = 'start';
$SIG{ALRM} = sub { print STDERR "FAILED $name: no end within two minutes\n"; exit 1 };
alarm 120;
while (@steps) {
    ($name, my $step) = splice @steps, 0, 2;
    next if eval { $step->(); 1 };
    print STDERR "FAILED $name: $@";
    exit 1;
}
print "OK Redis.pm $Redis::VERSION, $steps steps\n";

# ruby-redis, Debian's, with its defaults: what an ordinary service does with Redis, through sidecache.
require "redis"
require "timeout"

PORT, OUTSIDE = ARGV.first(2).map(&:to_i)
PATIENCE = 120
BINARY = (0..255).to_a.pack("C*")
BIG = BINARY * 4096

def connect(port = PORT)
  Redis.new(port: port)
end

def equal(got, wanted)
  raise "got #{got.inspect[0, 300]}, wanted #{wanted.inspect[0, 300]}" unless got == wanted
end

def raises(error, text)
  got = yield
rescue error => e
  raise "#{error} says #{e.message.inspect}, wanted #{text} in it" unless e.message.include?(text)
else
  raise "no #{error}, but #{got.inspect}"
end

def becomes(wanted)
  deadline = Time.now + 10
  until (got = yield) == wanted
    equal(got, wanted) if Time.now > deadline
    sleep 0.002
  end
end

redis = connect
outside = connect(OUTSIDE)

steps = {
  reads_what_is_kept: lambda {
    4.times { equal(redis.getrange("kept", 0, -1), "kept") }
  },

  writes_and_reads: lambda {
    redis.del("a", "h")
    equal(redis.get("a"), nil)
    equal(redis.set("a", 1), "OK")
    4.times { equal(redis.get("a"), "1") }
    equal(redis.incr("a"), 2)
    equal(redis.get("a"), "2")
    redis.mapped_hmset("h", "f" => 1, "g" => 2)
    3.times { equal(redis.hgetall("h"), "f" => "1", "g" => "2") }
    3.times { equal(redis.mget("a", "none"), ["2", nil]) }
    equal(redis.set("e", "x", px: 20), "OK")
    becomes(nil) { redis.get("e") }
  },

  sees_a_write_from_outside: lambda {
    %w[1 2].each do |value|
      outside.set("o", value)
      becomes(value) { redis.get("o") }
    end
  },

  pipelines: lambda {
    replies = redis.pipelined { |pipe| 500.times { |i| pipe.set("p:#{i}", i) && pipe.get("p:#{i}") } }
    equal(replies, (0...500).flat_map { |i| ["OK", i.to_s] })
  },

  ten_threads_on_one_connection: lambda {
    threads = (0...10).map do |number|
      Thread.new do
        20.times do |i|
          redis.set("t:#{number}", i)
          equal(redis.get("t:#{number}"), i.to_s)
        end
      end
    end
    threads.each(&:join)
  },

  transactions: lambda {
    equal(redis.multi { |t| t.set("t", 1) && t.incr("t") && t.get("t") }, ["OK", 2, "2"])
    raises(Redis::CommandError, "unknown command") { redis.multi { |t| t.set("t", 1) && t.call("NOSUCH") } }
    equal(redis.get("t"), "2")
    counted = nil
    equal(redis.multi { |t| counted = t.incr("t") }, [3])
    equal(counted.value, 3)
  },

  watch_notices_a_write: lambda {
    [true, false].each do |writes|
      replies = redis.watch("w") do
        outside.incr("w") if writes
        redis.multi { |t| t.set("w", 1) }
      end
      equal(replies, writes ? nil : ["OK"])
    end
  },

  scripts: lambda {
    redis.del("s")
    sha = redis.script(:load, "return redis.call('INCRBY', KEYS[1], ARGV[1])")
    (1..3).each do |i|
      equal(redis.evalsha(sha, keys: ["s"], argv: [2]), 2 * i)
      equal(redis.get("s"), (2 * i).to_s)
    end
  },

  publishes_and_subscribes: lambda {
    sub = connect
    heard = []
    sub.subscribe("news") do |on|
      on.subscribe { equal(redis.publish("news", "inside"), 1) }
      on.message do |channel, message|
        heard << [channel, message]
        heard.length < 2 ? outside.publish("news", BINARY) : sub.unsubscribe
      end
    end
    equal(heard, [%w[news inside], ["news", BINARY.dup.force_encoding(heard.last.last.encoding)]])
    # By a pattern, and with an end to waiting.
    raises(Redis::TimeoutError, "") do
      sub.psubscribe_with_timeout(0.2, "weather.*") { |on| on.pmessage { |*message| heard << message } }
    end
    equal(sub.get("kept"), "kept")
    equal(redis.publish("news", "nobody"), 0)
  },

  blocks_until_another_pushes: lambda {
    redis.del("q")
    own = connect
    equal(own.blpop("q", timeout: 0.05), nil)
    popped = Thread.new { own.blpop("q", timeout: 20) }
    becomes(true) { outside.client(:list).any? { |c| c["flags"].include?("b") && c["cmd"] == "blpop" } }
    equal(redis.rpush("q", "woken"), 1)
    equal(popped.value, %w[q woken])
  },

  errors: lambda {
    redis.del("err")
    redis.rpush("err", "x")
    3.times { raises(Redis::CommandError, "WRONGTYPE") { redis.get("err") } }
    raises(Redis::CommandError, "unknown command") { redis.call("NOSUCH", "x") }
    raises(Redis::CommandError, "WRONGTYPE") { redis.pipelined { |pipe| pipe.get("err") && pipe.ping } }
    equal(redis.ping, "PONG")
  },

  binary_and_big: lambda {
    redis.set(BINARY, BINARY)
    3.times { equal(redis.get(BINARY).b, BINARY) }
    redis.set("big", BIG)
    3.times { equal(redis.get("big").b == BIG, true) }
    equal(redis.del("big", BINARY), 2)
  },

  scans: lambda {
    redis.mset(*(0...1000).flat_map { |i| ["scan:#{i}", i] })
    equal(redis.scan_each(match: "scan:*", count: 100).to_a.uniq.length, 1000)
  },

  comes_back_after_being_cut: lambda {
    redis.set("cut", "before")
    killer = connect
    equal(killer.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") >= 1, true)
    # The library tries once more by itself.
    equal(redis.get("cut"), "before")
    equal(redis.set("cut", "after"), "OK")
    equal(redis.get("cut"), "after")
    # It does not where it cannot know what has been executed.
    killer.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    raises(Redis::BaseConnectionError, "") { redis.without_reconnect { redis.incr("cut") } }
  },

  quits: lambda {
    equal(redis.quit, "OK")
  },
}

steps.each do |name, step|
  Timeout.timeout(PATIENCE) { step.call }
rescue StandardError => e
  where = e.backtrace.find { |line| line.start_with?(__FILE__) && !line.include?("equal") }
  abort "FAILED #{name}: #{e.class}: #{e.message}\n#{where}"
end
puts "OK ruby-redis #{Redis::VERSION}, #{steps.length} steps"

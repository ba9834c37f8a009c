-- lua-redis (redis-lua, Debian's) with its defaults: what a script does with Redis, through sidecache. It has neither a
-- pool nor retries: a lost connection is the program's to make again.
local redis_lua = require("redis")
local socket = require("socket")

local port, outside_port = tonumber(arg[1]), tonumber(arg[2])
local here = arg[0]:match("^(.*)/") or "."
local bytes = {}
for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
local BINARY = table.concat(bytes)
local BIG = BINARY:rep(4096)
local PATIENCE = 20

local function connect(to)
    local made = redis_lua.connect("127.0.0.1", to or port)
    made.network.socket:settimeout(PATIENCE)
    return made
end

local function shown(value)
    if type(value) ~= "table" then return tostring(value):sub(1, 300) end
    local parts = {}
    for i = 1, #value do parts[i] = shown(value[i]) end
    return "{" .. table.concat(parts, ", ") .. "}"
end

local function equal(got, wanted)
    if shown(got) ~= shown(wanted) then error("got " .. shown(got) .. ", wanted " .. shown(wanted), 2) end
end

local function raises(text, call, ...)
    local fine, message = pcall(call, ...)
    if fine then error("no error with " .. text, 2) end
    if not tostring(message):find(text, 1, true) then error("the error is " .. tostring(message), 2) end
end

local function becomes(wanted, read)
    local last = socket.gettime() + 10
    while true do
        local got = read()
        if got == wanted then return end
        if socket.gettime() > last then equal(got, wanted) end
        socket.sleep(0.002)
    end
end

-- What another connection does as soon as this program waits for it.
local function another(...)
    os.execute(("'%s/another.sh' %d %d %s >/dev/null 2>&1 &"):format(here, port, outside_port, table.concat({...}, " ")))
end

local redis, outside = connect(), connect(outside_port)
local steps, names = {}, {}

local function step(name, run)
    names[#names + 1] = name
    steps[name] = run
end

step("reads_what_is_kept", function()
    for _ = 1, 4 do equal(redis:getrange("kept", 0, -1), "kept") end
end)

step("writes_and_reads", function()
    redis:del("a", "h")
    equal(redis:get("a"), nil)
    equal(redis:set("a", 1), true)
    for _ = 1, 4 do equal(redis:get("a"), "1") end
    equal(redis:incr("a"), 2)
    equal(redis:get("a"), "2")
    redis:hmset("h", { f = 1, g = 2 })
    for _ = 1, 3 do
        local all = redis:hgetall("h")
        equal({ all.f, all.g }, { "1", "2" })
    end
    for _ = 1, 3 do equal(redis:mget("a", "none"), { "2", nil }) end
    redis:psetex("e", 20, "x")
    becomes(nil, function() return redis:get("e") end)
end)

step("sees_a_write_from_outside", function()
    for _, value in ipairs({ "1", "2" }) do
        outside:set("o", value)
        becomes(value, function() return redis:get("o") end)
    end
end)

step("pipelines", function()
    local replies = redis:pipeline(function(pipe)
        for i = 1, 500 do
            pipe:set("p:" .. i, i)
            pipe:get("p:" .. i)
        end
    end)
    equal(#replies, 1000)
    for i = 1, 500 do equal({ replies[2 * i - 1], replies[2 * i] }, { true, tostring(i) }) end
end)

step("transactions", function()
    local replies = redis:transaction(function(t)
        t:set("t", 1)
        t:incr("t")
        t:get("t")
    end)
    equal(replies, { true, 2, "2" })
    raises("unknown command", redis.raw_cmd, redis, "NOSUCH x")
    redis:multi()
    raises("unknown command", redis.raw_cmd, redis, "NOSUCH x")
    raises("EXECABORT", redis.exec, redis)
    equal(redis:get("t"), "2")
end)

step("watch_notices_a_write", function()
    -- Check and set: the library tries again after a conflict.
    local tries = 0
    redis:set("w", 1)
    redis:transaction({ watch = "w", cas = true, retry = 2 }, function(t)
        tries = tries + 1
        local value = t:get("w")
        if tries == 1 then outside:incr("w") end
        t:multi()
        t:set("w", value .. "0")
    end)
    equal(tries, 2)
    equal(redis:get("w"), "20")
    raises("aborted", function()
        redis:transaction({ watch = "w", cas = true, retry = 0 }, function(t)
            outside:incr("w")
            t:multi()
            t:set("w", 1)
        end)
    end)
end)

step("scripts", function()
    redis:del("s")
    local sha = redis:script("load", "return redis.call('INCRBY', KEYS[1], ARGV[1])")
    for i = 1, 3 do
        equal(redis:evalsha(sha, 1, "s", 2), 2 * i)
        equal(redis:get("s"), tostring(2 * i))
    end
end)

step("publishes_and_subscribes", function()
    local sub = connect()
    local heard = {}
    for message, abort in sub:pubsub({ subscribe = "news", psubscribe = "weather.*" }) do
        heard[#heard + 1] = message.kind .. " " .. message.channel
        if message.kind == "psubscribe" then
            equal(redis:publish("news", "inside"), 1)
        elseif message.kind == "message" then
            equal(message.payload, "inside")
            outside:publish("weather.rome", BINARY)
        elseif message.kind == "pmessage" then
            equal(message.payload, BINARY)
            abort()
        end
    end
    equal(heard, { "subscribe news", "psubscribe weather.*", "message news", "pmessage weather.rome", "unsubscribe news" })
    equal(sub:get("kept"), "kept")
    equal(redis:publish("news", "nobody"), 0)
end)

step("blocks_until_another_pushes", function()
    redis:del("q")
    equal(redis:blpop("q", "0.05"), nil)
    another("push", "q", "woken")
    equal(redis:blpop("q", PATIENCE), { "q", "woken" })
end)

step("errors", function()
    redis:del("err")
    redis:rpush("err", "x")
    for _ = 1, 3 do raises("WRONGTYPE", redis.get, redis, "err") end
    equal(redis:ping(), true)
end)

step("binary_and_big", function()
    redis:set(BINARY, BINARY)
    for _ = 1, 3 do equal(redis:get(BINARY) == BINARY, true) end
    redis:set("big", BIG)
    for _ = 1, 3 do equal(redis:get("big") == BIG, true) end
    equal(redis:del("big", BINARY), 2)
end)

step("scans", function()
    redis:pipeline(function(pipe)
        for i = 0, 999 do pipe:set("scan:" .. i, i) end
    end)
    local found, count, cursor = {}, 0, 0
    repeat
        local reply = redis:scan(cursor, { match = "scan:*", count = 100 })
        cursor = reply[1]
        for _, key in ipairs(reply[2]) do
            if not found[key] then found[key], count = true, count + 1 end
        end
    until cursor == "0"
    equal(count, 1000)
end)

step("comes_back_after_being_cut", function()
    redis:set("cut", "before")
    local killer = connect()
    equal(killer:raw_cmd("CLIENT KILL TYPE normal SKIPME yes") >= 1, true)
    raises("connection error", redis.get, redis, "cut")
    redis = connect()
    equal(redis:get("cut"), "before")
    redis:set("cut", "after")
    equal(redis:get("cut"), "after")
end)

step("quits", function()
    equal(redis:quit(), true)
end)

for _, name in ipairs(names) do
    local fine, message = pcall(steps[name])
    if not fine then
        io.stderr:write("FAILED " .. name .. ": " .. tostring(message) .. "\n")
        os.exit(1)
    end
end
print("OK lua-redis " .. redis_lua._VERSION .. ", " .. #names .. " steps")

-- One step of what many machines share: Redis does nothing else meanwhile.
--
-- KEYS[1]: what all keys begin with. ARGV: the verb, its arguments as JSON, the body of an answer.
-- The reply is JSON, but for answers. The clock is Redis' own, in seconds since the epoch.
--
-- Money is in whole picodollars, as decimal text: Redis adds those exactly up to 64 bits
-- (9.2 million dollars), Lua's own numbers only up to 53 (9,007 dollars).

local KEEP = 40 * 86400  -- seconds; the longest period of a budget or a quota is a month
local REPEATED = 300  -- seconds in which a verb may be repeated whose reply was lost
local FURTHEST = 600  -- seconds into the future that a moment may lie: the clock may be set back

local verb, ask = ARGV[1], cjson.decode(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local function key(...)
  return table.concat({KEYS[1], ...}, ':')
end

-- Money

local function negative(amount)
  if amount == '0' then return amount end
  return string.sub(amount, 1, 1) == '-' and string.sub(amount, 2) or '-' .. amount
end

local function add(window, field, amount)
  if amount == '0' then return end
  local done = redis.pcall('HINCRBY', window, field, amount)
  if type(done) == 'table' and done.err then
    assert(string.find(done.err, 'overflow'), done.err)
    redis.call('HSET', window, field, '9223372036854775807')
  end
end

local function amount_of(window, field)
  local amount = redis.call('HGET', window, field) or '0'
  return string.sub(amount, 1, 1) == '-' and '0' or amount
end

local function halves(amount)
  local digits = string.rep('0', 20 - #amount) .. amount
  return tonumber(string.sub(digits, 1, 10)), tonumber(string.sub(digits, 11))
end

-- Whether the amounts come to more than the limit.
local function exceeds(limit, ...)
  local high, low = 0, 0
  for _, amount in ipairs({...}) do
    local h, l = halves(amount)
    high, low = high + h, low + l
  end
  high, low = high + math.floor(low / 1e10), low % 1e10
  local h, l = halves(limit)
  return high > h or (high == h and low > l)
end

-- Leases of dollars: call:ID has owner, amount, windows (JSON), row, and `lost` once it expired.

local function lease_of(id)
  local found = redis.call('HMGET', key('call', id), 'owner', 'amount', 'windows', 'lost')
  if not found[1] then return nil end
  local windows = cjson.decode(found[3])
  return {id = id, owner = found[1], amount = found[2], windows = windows, lost = found[4]}
end

-- Count a lease towards its windows, or (with `back`) no more.
local function book(lease, back)
  local amount = back and negative(lease.amount) or lease.amount
  for _, name in ipairs(lease.windows) do
    local window = key('window', name)
    if redis.call('EXISTS', window) == 1 then
      if lease.lost then
        add(window, 'spent', amount)
      else
        add(window, 'held', amount)
        add(window, 'by:' .. lease.owner, amount)
        if redis.call('HGET', window, 'by:' .. lease.owner) == '0' then
          redis.call('HDEL', window, 'by:' .. lease.owner)
        end
      end
      redis.call('EXPIRE', window, KEEP)
    end
  end
end

local function forget(lease)
  redis.call('DEL', key('call', lease.id))
  redis.call('SREM', key('calls', lease.owner), lease.id)
  redis.call('ZREM', key('lost'), lease.id)
end

-- What owners hold who gave no sign of life for too long counts as spent until it is settled.
local function expire()
  local silent = redis.call('ZRANGEBYSCORE', key('owners'), '-inf', now, 'LIMIT', 0, 10)
  for _, owner in ipairs(silent) do
    for _, id in ipairs(redis.call('SMEMBERS', key('calls', owner))) do
      local lease = lease_of(id)
      if lease then
        book(lease, true)
        lease.lost = '1'
        book(lease)
        redis.call('HSET', key('call', id), 'lost', '1')
        redis.call('ZADD', key('lost'), now, id)
      end
    end
    redis.call('DEL', key('calls', owner))
    redis.call('ZREM', key('owners'), owner)
  end
  redis.call('ZREMRANGEBYSCORE', key('lost'), '-inf', now - KEEP)
end

-- Windows of budgets: a log of those that were begun, numbered, so that every process knows which
-- there are, whoever has begun them.

local function begin(window)
  if redis.call('EXISTS', key('window', window.key)) == 1 then return end
  redis.call('HSET', key('window', window.key), 'spent', '0', 'held', '0', 'warned', '0')
  redis.call('EXPIRE', key('window', window.key), KEEP)
  -- A list that began anew never has the number of an older one.
  redis.call('SETNX', key('version'), math.floor(now))
  redis.call('ZADD', key('windows'), redis.call('INCR', key('version')), window.about)
end

local function news()
  local version = tonumber(redis.call('GET', key('version')) or '0')
  if version == ask.version then return nil end
  local first = version < ask.version and '-inf' or '(' .. ask.version  -- it began anew
  local found = redis.call('ZRANGEBYSCORE', key('windows'), first, '+inf')
  return {version = version, windows = found}
end

-- Why the amount does not fit into a window; nothing where it does.
local function refusal(number, window, amount)
  local name = key('window', window.key)
  local spent, held = amount_of(name, 'spent'), amount_of(name, 'held')
  if not exceeds(window.limit, spent, held, amount) then return nil end
  local holders, fields = {}, redis.call('HGETALL', name)
  for n = 1, #fields, 2 do
    local owner = string.match(fields[n], '^by:(.*)$')
    if owner and owner ~= ask.owner then
      local until_ = redis.call('ZSCORE', key('owners'), owner) or '0'
      table.insert(holders, {owner, fields[n + 1], until_})
    end
  end
  local never = exceeds(window.limit, spent, amount)
  return {window = number, spent = spent, held = held, never = never, holders = holders}
end

-- Units of a minute: `token_bucket.Draw.apply`. A bucket is {units, back, burst, rate}.

local function drawn(draw)
  local lane = key('lane', draw.lane)
  local state = redis.call('HMGET', lane, 'requests', 'tokens', 'quiet')
  for n = 1, 3 do
    state[n] = state[n] and math.min(tonumber(state[n]), now + FURTHEST) or -math.huge
  end
  local wait, latest, changes = 0, now, {}
  local quiet = draw.pause > 0 and math.max(state[3], now + draw.pause) or state[3]
  for n, name in ipairs({'requests', 'tokens'}) do
    local bucket = draw[name]
    if bucket ~= cjson.null then
      local units, back, burst, rate = unpack(bucket)
      local full = math.max(state[n], now) + -back / rate
      local own = full - now - (burst - math.min(units, burst)) / rate
      if own > 1e-9 then wait = math.max(wait, own) end
      if quiet <= now then full = math.max(full, now) + units / rate end
      latest = math.max(latest, full)
      table.insert(changes, name)
      table.insert(changes, string.format('%.17g', full))
    end
  end
  if quiet > now then
    table.insert(changes, 'quiet')
    table.insert(changes, string.format('%.17g', quiet))
    latest = math.max(latest, quiet)
    wait = now - quiet
  end
  local function keep()
    if #changes == 0 then return end
    redis.call('HSET', lane, unpack(changes))
    redis.call('EXPIRE', lane, math.ceil(latest - now) + FURTHEST)
  end
  return wait, keep
end

-- Units of longer windows: `protocols.Quota.spent`. Which has no room, or what to keep.
local function quotas_spent(quotas)
  local after = {}
  for number, quota in ipairs(quotas) do
    local name = key('quota', quota.name)
    local stored = after[name]
    if not stored then
      local found = redis.call('HMGET', name, 'window', 'used')
      stored = {tonumber(found[1]) or quota.window, tonumber(found[2]) or 0}
    end
    local window, used = unpack(stored)
    if quota.units < 0 then
      if window == quota.window then used = math.max(0, used + quota.units) end
    else
      local late = window == quota.window or window == quota.window + 1
      used = (late and used or 0) + quota.units
      if used > quota.most then return number end
      window = late and window or quota.window
    end
    after[name] = {window, used}
  end
  return nil, after
end

local verbs = {}

function verbs.begin()
  for _, window in ipairs(ask.begun) do begin(window) end
  return cjson.encode({})
end

-- All of it or nothing: dollars of windows, units of quotas, units of a minute.
function verbs.lease()
  local repeated = redis.call('GET', key('done', ask.id))
  if repeated then return repeated end
  expire()
  local hold, before = ask.hold, nil
  if hold ~= cjson.null then
    local found = news()
    if found then return cjson.encode({news = found}) end
    before = lease_of(hold.id)
    for _, window in ipairs(hold.begun) do begin(window) end
    if before then book(before, true) end
    local denied
    for number, window in ipairs(hold.windows) do
      local this = window.limit and refusal(number, window, hold.amount)
      -- One for which waiting does not help, if there is such a one.
      if this and (not denied or (this.never and not denied.never)) then denied = this end
    end
    if denied then
      if before then book(before) end
      return cjson.encode({denied = denied})
    end
  end
  local full, spent = quotas_spent(ask.quotas)
  local wait, keep = 0, nil
  if not full and ask.draw ~= cjson.null then
    wait, keep = drawn(ask.draw)
    keep()
  end
  if full or wait < 0 then
    if before then book(before) end
    if full then return cjson.encode({full = full}) end
    local reply = cjson.encode({wait = string.format('%.17g', wait)})
    redis.call('SET', key('done', ask.id), reply, 'PX', math.ceil(math.min(REPEATED, -wait) * 1000))
    return reply
  end
  for name, stored in pairs(spent) do
    redis.call('HSET', name, 'window', string.format('%.0f', stored[1]),
      'used', string.format('%.0f', stored[2]))
    redis.call('EXPIRE', name, KEEP)
  end
  if hold ~= cjson.null then
    if before then forget(before) end
    local call = key('call', hold.id)
    local windows = {}
    for _, window in ipairs(hold.windows) do table.insert(windows, window.key) end
    local counted = #windows > 0 and cjson.encode(windows) or '[]'
    redis.call('HSET', call, 'owner', ask.owner, 'amount', hold.amount, 'windows', counted,
      'row', hold.row)
    redis.call('EXPIRE', call, KEEP)
    redis.call('SADD', key('calls', ask.owner), hold.id)
    redis.call('ZADD', key('owners'), now + ask.silence, ask.owner)
    book(lease_of(hold.id))
  end
  local reply = cjson.encode({wait = string.format('%.17g', wait)})
  if ask.draw ~= cjson.null or #ask.quotas > 0 then
    redis.call('SET', key('done', ask.id), reply, 'EX', REPEATED)
  end
  return reply
end

-- End a lease, and charge `spent` to its windows and `windows`; the shares reached anew of those to
-- warn at. Without a lease `before` is what the call counted at already.
function verbs.settle()
  local repeated = redis.call('GET', key('done', ask.id))
  if repeated then return repeated end
  expire()
  local found = news()
  if found then return cjson.encode({news = found}) end
  local lease = lease_of(ask.call)
  local names, seen = {}, {}
  for _, list in ipairs({lease and lease.windows or {}, ask.windows}) do
    for _, name in ipairs(list) do
      if not seen[name] then
        seen[name] = true
        table.insert(names, name)
      end
    end
  end
  if lease then
    book(lease, true)
    forget(lease)
  else
    book({amount = ask.before, windows = names, lost = '1'}, true)
  end
  book({amount = ask.spent, windows = names, lost = '1'})
  local warnings = {}
  for _, name in ipairs(names) do
    local window, reached = key('window', name), nil
    for _, share in ipairs(ask.shares[name] or {}) do  -- ascending: {share, its picodollars}
      if exceeds(amount_of(window, 'spent'), share[2]) then break end
      reached = share[1]
    end
    local warned = tonumber(redis.call('HGET', window, 'warned') or 'inf')
    if reached and tonumber(reached) > warned then
      redis.call('HSET', window, 'warned', reached)
      table.insert(warnings, {name, reached, amount_of(window, 'spent')})
    end
  end
  local reply = cjson.encode({warnings = warnings})
  redis.call('SET', key('done', ask.id), reply, 'EX', REPEATED)
  return reply
end

function verbs.usage()
  expire()
  local window = key('window', ask.window)
  return cjson.encode({
    begun = redis.call('EXISTS', window) == 1,
    spent = amount_of(window, 'spent'),
    held = amount_of(window, 'held'),
  })
end

function verbs.used()
  local found = redis.call('HMGET', key('quota', ask.name), 'window', 'used')
  return cjson.encode({used = tonumber(found[1]) == ask.window and tonumber(found[2]) or 0})
end

-- The owner lives: what it holds and claims stays its own.
function verbs.extend()
  expire()
  if redis.call('EXISTS', key('calls', ask.owner)) == 1 then
    redis.call('ZADD', key('owners'), now + ask.silence, ask.owner)
  end
  for _, name in ipairs(ask.claims) do
    if redis.call('GET', key('claim', name)) == ask.owner then
      redis.call('PEXPIRE', key('claim', name), ask.claim_ms)
    end
  end
  return cjson.encode({})
end

-- Answers, and who is getting them.

function verbs.claim()
  local claim = key('claim', ask.name)
  local owner = redis.call('GET', claim)
  if owner and owner ~= ask.owner then return cjson.encode({claim = 'theirs'}) end
  redis.call('SET', claim, ask.owner, 'PX', ask.claim_ms)
  local kept = redis.call('EXISTS', key('answer', ask.name)) == 1
  return cjson.encode({claim = kept and 'kept' or 'ours'})
end

function verbs.release()
  if redis.call('GET', key('claim', ask.name)) == ask.owner then
    redis.call('DEL', key('claim', ask.name))
  end
  return cjson.encode({})
end

function verbs.put()
  redis.call('SET', key('answer', ask.name), ARGV[3], 'PX', ask.keep_ms)
  return verbs.release()
end

return verbs[verb]()

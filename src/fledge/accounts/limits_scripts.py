"""What Redis runs, each at once and undivided: the arithmetic of `limits`, in Lua.

Times are the server's, so instances may have any. Where its clock goes back, as at a failover,
nothing leaks for that moment, and all goes on from there.

KEYS[1] is a hash with a holder's books: `at` (ms), `requests` and `tokens` in parts, and
`spent:MONTH` in tokens. It is gone when nothing is on them. KEYS[2] is a sorted set of what is
reserved, by the time (ms) at which a reservation lapses whose instance does not renew it: as
NAME:TOKENS:MONTH, so that whoever finds it lapsed can give back what it set aside.
"""

_BOOKS = """
local NAME, TOKENS, PER_MINUTE, TOKENS_PER_MINUTE, MONTH, SPENT = 1, 2, 3, 4, 5, 6
local PARTS, BUDGET_KEPT_MS = 60000, 32 * 24 * 3600 * 1000

local function text(number)
  return string.format('%.0f', number)
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local reserved = tonumber(ARGV[TOKENS])
local per_minute = tonumber(ARGV[PER_MINUTE])
local tokens_per_minute = tonumber(ARGV[TOKENS_PER_MINUTE])
local counted = tonumber(ARGV[SPENT])
local has_budget = counted >= 0
local spent_field = 'spent:' .. ARGV[MONTH]
local book = redis.call('HMGET', KEYS[1], 'at', 'requests', 'tokens', spent_field)
local elapsed = math.max(0, now - (tonumber(book[1]) or now))

local function leaked(used, limit)
  if limit < 0 then return 0 end
  return math.max(0, (tonumber(used) or 0) - limit * elapsed)
end

local requests = leaked(book[2], per_minute)
local tokens = leaked(book[3], tokens_per_minute)
local spent = math.max(tonumber(book[4]) or 0, counted)

local function correct(more)
  tokens = math.max(0, tokens + more * PARTS)
  spent = math.max(0, spent + more)
end

local function save()
  local fields = {'at', text(now), 'requests', text(requests), 'tokens', text(tokens)}
  local keep = 1000
  if per_minute > 0 then keep = keep + requests / per_minute end
  if tokens_per_minute > 0 then keep = math.max(keep, 1000 + tokens / tokens_per_minute) end
  if has_budget then
    fields[7], fields[8] = spent_field, text(spent)
    keep = BUDGET_KEPT_MS
  end
  redis.call('HSET', KEYS[1], unpack(fields))
  redis.call('PEXPIRE', KEYS[1], text(keep))
end
"""

RESERVE = (
    _BOOKS
    + """
local CONCURRENT, BUDGET, LEASE_MS = 7, 8, 9
local concurrent = tonumber(ARGV[CONCURRENT])
local budget = tonumber(ARGV[BUDGET])
local lease = tonumber(ARGV[LEASE_MS])

local lapsed = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now), 'LIMIT', 0, 1000)
for _, one in ipairs(lapsed) do
  redis.call('ZREM', KEYS[2], one)
  local set_aside, month = string.match(one, ':(%d+):([%d-]*)$')
  if month == ARGV[MONTH] then
    correct(-tonumber(set_aside))
  else
    tokens = math.max(0, tokens - tonumber(set_aside) * PARTS)
  end
end
spent = math.max(spent, counted)

local running = redis.call('ZCOUNT', KEYS[2], '(' .. text(now), '+inf')
local may_pass = (per_minute < 0 or requests + PARTS <= per_minute * PARTS)
  and (tokens_per_minute < 0 or tokens + reserved * PARTS <= tokens_per_minute * PARTS)
  and (concurrent < 0 or running < concurrent)
  and (budget < 0 or spent + reserved <= budget)
local answer = {may_pass and 1 or 0, text(requests), text(tokens), running, text(spent)}

if may_pass then
  requests = requests + PARTS
  correct(reserved)
  redis.call('ZADD', KEYS[2], text(now + lease), ARGV[NAME])
  redis.call('PEXPIRE', KEYS[2], text(has_budget and BUDGET_KEPT_MS or 10 * lease))
end
if may_pass or #lapsed > 0 then save() end
return answer
"""
)
"""ARGV: the reservation and its tokens; the limits of requests and tokens a minute; the month and
what was counted in it; the limits of running requests and of the month; the lease. A limit of -1
does not limit, and with -1 counted there is no budget.

Returns whether it may pass, and what was on the books before."""

SETTLE = (
    _BOOKS
    + """
local ACTUAL, IS_AGAIN = 7, 8
local actual = tonumber(ARGV[ACTUAL])
if redis.call('ZREM', KEYS[2], ARGV[NAME]) == 1 then
  correct(actual - reserved)
  save()
elseif actual > 0 and ARGV[IS_AGAIN] == '0' then
  -- it has lapsed, or the server has lost it: the meter has counted it, or will, for the month
  tokens = tokens + actual * PARTS
  save()
end
return 1
"""
)
"""ARGV: as `RESERVE` up to what was counted; the tokens that it was; 1 if this may have been said
before. Nothing is charged twice."""

RENEW = """
local LEASE_MS = 1
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lease = tonumber(ARGV[LEASE_MS])
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + lease), ARGV[i])
end
if redis.call('PTTL', KEYS[1]) < 2 * lease then
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 10 * lease))
end
return 1
"""
"""KEYS: the sorted set alone. ARGV: the lease, and the reservations that are still running: also
those that the server has lost, so that their places are taken again."""

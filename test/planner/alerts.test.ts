// What people are told, once for all processes, and what happens when Telegram is away: a real database, and fakes on real sockets.

import t from 'tap'
import { openAlerts } from '../../bin/alerts.ts'
import { createDirect } from '../../planner/alerts/telegram.ts'
import { claimAlerts, confirmAlerts } from '../../store/alerts.ts'
import { createPool } from '../../store/pool.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'
import { createRows, createTeller, hang, json, refuses, reset, startBotApi, startTelegramMcp, token } from './alerts-support.ts'

t.test('a machine that goes is told once; when it is back soon, that message says so, and later a new one does', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look, logged } = createTeller(t, pool, { bot })
  await rows.machine('rtx', 'up')
  await rows.machine('new', 'unknown')
  await rows.machine('found', 'down', { state: 'proposed' })
  await look()
  t.same(bot.calls, [], 'nothing to say')

  await rows.machine('rtx', 'down', { health_at: new Date('2026-03-04T05:06:07Z') })
  await look()
  await look()
  await createTeller(t, pool, { bot }).look()
  t.same(
    bot.calls.map(({ path, body }) => [path, body]),
    [
      [
        `/bot${token}/sendMessage`,
        {
          chat_id: -100777,
          text: '<b>Machine away</b>\n<code>rtx</code> is away since 2026-03-04 05:06 UTC: <code>it refuses connections</code>.',
          parse_mode: 'HTML',
          link_preview_options: { is_disabled: true }
        }
      ]
    ],
    'also not by a process that came later'
  )

  await rows.machine('rtx', 'up', { health_at: new Date('2026-03-04T05:09:00Z') })
  await look()
  await look()
  t.match(bot.calls.slice(1), [
    {
      what: 'editMessageText',
      body: {
        chat_id: -100777,
        message_id: 1,
        parse_mode: 'HTML',
        text: '<b>Machine back</b>\n<code>rtx</code> is back. It was away from 2026-03-04 05:06 UTC to 2026-03-04 05:09 UTC.'
      }
    }
  ])
  t.equal(bot.calls.length, 2)

  await rows.machine('rtx', 'down')
  await look()
  t.equal(bot.calls.length, 2, 'within 10 minutes nobody is told again')
  await rows.later()
  await look()
  t.match(bot.sent()[1], /Machine away/)
  await rows.later()
  await look()
  t.equal(bot.calls.length, 3, 'what has not changed is not repeated')
  await rows.machine('rtx', 'up')
  await look()
  t.match(bot.sent()[2], /Machine back/, 'a message of its own, that somebody notices')
  t.same(logged, [])
})

t.test('of many processes that look at once, one tells it', async t => {
  const { pool, connection } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const tellers = Array.from({ length: 4 }, () => {
    const own = createPool(connection, { max: 3, name: 'test', onError: () => {} })
    t.teardown(() => own.end())
    return createTeller(t, own, { bot })
  })
  await rows.machine('a', 'down')
  await rows.machine('b', 'down')
  await rows.chore('models.sync', false, 'openrouter: away')
  for (let round = 0; round < 3; round++) await Promise.all(tellers.map(({ look }) => look()))
  t.equal(bot.calls.length, 3)
  await rows.later()
  await rows.machine('a', 'up')
  await Promise.all(tellers.map(({ look }) => look()))
  t.equal(bot.calls.length, 4)
  t.match(bot.sent()[3], /Machine back/)
})

t.test('a process that died while it told something delays it, and nothing is lost', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { alerts, look } = createTeller(t, pool, { bot })
  await rows.machine('rtx', 'down')
  bot.behave(hang)
  const leaving = new AbortController()
  const dying = alerts.look(leaving.signal)
  await until('the message is on its way', () => bot.calls.length === 1)
  leaving.abort(new Error('the process leaves'))
  await dying
  bot.behave(null)
  await look()
  t.equal(bot.calls.length, 1, 'it may have arrived')
  await rows.later()
  await look()
  t.equal(bot.calls.length, 2)
})

t.test('a machine that is blocked or removed is not spoken of any more', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  await rows.machine('rtx', 'down')
  await look()
  await rows.machine('rtx', 'down', { state: 'blocked' })
  await rows.later()
  await look()
  t.equal(bot.calls.length, 1)
  await rows.machine('rtx', 'down')
  await look()
  t.equal(bot.calls.length, 2, 'approved again, it is news')
})

t.test('a machine on which a load hangs is told once, and when loading goes on', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  await rows.machine('rtx', 'up', { stuck_model: 'big:<70b>', stuck_until: new Date(Date.now() + 600_000) })
  await look()
  await look()
  t.match(
    bot.calls.map(({ body }) => body.text),
    [/^<b>Loading hangs<\/b>\n<code>rtx<\/code> does not finish loading <code>big:&lt;70b&gt;<\/code>/]
  )
  await rows.later()
  await pool.query('update devices set stuck_until = now()')
  await look()
  t.match(bot.calls[1]?.body.text, /<b>Loading goes on<\/b>/)
})

t.test('a queue in which jobs wait while nothing runs is told, and when it moves again', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  const longAgo = new Date(Date.now() - 6 * 60_000)
  const id = await rows.job({ created_at: longAgo, run_at: longAgo })
  await rows.job({})

  const process = '00000000-0000-4000-8000-000000000001'
  await pool.query(`insert into processes (id, host, pid, version, seen_at) values ($1, 'h', 1, 'v', now() + interval '1 hour')`, [process])
  await rows.machine('rtx', 'up')
  const cases: readonly [what: string, begin: string, end: string][] = [
    [
      'another job runs',
      `update jobs set status = 'running', process_id = '${process}' where id <> '${id}'`,
      `update jobs set status = 'queued', process_id = null`
    ],
    [
      'a machine answers a request that is no job',
      `insert into device_slots (device_id, slot_no, process_id, attempt_id) values ('rtx', 1, '${process}', '${process}')`,
      'delete from device_slots'
    ],
    [
      'another job got done just now',
      `update jobs set status = 'done', finished_at = now() where id <> '${id}'`,
      `update jobs set status = 'queued', finished_at = null`
    ],
    ['it waits on purpose', `update jobs set run_at = now() + interval '10 minutes', ready = false`, 'update jobs set run_at = now()'],
    [
      'it was tried a minute ago',
      `insert into job_attempts (job_id, attempt, attempt_id, process_id, ended_at) values ('${id}', 1, '${process}', '${process}', now() - interval '1 minute')`,
      'delete from job_attempts'
    ]
  ]
  for (const [what, begin, end] of cases) {
    await pool.query(begin)
    await look()
    t.same(bot.sent(), [], what)
    await pool.query(end)
  }

  // Set aside for a moment, because nothing can run it: it waits all the same.
  await pool.query('update jobs set ready = false')
  await look()
  const since = `${longAgo.toISOString().slice(0, 16).replace('T', ' ')} UTC`
  t.same(bot.sent(), [`<b>Queue stuck</b>\n1 job waits, the oldest since ${since}, and nothing runs.`])
  await rows.later()
  await pool.query(`update jobs set status = 'running', process_id = '${process}' where id = '${id}'`)
  await look()
  await look()
  t.same(bot.sent().slice(1), ['<b>Queue moves</b>\nThe queue is not stuck any more.'])
})

t.test('jobs of a source with a model that fail again and again are told, with the code and without the text of their errors', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  await rows.jobs('team', 'llama3.2:3b', ['error', 'error', 'done', 'error', 'error'])
  await rows.jobs('other', 'llama3.2:3b', ['error'])
  await look()
  t.same(bot.sent(), [], 'two in a row are not three')
  await rows.jobs('team', 'llama3.2:3b', ['cancelled', 'error'], 'deadline_exceeded')
  await look()
  await look()
  const failed =
    'Jobs of <code>team</code> with <code>llama3.2:3b</code> failed 3 times in a row, the last one with <code>deadline_exceeded</code>.'
  t.same(bot.sent(), [`<b>Jobs fail</b>\n${failed}`])
  await rows.later()
  await rows.jobs('team', 'llama3.2:3b', ['error'])
  await look()
  t.equal(bot.calls.length, 1, 'a fourth one is nothing new')
  await rows.jobs('team', 'llama3.2:3b', ['done'])
  await look()
  t.same(bot.sent().slice(1), ['<b>Jobs succeed</b>\nJobs of <code>team</code> with <code>llama3.2:3b</code> succeed again.'])

  await rows.jobs('old', 'm', ['error', 'error', 'error'])
  await look()
  t.equal(bot.sent().length, 3)
  await pool.query(`update jobs set finished_at = finished_at - interval '1 hour'`)
  await rows.later()
  await look()
  t.equal(bot.sent().length, 3, 'what is long ago is neither well nor bad')
  await rows.jobs('old', 'm', ['error', 'error', 'error'])
  await look()
  t.equal(bot.sent().length, 4)
  const strict = createTeller(t, pool, { bot, failThreshold: 1 })
  await rows.jobs('one', 'm', ['error'])
  await strict.look()
  t.match(bot.sent()[4], '<code>one</code> with <code>m</code> failed 1 times')
})

t.test('a sync that failed is told with its reason, and other chores without theirs', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  await rows.chore('models.sync', false, 'openrouter: connect ECONNREFUSED, key sk-or-v1-0123456789abcdef')
  await rows.chore('later', null, null)
  await rows.chore('alerts', false, 'its own')
  await look()
  t.same(bot.sent(), ['<b>Failed</b>\nThe sync of the models failed: <code>openrouter: connect ECONNREFUSED, key sk-[hidden]</code>.'])
  await rows.later()
  await rows.chore('models.sync', true, 'openrouter: 5 of 9 models offered')
  await rows.chore('poems', false, 'a canary that sings')
  await look()
  t.same(bot.sent().slice(1).sort(), [
    '<b>Done again</b>\nThe sync of the models works again.',
    '<b>Failed</b>\nThe chore <code>poems</code> failed.'
  ])
})

t.test('the day is told once, at 08:00 UTC or later, with its figures', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const one = createTeller(t, pool, { bot })
  const other = createTeller(t, pool, { bot })
  t.equal(await one.summary(), 'nothing is due')
  t.same(bot.calls, [], 'the first day begins with the first call')

  const { rows: days } = await pool.query(`select (now() at time zone 'UTC' - interval '8 hours')::date::text as day`)
  const day: string = days[0].day
  const until = new Date(`${day}T08:00:00Z`).getTime()
  const cost = (hoursBefore: number, more: object) => ({
    attempt_id: crypto.randomUUID(),
    request_id: crypto.randomUUID(),
    source: 'team',
    provider: 'openrouter',
    model: 'm',
    outcome: 'ok',
    prompt_tokens: 1_000,
    completion_tokens: 234,
    cached_tokens: 0,
    reasoning_tokens: 0,
    cost_nano_usd: 1_500_000_000,
    price_source: 'provider',
    estimated: false,
    duration_ms: 1,
    started_at: new Date(until - hoursBefore * 3_600_000),
    finished_at: new Date(until - hoursBefore * 3_600_000),
    ...more
  })
  const request = crypto.randomUUID()
  const costs = [
    cost(24.1, {}),
    cost(-0.1, {}),
    cost(24, { request_id: request, outcome: 'failed', cost_nano_usd: null, price_source: 'unknown' }),
    cost(23, { request_id: request }),
    cost(0.1, { provider: 'ollama', cost_nano_usd: 12_300_000, price_source: 'electricity' })
  ]
  await pool.query('insert into llm_costs select * from jsonb_populate_recordset(null::llm_costs, $1)', [JSON.stringify(costs)])
  const ended = { status: 'done', finished_at: new Date(until - 60_000) }
  for (const row of [ended, ended, { ...ended, status: 'error' }, { ...ended, finished_at: new Date(until) }, {}]) await rows.job(row)
  await rows.machine('rtx', 'up')
  await rows.machine('mini', 'down')

  await pool.query(`update alerts set told = ($1::date - 1)::text where subject = 'summary'`, [day])
  await Promise.all([one.summary(), other.summary()])
  await other.summary()
  t.same(bot.sent(), [
    [
      `<b>The day until ${day} 08:00 UTC</b>`,
      'Requests: 2 (3 calls, 1 failed), 3,702 tokens',
      'Cost: $1.51, and 1 calls without a known price',
      '· <code>openrouter</code>: 2 calls, $1.50',
      '· <code>ollama</code>: 1 calls, $0.0123',
      'Jobs: 2 done, 1 failed, 0 cancelled, 1 waiting now',
      'Machines: 1 of 2 are there; away: <code>mini</code>'
    ].join('\n')
  ])

  await pool.query(`update alerts set told = ($1::date - 3)::text, said_at = now() - interval '3 days' where subject = 'summary'`, [day])
  bot.behave(refuses(502, 'Bad Gateway'))
  t.equal(await one.summary(), 'it was not told')
  bot.behave(null)
  await one.summary()
  t.equal(bot.sent().length, 3, 'what was not told is told with the next look; days that nobody was there for are not made up for')
  await one.look()
  t.equal(bot.sent().length, 4, 'its row is no trouble to the others')
})

t.test('through telegram-mcp it is sent and changed as its wire has it', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const mcp = await startTelegramMcp(t)
  const { look } = createTeller(t, pool, { mcp })
  await rows.machine('rtx', 'down')
  await look()
  await rows.machine('rtx', 'up')
  await look()
  t.match(
    mcp.calls.map(({ path, body }) => [path, body]),
    [
      ['/v1/messages/send', { chat_id: -100777, text: /^<b>Machine away/, parse_mode: 'HTML', bot_id: 7, disable_web_page_preview: true }],
      ['/v1/messages/1/edit', { text: /^<b>Machine back/, parse_mode: 'HTML', bot_id: 7 }]
    ]
  )
})

t.test('what telegram-mcp does not take goes straight to Telegram, and its outage is logged once', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const [mcp, bot] = [await startTelegramMcp(t), await startBotApi(t)]
  const one = createTeller(t, pool, { mcp, bot, timeoutMs: 300 })
  const other = createTeller(t, pool, { mcp, bot, timeoutMs: 300 })
  const failures = [
    json(502, { detail: `Telegram failed: https://api.telegram.org/bot${token}/sendMessage` }),
    json(500, 'oops'),
    json(200, { hello: 'I am another service' }),
    json(302, {}, { location: bot.url }),
    reset,
    hang
  ]
  for (const [index, failure] of failures.entries()) {
    mcp.behave(failure)
    await rows.machine(`m${index}`, 'down')
    await (index % 2 === 0 ? one : other).look()
    t.equal(bot.sent().length, index + 1)
    t.match(bot.sent()[index], `<code>m${index}</code>`)
  }
  t.equal(one.logged.length + other.logged.length, 1, 'over all processes')
  t.match(one.logged[0], /by telegram-mcp; .*502 Telegram failed: https:\/\/api.telegram.org\/bot\[hidden\]\/sendMessage/)

  await rows.machine('m0', 'up')
  await one.look()
  t.match(bot.calls.at(-1), { what: 'editMessageText', body: { message_id: 1 } }, 'where it was sent, it is changed')
  mcp.behave(null)
  await rows.machine('n', 'down')
  await one.look()
  t.match(mcp.sent().at(-1), '<code>n</code>', 'it works again')
  mcp.behave(json(502, { detail: 'again' }))
  await rows.machine('o', 'down')
  await one.look()
  t.equal(one.logged.length, 2, 'the next outage is another one')
})

t.test('without a way out the news waits until the service is back', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const mcp = await startTelegramMcp(t)
  const { look, logged } = createTeller(t, pool, { mcp })
  await rows.machine('rtx', 'down')
  await rows.machine('mini', 'down')
  mcp.behave(json(502, { detail: 'Telegram failed' }))
  t.equal(await look(), '0 of 2 told, 0 of 0 messages changed')
  t.equal(mcp.calls.length, 1, 'one that fails is enough for a look')
  await look()
  mcp.behave(null)
  await look()
  t.equal(mcp.sent().length, 4)
  t.equal(logged.length, 1)
})

t.test('a machine that is back before anybody could be told is no news', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  await rows.machine('rtx', 'down')
  bot.behave(refuses(500, 'Internal Server Error'))
  await look()
  await rows.machine('rtx', 'up')
  bot.behave(null)
  await look()
  t.equal(bot.calls.length, 1)
})

t.test('Telegram is left alone for as long as it says, by all processes', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look, logged } = createTeller(t, pool, { bot })
  await rows.machine('rtx', 'down')
  bot.behave(refuses(429, 'Too Many Requests: retry after 35', { retry_after: 35 }))
  await look()
  bot.behave(null)
  t.match(await look(), '1 wait: Telegram wants to be left alone')
  await createTeller(t, pool, { bot }).look()
  t.equal(bot.calls.length, 1)
  const { rows: rests } = await pool.query('select extract(epoch from resumes_at - now())::float as seconds from alert_channels')
  t.ok(rests[0].seconds > 30 && rests[0].seconds <= 35)
  await pool.query(`update alert_channels set resumes_at = resumes_at - interval '35 seconds'`)
  await look()
  t.equal(bot.calls.length, 2)
  t.equal(logged.length, 1)
})

t.test('a server that hangs costs its time and no more, and is asked again after 10 minutes', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look, logged } = createTeller(t, pool, { bot, timeoutMs: 200 })
  await rows.machine('rtx', 'down')
  for (const behaviour of [hang, ((_, response) => void response.writeHead(200).write('{"ok":')) satisfies typeof hang]) {
    bot.behave(behaviour)
    const from = performance.now()
    await look()
    t.ok(performance.now() - from < 3_000)
    const { length } = bot.calls
    await look()
    t.equal(bot.calls.length, length, 'nobody knows whether it arrived')
    await rows.later()
  }
  bot.behave(null)
  await look()
  t.equal(bot.calls.length, 3)
  t.equal(logged.length, 1)
})

t.test('a message that is refused for itself does not hold up the others', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  const accept = json(200, { ok: true, result: { message_id: 1 } })
  bot.behave((call, response, request) => {
    const refuse = String(call.body['text']).includes('bad one')
    ;(refuse ? refuses(400, "Bad Request: can't parse entities") : accept)(call, response, request)
  })
  await rows.machine('a bad one', 'down')
  await rows.machine('good', 'down')
  await look()
  await look()
  t.equal(bot.calls.length, 2)
  await rows.later()
  await look()
  t.equal(bot.calls.length, 3, 'and has another chance in its time')
})

t.test('a message that was deleted cannot be changed: the news is told anew in its time', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look, logged } = createTeller(t, pool, { bot })
  await rows.machine('rtx', 'down')
  await look()
  await rows.machine('rtx', 'up')
  bot.behave(refuses(400, 'Bad Request: message to edit not found'))
  await look()
  await look()
  t.equal(bot.calls.length, 2)
  bot.behave(null)
  await rows.later()
  await look()
  t.match(bot.sent()[1], /Machine back/)
  t.same(logged, [])

  await rows.later()
  await rows.machine('rtx', 'down')
  await look()
  await rows.machine('rtx', 'up')
  bot.behave(refuses(400, 'Bad Request: message is not modified: specified new message content is exactly the same'))
  await look()
  await look()
  t.equal(bot.calls.length, 5, 'changed already is changed')
})

t.test('the token is in no log, no note and no message, whatever Telegram says', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const url = `${bot.url}/bot${token}/sendMessage`
  await rows.machine('rtx', 'down', { health_note: `GET ${url} failed` })
  const all: string[] = []
  const failures = [
    refuses(401, `Unauthorized: ${token}`),
    refuses(404, `Not Found: ${url}`),
    refuses(403, `Forbidden: ${encodeURIComponent(token)} ${token.split(':')[1]}`),
    refuses(400, `Bad Request: ${url}`),
    json(502, `<html>${url}</html>`),
    json(302, {}, { location: `/bot${token}/elsewhere` }),
    json(200, { ok: 'yes', token }),
    reset,
    hang
  ]
  const tell = async (given: Parameters<typeof createTeller>[2]): Promise<void> => {
    const { look, logged } = createTeller(t, pool, { timeoutMs: 200, ...given })
    await pool.query('truncate alerts, alert_channels')
    all.push(await look())
    const { rows: notes } = await pool.query('select note from alert_channels')
    t.equal(notes.length, 1)
    t.equal(logged.length, 1)
    all.push(notes[0].note, ...logged)
  }
  for (const failure of failures) {
    bot.behave(failure)
    await tell({ bot })
  }
  // Nobody there, no such name, and an address that is none.
  for (const elsewhere of ['http://127.0.0.1:1', 'http://nobody.invalid', 'https://127.0.0.1:1', bot.url.replace('http:', 'https:')]) {
    await tell({ bot: elsewhere })
  }
  t.notMatch(all.join('\n'), /AAF|abcdefghij/)
  t.match(all.join('\n'), /Telegram refuses it: 401 Unauthorized: \[hidden\]/)
  bot.behave(null)
  await rows.later()
  await createTeller(t, pool, { bot }).look()
  t.ok(bot.sent().length > 0)
  t.notMatch(bot.sent().join('\n'), /AAF/)
})

t.test('an error of the connection that quotes the address tells no token', async t => {
  const { signal } = new AbortController()
  for (const text of [`GET /bot${token}/x`, `Invalid URL: ${encodeURIComponent(token)}`, `${token.split(':')[1]}`]) {
    const outbound = { fetchText: () => Promise.reject(new Error(text, { cause: new Error(token) })) }
    const delivery = await createDirect(outbound, { token, chatId: '1' }).send('x', signal)
    t.match(delivery, { arrived: false, reason: /\[hidden\]/, isCertain: false })
    t.notMatch(JSON.stringify(delivery), /AAF|abcdef/)
  }
})

t.test('who decided by what is not so any more may not say it', async t => {
  const { pool } = await createDatabase(t)
  const claim = () => crypto.randomUUID()
  const news = (told: string | null) => ({ subject: 'machine:rtx', told, telling: 'bad', since: null })
  const first = claim()
  t.same([...(await claimAlerts(pool, first, [news(null)]))], ['machine:rtx'])
  t.same([...(await claimAlerts(pool, claim(), [news(null)]))], [], 'somebody is at it')
  await confirmAlerts(pool, first, null)
  await createRows(pool).later()
  t.same([...(await claimAlerts(pool, claim(), [news(null)]))], [], 'it was told meanwhile')
  t.same([...(await claimAlerts(pool, claim(), [news('bad')]))], ['machine:rtx'])
})

t.test('hostile names stay names: escaped, on one line, without links, mentions and keys', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  await rows.machine('</code><a href="http://evil">&\n\u202eevil @admin', 'down', { health_note: '<script>\u0000'.replace('\u0000', '') })
  await rows.jobs('sk-llm-0123456789abcdefghij', `<b>${'x'.repeat(3_000)}😀`, ['error', 'error', 'error'], '<i>')
  await look()
  const [machine = '', jobs = ''] = bot.sent()
  t.match(
    machine,
    /^<b>Machine away<\/b>\n<code>&lt;\/code&gt;&lt;a href="http:\/\/evil"&gt;&amp; evil @admin<\/code> is away since .* UTC: <code>&lt;script&gt;<\/code>\.$/
  )
  t.match(
    jobs,
    /^<b>Jobs fail<\/b>\nJobs of <code>sk-\[hidden\]<\/code> with <code>&lt;b&gt;x+…<\/code> failed 3 times in a row, the last one with <code>&lt;i&gt;<\/code>\.$/
  )
  t.ok(jobs.length < 400)
  await rows.later()
  await rows.jobs('sk-llm-0123456789abcdefghij', `<b>${'x'.repeat(3_000)}😀`, ['done'])
  await look()
  t.equal(bot.sent().length, 3, 'the same subject, though its name was cut')
})

t.test('a net that goes with a hundred machines is one message, with a bound', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look } = createTeller(t, pool, { bot })
  for (let index = 0; index < 100; index++) await rows.machine(`machine-${index}-${'&'.repeat(20)}`, 'down')
  await look()
  await look()
  t.equal(bot.calls.length, 1)
  const [text = ''] = bot.sent()
  t.ok(text.length <= 4_096 && text.length > 3_500, `${text.length} characters`)
  const named = [...text.matchAll(/is away/g)].length
  t.match(text, new RegExp(`\\n\\nAnd ${100 - named} more\\.$`))
  t.equal([...text.matchAll(/<code>/g)].length, [...text.matchAll(/<\/code>/g)].length, 'no tag is cut')

  await rows.machine(`machine-1-${'&'.repeat(20)}`, 'up')
  await look()
  t.equal(bot.calls.length, 1, 'a message about many is not changed for one')
  await rows.later()
  await look()
  t.match(bot.sent()[1], /Machine back/)
})

t.test('no prompt, no answer and no text of an error is told', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look, summary } = createTeller(t, pool, { bot })
  const canary = 'canary that sings'
  const longAgo = new Date(Date.now() - 20 * 60_000)
  const holding = {
    request: { prompt: canary },
    payload: `\\x${Buffer.from(canary).toString('hex')}`,
    metadata: { canary },
    sub_source: canary,
    idempotency_key: null
  }
  const error = { code: 'upstream_unavailable', message: `it said: ${canary}` }
  for (let index = 0; index < 3; index++) await rows.job({ ...holding, status: 'error', finished_at: new Date(), error })
  await rows.job({ ...holding, created_at: longAgo, run_at: longAgo, error })
  await rows.chore('poems', false, canary)
  await summary()
  await pool.query(`update alerts set told = '2020-01-01'`)
  await look()
  await summary()
  t.equal(bot.calls.length, 4)
  t.notMatch(JSON.stringify(bot.calls), /canary|sings/)
})

t.test('what was well for a day is forgotten, and the day of the summary is not', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const bot = await startBotApi(t)
  const { look, summary } = createTeller(t, pool, { bot })
  await summary()
  await rows.machine('rtx', 'down')
  await look()
  await rows.machine('rtx', 'up')
  await look()
  await pool.query(`update alerts set said_at = said_at - interval '25 hours'`)
  await look()
  t.same((await pool.query('select subject from alerts')).rows, [{ subject: 'summary' }])
})

t.test('without Telegram there are no chores; with it there are two, and they work', async t => {
  const { pool } = await createDatabase(t)
  const rows = createRows(pool)
  const mcp = await startTelegramMcp(t)
  const ports = { pool, newId: () => crypto.randomUUID(), log: (message: string, error: unknown) => t.fail(message, { error }) }
  t.same(openAlerts({ ...ports, settings: { alerts: { telegram: null, everySeconds: 30, failThreshold: 3 } } }).chores, [])
  const telegram = { direct: null, mcp: { baseUrl: mcp.url, chatId: '@home', botId: null } }
  const { chores, close } = openAlerts({ ...ports, settings: { alerts: { telegram, everySeconds: 7, failThreshold: 3 } } })
  t.teardown(close)
  t.match(chores, [
    { name: 'alerts', everyMs: 7_000 },
    { name: 'summary', everyMs: 60_000 }
  ])
  await rows.machine('rtx', 'down')
  for (const chore of chores) await chore.run(new AbortController().signal)
  t.match(mcp.calls, [{ body: { chat_id: '@home', parse_mode: 'HTML' } }])
  t.notOk('bot_id' in (mcp.calls[0]?.body ?? {}))
})

// What the environment says: every variable, its default, what it may hold, and a file .env beside it.

import { join } from 'node:path'
import t from 'tap'
import { createRedactor, secretsOf } from '../../bin/commands/doctor/secrets.ts'
import { loadSettings, localOllamaUpstream, type Settings } from '../../bin/config.ts'
import { ids, load, problemsOf, type Variables } from './support.ts'

t.test('with nothing set, every setting has its default', async t => {
  const cwd = t.testdir({})
  t.same(await loadSettings({ env: {}, cwd }), {
    host: '127.0.0.1',
    port: 4000,
    databaseUrl: null,
    dataDir: join(cwd, '.data'),
    configFile: null,
    adminKey: null,
    auth: true,
    allowedHosts: [],
    logLevel: 'info',
    corsOrigins: [],
    otlpEndpoint: null,
    underNpm: false,
    electricityUsdPerKwh: 0.25,
    reasoningField: 'reasoning',
    localOnly: false,
    upstreams: [],
    localOllama: { id: 'ollama', url: 'http://127.0.0.1:11434', explicit: false },
    aliases: new Map(),
    prices: new Map(),
    sameModels: new Map(),
    auto: [],
    vectorSpaces: new Map(),
    vectorDimensions: new Map(),
    passthrough: { provider: null, paths: ['audio', 'images', 'moderations'] },
    deviceLimits: new Map(),
    deviceMaxConcurrency: null,
    workers: 1,
    role: 'all',
    jobRetentionDays: 30,
    routeRetentionDays: 7,
    webhooks: { secret: null, allow: [] },
    discovery: { everySeconds: 0, tailscaleBin: null, ollamaPorts: [11_434], ranges: null, approve: { tags: [], names: [] } },
    modelSync: { onStartup: true, everyHours: 24, top: 100, maxUsdPer1m: 10 },
    benchmarkMaxUsdPer1m: 10,
    alerts: { telegram: null, everySeconds: 30, failThreshold: 3 },
    queue: { maxWaiting: 10_000, maxWaitingPerSource: 1_000, maxJobs: 1_000_000, maxJobsPerSource: 100_000, workerConcurrency: 64 },
    configured: false
  })
})

t.test('a good variable becomes its setting', async t => {
  const cwd = t.testdir({})
  const cases: readonly [env: Variables, expected: Partial<Settings>][] = [
    [{ PORT: '0' }, { port: 0 }],
    [{ PORT: ' 65535 ' }, { port: 65535 }],
    [{ PORT: '' }, { port: 4000 }],
    [{ HOST: '0.0.0.0' }, { host: '0.0.0.0', auth: true }],
    [{ HOST: '[::1]' }, { host: '::1' }],
    [{ HOST: 'gateway.home' }, { host: 'gateway.home' }],
    [{ DATABASE_URL: 'postgres://u:p@db/x' }, { databaseUrl: 'postgres://u:p@db/x' }],
    [{ DATABASE_URL: 'postgresql:///x' }, { databaseUrl: 'postgresql:///x' }],
    [{ DATABASE_URL: ' ' }, { databaseUrl: null }],
    [{ LLM_MCP_DATA_DIR: 'data' }, { dataDir: join(cwd, 'data') }],
    [{ LLM_MCP_DATA_DIR: '/srv/data/' }, { dataDir: '/srv/data' }],
    [{ LLM_MCP_ADMIN_KEY: `sk-llm-${'a'.repeat(17)}` }, { adminKey: `sk-llm-${'a'.repeat(17)}` }],
    [{ LLM_MCP_ADMIN_KEY: `${'b'.repeat(30)}+/=\n` }, { adminKey: `${'b'.repeat(30)}+/=` }],
    [{ LLM_MCP_AUTH: 'ON', HOST: '0.0.0.0' }, { auth: true }],
    [{ LLM_MCP_AUTH: 'off' }, { auth: false }],
    [{ LLM_MCP_AUTH: 'off', HOST: 'localhost' }, { auth: false }],
    [{ LLM_MCP_AUTH: 'off', HOST: '127.1.2.3' }, { auth: false }],
    [{ LLM_MCP_AUTH: 'off', HOST: '0:0:0:0:0:0:0:1' }, { auth: false }],
    [{ LLM_MCP_AUTH: 'off', HOST: '::ffff:127.0.0.1' }, { auth: false }],
    [
      { LLM_MCP_ALLOWED_HOSTS: 'Gateway.Home, 192.168.1.10 ,,::1,[FE80::1],gateway.home.' },
      { allowedHosts: ['gateway.home', '192.168.1.10', '[::1]', '[fe80::1]'] }
    ],
    [{ LOG_LEVEL: 'Debug' }, { logLevel: 'debug' }],
    [{ LOG_LEVEL: 'silent' }, { logLevel: 'silent' }],
    [{ ELECTRICITY_USD_PER_KWH: '0' }, { electricityUsdPerKwh: 0 }],
    [{ ELECTRICITY_USD_PER_KWH: '.31' }, { electricityUsdPerKwh: 0.31 }],
    [{ DEVICE_MAX_CONCURRENCY: '4' }, { deviceMaxConcurrency: 4 }],
    [
      { LLM_MCP_ROLE: 'all', LLM_MCP_CORS_ORIGINS: '', LLM_MCP_KEY: 'x', SOMETHING_ELSE: 'x' },
      { configured: false, role: 'all' }
    ],
    [{ LLM_MCP_ROLE: 'Worker', LLM_MCP_URL: 'http://gateway.home:4000' }, { role: 'worker' }],
    [{ LLM_MCP_ROLE: 'gateway' }, { role: 'gateway' }],
    [
      { LLM_MCP_ROLE: 'planner', WORKERS: '1' },
      { role: 'planner', workers: 1 }
    ],
    [{ WORKERS: '4' }, { workers: 4 }],
    [{}, { workers: 1 }],
    [{ JOB_RETENTION_DAYS: '1' }, { jobRetentionDays: 1 }],
    [{ ROUTE_RETENTION_DAYS: '30' }, { routeRetentionDays: 30 }],
    [{ JOB_RETENTION_DAYS: '' }, { jobRetentionDays: 30 }],
    [
      { OPENROUTER_SYNC_ON_STARTUP: '0', OPENROUTER_SYNC_INTERVAL: '0.5', OPENROUTER_SYNC_TOP: '5', OPENROUTER_MAX_PRICE_PER_1M: '0' },
      { modelSync: { onStartup: false, everyHours: 0.5, top: 5, maxUsdPer1m: 0 } }
    ],
    [{ BENCHMARK_MAX_PRICE_PER_1M: '2.5' }, { benchmarkMaxUsdPer1m: 2.5 }],
    [
      { TELEMETRY_CHECK_INTERVAL: '5', ALERT_FAIL_THRESHOLD: '1000', TELEGRAM_USE_MCP: 'off', TELEGRAM_MCP_CHAT_ID: '1' },
      { alerts: { telegram: null, everySeconds: 5, failThreshold: 1_000 } }
    ],
    [{ OPENAI_API_KEY: 'sk-llm-a-key-of-our-own-0123456789' }, { configured: false, upstreams: [] }],
    [
      { OPENAI_BASE_URL: 'http://127.0.0.1:4000/v1', OPENAI_API_BASE: 'http://x' },
      { configured: false, upstreams: [] }
    ]
  ]
  for (const [env, expected] of cases) t.match(await loadSettings({ env, cwd }), expected, JSON.stringify(env))
})

t.test('a bad variable is named, with what was expected and what it holds', async t => {
  const cwd = t.testdir({ folder: {} })
  const cases: readonly [env: Variables, message: string | RegExp][] = [
    [{ PORT: 'abc' }, 'PORT must be an integer from 0 to 65535, got "abc"'],
    [{ PORT: '65536' }, 'PORT must be an integer from 0 to 65535, got "65536"'],
    [{ PORT: '-1' }, 'PORT must be an integer from 0 to 65535, got "-1"'],
    [{ PORT: '40.5' }, /^PORT must be an integer/],
    [{ PORT: '1e3' }, /^PORT must be an integer/],
    [{ PORT: '0x10' }, /^PORT must be an integer/],
    [{ HOST: 'http://a' }, 'HOST must be an address or a name without a port, got "http://a"'],
    [{ HOST: '0.0.0.0:4000' }, /^HOST must be/],
    [{ DATABASE_URL: 'mysql://u:hunter2@x' }, 'DATABASE_URL must begin with postgres:// or postgresql:// (its value is not shown)'],
    [{ LLM_MCP_CONFIG: 'nope.yaml' }, 'nope.yaml: cannot be read (no such file)'],
    [{ LLM_MCP_CONFIG: 'folder' }, 'folder: cannot be read (EISDIR)'],
    [
      { LLM_MCP_ADMIN_KEY: '' },
      'LLM_MCP_ADMIN_KEY must have at least 24 characters and no spaces, got none (leave it out to have one made)'
    ],
    [{ LLM_MCP_ADMIN_KEY: '   ' }, /got none/],
    [{ LLM_MCP_ADMIN_KEY: 'sk-llm-short' }, /at least 24 characters and no spaces, got 12 /],
    [{ LLM_MCP_ADMIN_KEY: 'sk-llm-0123456789 0123456789' }, /no spaces, got 28 /],
    [{ LLM_MCP_AUTH: 'false' }, 'LLM_MCP_AUTH must be on or off, got "false"'],
    [
      { LLM_MCP_AUTH: 'off', HOST: '0.0.0.0' },
      'LLM_MCP_AUTH=off needs a HOST that only this machine can reach (127.0.0.1, ::1, localhost), got "0.0.0.0"'
    ],
    [{ LLM_MCP_AUTH: 'off', HOST: '::' }, /^LLM_MCP_AUTH=off needs/],
    [{ LLM_MCP_AUTH: 'off', HOST: '127.0.0.1.example.com' }, /^LLM_MCP_AUTH=off needs/],
    [{ LLM_MCP_AUTH: 'off', HOST: '192.168.1.2' }, /^LLM_MCP_AUTH=off needs/],
    [{ LLM_MCP_ALLOWED_HOSTS: 'a, https://b' }, /^LLM_MCP_ALLOWED_HOSTS must be .*, got "https:\/\/b"$/],
    [{ LLM_MCP_ALLOWED_HOSTS: 'a:4000' }, /^LLM_MCP_ALLOWED_HOSTS must be/],
    [{ LOG_LEVEL: 'loud' }, 'LOG_LEVEL must be trace, debug, info, warn, error, fatal or silent, got "loud"'],
    [{ ELECTRICITY_USD_PER_KWH: '-1' }, 'ELECTRICITY_USD_PER_KWH must be a number from 0 to 10, got "-1"'],
    [{ ELECTRICITY_USD_PER_KWH: 'Infinity' }, /^ELECTRICITY_USD_PER_KWH must be/],
    [{ ELECTRICITY_USD_PER_KWH: '0,25' }, /^ELECTRICITY_USD_PER_KWH must be/],
    [{ DEVICE_MAX_CONCURRENCY: '0' }, 'DEVICE_MAX_CONCURRENCY must be an integer from 1 to 64, got "0"'],
    [{ DEVICE_MAX_CONCURRENCY: '65' }, /^DEVICE_MAX_CONCURRENCY must be/],
    [{ OPENAI_UPSTREAM_URL: 'api.openai.com' }, 'OPENAI_UPSTREAM_URL must be an http or https URL, got "api.openai.com"'],
    [{ OPENAI_UPSTREAM_URL: 'ftp://x' }, /^OPENAI_UPSTREAM_URL must be an http or https URL/],
    [{ OPENAI_UPSTREAM_URL: 'https:/x' }, /^OPENAI_UPSTREAM_URL must be an http or https URL/],
    [{ OPENAI_UPSTREAM_URL: 'http://x:99999' }, /^OPENAI_UPSTREAM_URL must be an http or https URL/],
    [{ OPENAI_UPSTREAM_URL: 'https://user:hunter2@x/v1' }, 'OPENAI_UPSTREAM_URL must be a URL without user name and password'],
    [{ OPENROUTER_UPSTREAM_URL: 'https://x/v1?key=hunter2' }, 'OPENROUTER_UPSTREAM_URL must be a URL without ? and #'],
    [{ OPENROUTER_UPSTREAM_URL: 'https://x/v1#' }, 'OPENROUTER_UPSTREAM_URL must be a URL without ? and #'],
    [{ OPENAI_API_KEY: 'hunter2 hunter2' }, 'OPENAI_API_KEY holds a space or a character that no key has (its value is not shown)'],
    [{ LLM_MCP_ALOWED_HOSTS: 'a' }, 'LLM_MCP_ALOWED_HOSTS is not a setting, did you mean LLM_MCP_ALLOWED_HOSTS?'],
    [{ LLM_MCP_FOO: '' }, /^LLM_MCP_FOO is not a setting, known are LLM_MCP_ADMIN_KEY, /],
    [{ LLM_MCP_ROLE: 'woker' }, 'LLM_MCP_ROLE must be all, gateway, worker or planner, got "woker"'],
    [{ JOB_RETENTION_DAYS: '0' }, 'JOB_RETENTION_DAYS must be an integer from 1 to 36500, got "0"'],
    [{ OLLAMA_PORTS: '11434, 0' }, 'OLLAMA_PORTS must be up to 16 ports, separated by commas, got "11434, 0"'],
    [{ DISCOVERY_INTERVAL: '-1' }, 'DISCOVERY_INTERVAL must be an integer from 0 to 86400, got "-1"'],
    [{ OPENROUTER_SYNC_ON_STARTUP: 'yes' }, 'OPENROUTER_SYNC_ON_STARTUP must be an integer from 0 to 1, got "yes"'],
    [{ OPENROUTER_SYNC_TOP: '0' }, 'OPENROUTER_SYNC_TOP must be an integer from 1 to 5000, got "0"'],
    [{ ROUTE_RETENTION_DAYS: '0' }, 'ROUTE_RETENTION_DAYS must be an integer from 1 to 36500, got "0"'],
    [{ JOB_RETENTION_DAYS: '0.5' }, /^JOB_RETENTION_DAYS must be an integer/],
    [{ LLM_MCP_WEBHOOK_SECRT: 'hunter2' }, 'LLM_MCP_WEBHOOK_SECRT is not a setting, did you mean LLM_MCP_WEBHOOK_SECRET?'],
    [{ TELEMETRY_CHECK_INTERVAL: '0' }, 'TELEMETRY_CHECK_INTERVAL must be an integer from 5 to 3600, got "0"'],
    [{ ALERT_FAIL_THRESHOLD: '0' }, 'ALERT_FAIL_THRESHOLD must be an integer from 1 to 1000, got "0"'],
    [{ TELEGRAM_USE_MCP: '2', TELEGRAM_CHAT_ID: '' }, /^TELEGRAM_USE_MCP must be 0, 1, false, true, no, yes, off or on, got "2"$/],
    [{ DEVICE_LIMITS_FILE: 'nope.json' }, 'nope.json: cannot be read (no such file)']
  ]
  for (const [env, message] of cases) {
    const problems = await problemsOf(loadSettings({ env, cwd }))
    typeof message === 'string' ? t.equal(problems, message) : t.match(problems, message)
    t.notMatch(problems, 'hunter2')
  }
})

t.test('OLLAMA_HOST is read as Ollama reads it', async t => {
  const cwd = t.testdir({})
  const cases: readonly [written: string, url: string][] = [
    ['127.0.0.1', 'http://127.0.0.1:11434'],
    ['rtx', 'http://rtx:11434'],
    ['rtx:1234', 'http://rtx:1234'],
    [':1234', 'http://127.0.0.1:1234'],
    ['0.0.0.0', 'http://127.0.0.1:11434'],
    ['0.0.0.0:8080', 'http://127.0.0.1:8080'],
    ['http://0.0.0.0:8080', 'http://127.0.0.1:8080'],
    ['[::]', 'http://127.0.0.1:11434'],
    ['::', 'http://127.0.0.1:11434'],
    ['[::]:1', 'http://127.0.0.1:1'],
    ['[::1]', 'http://[::1]:11434'],
    ['::1', 'http://[::1]:11434'],
    ['[fd00::5]:99', 'http://[fd00::5]:99'],
    ['http://rtx', 'http://rtx'],
    ['http://rtx:11434/', 'http://rtx:11434'],
    ['https://rtx', 'https://rtx'],
    ['https://rtx:8443/ollama/', 'https://rtx:8443/ollama'],
    ['HTTP://RTX:1', 'http://rtx:1'],
    ['rtx/ollama', 'http://rtx:11434/ollama'],
    [' "rtx:1" ', 'http://rtx:1'],
    ["'rtx'", 'http://rtx:11434'],
    ['http://', 'http://127.0.0.1'],
    ['rtx:', 'http://rtx:11434'],
    ['rtx:66000', 'http://rtx:11434'],
    ['rtx:abc', 'http://rtx:11434']
  ]
  for (const [written, url] of cases) {
    const settings = await loadSettings({ env: { OLLAMA_HOST: written }, cwd })
    t.same(settings.localOllama, { id: 'ollama', url, explicit: true }, written)
    t.match(settings.upstreams, [{ id: 'ollama', adapter: 'ollama', own: true, baseUrl: url }], written)
    t.equal(settings.configured, true)
  }
  for (const blank of ['', '  ', '""']) {
    const settings = await loadSettings({ env: { OLLAMA_HOST: blank }, cwd })
    t.match(settings, { configured: false, localOllama: { explicit: false } }, `blank: ${blank}`)
    t.same(settings.upstreams, [])
  }
})

t.test('an OLLAMA_HOST that leads nowhere, or out of the house, is refused', async t => {
  const cwd = t.testdir({})
  for (const written of ['ftp://rtx', 'rtx:0', 'a b', '[::1', 'fe80::1%eth0', 'rtx?x']) {
    t.match(await problemsOf(loadSettings({ env: { OLLAMA_HOST: written }, cwd })), /^OLLAMA_HOST must be /, written)
  }
  t.equal(
    await problemsOf(loadSettings({ env: { OLLAMA_HOST: 'u:hunter2@rtx' }, cwd })),
    'OLLAMA_HOST must be a URL without user name and password'
  )
  t.match(await problemsOf(loadSettings({ env: { OLLAMA_HOST: 'https://ollama.com' }, cwd })), /a machine of yours/)
})

t.test('the own Ollama is an upstream like any other machine, with its defaults', async t => {
  const settings = await load(t, null)
  t.same(localOllamaUpstream(settings), {
    id: 'ollama',
    adapter: 'ollama',
    own: true,
    baseUrl: 'http://127.0.0.1:11434',
    apiKey: null,
    headers: {},
    device: { id: 'ollama', maxConcurrency: 2, watts: 150, vramGb: null, ramGb: null, keepAlive: '30m', numCtx: null },
    timeouts: { connectMs: 2000, firstTokenMs: 600000, idleMs: 120000, totalMs: 3600000 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  })
  const limited = await load(t, null, { DEVICE_LIMITS_JSON: '{"here": {"vram_gb": 8}, "*": {"max_concurrency": 5}}' })
  t.match(localOllamaUpstream(limited, 'here'), { id: 'here', device: { id: 'here', vramGb: 8, maxConcurrency: 5, watts: 300 } })
})

t.test('the own Ollama is not there twice when the file lists it under any of its names', async t => {
  for (const url of ['http://127.0.0.1:11434', 'http://localhost:11434', 'http://[::1]:11434/']) {
    const settings = await load(t, `machines:\n  here: { url: "${url}" }\n`, { OLLAMA_HOST: '0.0.0.0' })
    t.equal(settings.localOllama, null, url)
    t.equal(localOllamaUpstream(settings), null)
    t.same(ids(settings), ['here'])
  }
  const other = await load(t, 'machines:\n  ollama: { url: "http://other:11434" }\n', { OLLAMA_HOST: '0.0.0.0' })
  t.same(ids(other), ['ollama', 'ollama-2'], 'a name that is taken is not used again')
})

t.test('keys and URLs in the environment make providers', async t => {
  const cwd = t.testdir({})
  const key = 'sk-test-0123456789abcdef'
  const cases: readonly [env: Variables, expected: readonly object[]][] = [
    [
      { OPENAI_API_KEY: key },
      [
        {
          id: 'openai',
          adapter: 'openai',
          own: false,
          device: null,
          baseUrl: 'https://api.openai.com/v1',
          apiKey: key,
          registryId: 'openai',
          auto: ['gpt-5-mini', 'gpt-4.1-mini', 'gpt-4o-mini'],
          models: null,
          streamUsage: true,
          headers: {},
          timeouts: { connectMs: 5000, firstTokenMs: 300000, idleMs: 120000, totalMs: 3600000 }
        }
      ]
    ],
    [
      { OPENROUTER_API_KEY: key },
      [
        {
          id: 'openrouter',
          adapter: 'openrouter',
          own: false,
          baseUrl: 'https://openrouter.ai/api/v1',
          registryId: 'openrouter',
          auto: ['openrouter/auto']
        }
      ]
    ],
    [{ OPENROUTER_API_KEY: key, OPENAI_API_KEY: `${key}\n` }, [{ id: 'openai', apiKey: key }, { id: 'openrouter' }]],
    [{ OPENAI_API_KEY: '', OPENROUTER_API_KEY: '  ' }, []],
    [
      { OPENAI_API_KEY: key, OPENAI_UPSTREAM_URL: 'http://127.0.0.1:9/v1//' },
      [{ baseUrl: 'http://127.0.0.1:9/v1', apiKey: key, registryId: 'openai' }]
    ],
    [{ OPENAI_UPSTREAM_URL: 'http://127.0.0.1:9/v1' }, [{ id: 'openai', apiKey: null }]],
    [{ OPENROUTER_UPSTREAM_URL: 'http://127.0.0.1:9/v1' }, [{ id: 'openrouter', apiKey: null, registryId: 'openrouter' }]],
    [{ OPENAI_UPSTREAM_URL: 'https://api.openai.com/v1', OPENROUTER_UPSTREAM_URL: 'https://openrouter.ai/api/v1' }, []]
  ]
  for (const [env, expected] of cases) {
    const settings = await loadSettings({ env, cwd })
    t.equal(settings.upstreams.length, expected.length)
    t.match(settings.upstreams, expected, JSON.stringify(env))
    t.equal(settings.configured, expected.length > 0)
  }
})

t.test('Telegram is reached directly, through a service, or through one with the other as the way out', async t => {
  const cwd = t.testdir({})
  const token = '123456789:AAF-abcdefghijklmnopqrstuvwxyz_01234'
  const cases: readonly [env: Variables, telegram: Settings['alerts']['telegram']][] = [
    [{ TELEGRAM_BOT_TOKEN: '', TELEGRAM_CHAT_ID: ' ' }, null],
    [
      { TELEGRAM_BOT_TOKEN: ` ${token}\n`, TELEGRAM_CHAT_ID: '-1001234567890' },
      { direct: { token, chatId: '-1001234567890' }, mcp: null }
    ],
    [
      { TELEGRAM_USE_MCP: '1', TELEGRAM_CHAT_ID: '@home' },
      { direct: null, mcp: { baseUrl: 'http://tgapi:8000', chatId: '@home', botId: null } }
    ],
    [
      {
        TELEGRAM_USE_MCP: 'True',
        TELEGRAM_MCP_BASE_URL: 'http://127.0.0.1:9/',
        TELEGRAM_MCP_BOT_ID: '7',
        TELEGRAM_MCP_CHAT_ID: 'operators',
        TELEGRAM_BOT_TOKEN: token,
        TELEGRAM_CHAT_ID: '5'
      },
      { direct: { token, chatId: '5' }, mcp: { baseUrl: 'http://127.0.0.1:9', chatId: 'operators', botId: 7 } }
    ],
    [
      { TELEGRAM_USE_MCP: 'on', TELEGRAM_MCP_CHAT_ID: '6', TELEGRAM_BOT_TOKEN: token, TELEGRAM_MCP_FALLBACK_DIRECT: 'yes' },
      { direct: { token, chatId: '6' }, mcp: { baseUrl: 'http://tgapi:8000', chatId: '6', botId: null } }
    ],
    [
      { TELEGRAM_USE_MCP: '1', TELEGRAM_CHAT_ID: '6', TELEGRAM_BOT_TOKEN: token, TELEGRAM_MCP_FALLBACK_DIRECT: 'false' },
      { direct: null, mcp: { baseUrl: 'http://tgapi:8000', chatId: '6', botId: null } }
    ]
  ]
  for (const [env, telegram] of cases) {
    const settings = await loadSettings({ env, cwd })
    t.same(settings.alerts.telegram, telegram, JSON.stringify(env))
    if (telegram?.direct) t.equal(createRedactor(secretsOf(settings))(`bot${token}/sendMessage`), 'bot[hidden]/sendMessage')
  }
  const wrong: readonly [env: Variables, message: string | RegExp][] = [
    [{ TELEGRAM_BOT_TOKEN: token }, 'TELEGRAM_BOT_TOKEN needs TELEGRAM_CHAT_ID'],
    [{ TELEGRAM_CHAT_ID: '5' }, 'TELEGRAM_CHAT_ID needs TELEGRAM_BOT_TOKEN, or TELEGRAM_USE_MCP=1'],
    [{ TELEGRAM_USE_MCP: '1', TELEGRAM_BOT_TOKEN: token }, 'TELEGRAM_USE_MCP needs TELEGRAM_MCP_CHAT_ID or TELEGRAM_CHAT_ID'],
    [
      { TELEGRAM_USE_MCP: '1', TELEGRAM_CHAT_ID: '5', TELEGRAM_MCP_FALLBACK_DIRECT: '1' },
      'TELEGRAM_MCP_FALLBACK_DIRECT needs TELEGRAM_BOT_TOKEN'
    ],
    [
      { TELEGRAM_BOT_TOKEN: 'bot123:hunter2/../x', TELEGRAM_CHAT_ID: '5' },
      'TELEGRAM_BOT_TOKEN must be a number, a colon and letters, as @BotFather gives it (its value is not shown)'
    ],
    [
      { TELEGRAM_BOT_TOKEN: token, TELEGRAM_CHAT_ID: 'a b' },
      'TELEGRAM_CHAT_ID must be a number such as -1001234567890, or @channel, got "a b"'
    ],
    [
      { TELEGRAM_BOT_TOKEN: '5', TELEGRAM_CHAT_ID: token },
      /^TELEGRAM_BOT_TOKEN must be [\s\S]*TELEGRAM_CHAT_ID must be [\s\S]*, got "123456789:…"$/
    ],
    [
      { TELEGRAM_USE_MCP: '1', TELEGRAM_CHAT_ID: '5', TELEGRAM_MCP_BASE_URL: 'tgapi' },
      /^TELEGRAM_MCP_BASE_URL must be an http or https URL/
    ]
  ]
  for (const [env, message] of wrong) {
    const problems = await problemsOf(loadSettings({ env, cwd }))
    typeof message === 'string' ? t.equal(problems, message) : t.match(problems, message)
    t.notMatch(problems, /hunter2|AAF/)
  }
})

t.test('the secret of webhooks is base64 after whsec_, or a text, of 24 bytes and more', async t => {
  const cwd = t.testdir({})
  const secret = async (text: string) => (await loadSettings({ env: { LLM_MCP_WEBHOOK_SECRET: text }, cwd })).webhooks.secret
  t.same(await secret(`whsec_${Buffer.from('twenty-four bytes of it.').toString('base64')}`), Buffer.from('twenty-four bytes of it.'))
  t.same(await secret(` whsec_${Buffer.alloc(25, 255).toString('base64').replace(/=+$/, '')} `), Buffer.alloc(25, 255), 'padding or none')
  t.same(await secret('a sentence with äöü in it'), Buffer.from('a sentence with äöü in it'), 'a text is taken as its bytes')
  t.equal(await secret(''), null)
  const cases: readonly [text: string, message: string][] = [
    ['hunter2', 'LLM_MCP_WEBHOOK_SECRET must have at least 24 bytes, got 7'],
    [`whsec_${Buffer.alloc(23, 1).toString('base64')}`, 'LLM_MCP_WEBHOOK_SECRET must have at least 24 bytes, got 23'],
    ['whsec_', 'LLM_MCP_WEBHOOK_SECRET must be base64 after whsec_ (its value is not shown)'],
    ['whsec_hunter2-hunter2-hunter2-hunter2', 'LLM_MCP_WEBHOOK_SECRET must be base64 after whsec_ (its value is not shown)']
  ]
  for (const [text, message] of cases) await t.rejects(secret(text), { message }, text)
})

t.test('the secret of webhooks is hidden however it was written', async t => {
  for (const text of [`whsec_${Buffer.alloc(25, 7).toString('base64').replace(/=+$/, '')}`, 'a sentence with äöü in it']) {
    const settings = await load(t, null, { LLM_MCP_WEBHOOK_SECRET: text })
    t.match(createRedactor(secretsOf(settings))(`before ${text} after`), /^before (whsec_)?\[hidden\] after$/)
  }
})

t.test('receivers of webhooks in the own network are hosts, ports of hosts, and networks', async t => {
  const cwd = t.testdir({})
  const allow = async (text: string) => (await loadSettings({ env: { LLM_MCP_WEBHOOK_ALLOW: text }, cwd })).webhooks.allow
  t.same(await allow(' Receiver.Home., receiver.home:8080,,10.0.0.0/8, FD00::/08 ,127.0.0.1:9,[FD00::1]:443,[::1],::1,192.168.1.5'), [
    'receiver.home',
    'receiver.home:8080',
    '10.0.0.0/8',
    'fd00::/8',
    '127.0.0.1:9',
    '[fd00::1]:443',
    '::1',
    '192.168.1.5'
  ])
  const wrong = [
    'http://a',
    'a/b',
    '10.0.0.0/33',
    'fd00::/129',
    'a/8',
    'a:0',
    'a:65536',
    'a:b',
    '*',
    'a b',
    '[a]:1',
    '10.0.0.0/',
    ':80',
    'u:p@a'
  ]
  for (const text of wrong) {
    const message = /^LLM_MCP_WEBHOOK_ALLOW must be host, host:port or address\/bits without a scheme, separated by commas, got "/
    await t.rejects(allow(text), { message }, text)
  }
})

t.test('origins are as browsers write them', async t => {
  const cwd = t.testdir({})
  const origins = async (text: string) => (await loadSettings({ env: { LLM_MCP_CORS_ORIGINS: text }, cwd })).corsOrigins
  t.same(await origins(' https://Chat.example.com/, http://localhost:3000 ,'), ['https://chat.example.com', 'http://localhost:3000'])
  t.same(await origins('*'), ['*'])
  for (const wrong of ['chat.example.com', 'https://a/path', 'https://a:443', '*.example.com', 'null'])
    await t.rejects(origins(wrong), { message: /^LLM_MCP_CORS_ORIGINS must be origins such as/ }, wrong)
})

t.test('a file .env adds what the environment does not say', async t => {
  const cwd = t.testdir({ '.env': '# ours\nPORT=4321\nHOST="localhost"\nOPENROUTER_API_KEY=sk-or-0123456789abcdef\n' })
  t.match(await loadSettings({ env: { PORT: '4322' }, cwd }), { port: 4322, host: 'localhost', upstreams: [{ id: 'openrouter' }] })
  const wrong = t.testdir({ '.env': 'LLM_MCP_PRT=1\n' })
  await t.rejects(loadSettings({ env: {}, cwd: wrong }), { message: /LLM_MCP_PRT/ })
})

// biome-ignore-all lint/suspicious/noTemplateCurlyInString: `${NAME}` is what a configuration file holds

import { readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import t, { type Test } from 'tap'
import { ConfigError, configJsonSchema, loadSettings, localOllamaUpstream, redactedSummary, type Settings } from '../bin/config.ts'

type Variables = Record<string, string>

const root = resolve(import.meta.dirname, '..')

/** In an empty directory that holds only the file. */
async function load(t: Test, yaml: string | null, env: Variables = {}): Promise<Settings> {
  const cwd = t.testdir(yaml === null ? {} : { 'llm-mcp.yaml': yaml })
  return loadSettings({ env, cwd })
}

async function problemsOf(loading: Promise<Settings>): Promise<string> {
  const error = await loading.then(
    () => null,
    (error: unknown) => error
  )
  return error instanceof ConfigError ? error.message : `no ConfigError but ${String(error)}`
}

function upstream(settings: Settings, id: string) {
  const found = settings.upstreams.find(upstream => upstream.id === id)
  if (found === undefined) throw new Error(`no upstream ${id}`)
  return found
}

const ids = (settings: Settings) => settings.upstreams.map(upstream => upstream.id)

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
    auto: [],
    vectorSpaces: new Map(),
    vectorDimensions: new Map(),
    passthrough: { provider: null, paths: ['audio', 'images', 'moderations'] },
    deviceLimits: new Map(),
    deviceMaxConcurrency: null,
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
    [{ LLM_MCP_ROLE: 'all', LLM_MCP_CORS_ORIGINS: '', LLM_MCP_KEY: 'x', SOMETHING_ELSE: 'x' }, { configured: false }],
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
    [{ DEVICE_LIMITS_FILE: 'nope.json' }, 'nope.json: cannot be read (no such file)']
  ]
  for (const [env, message] of cases) {
    const problems = await problemsOf(loadSettings({ env, cwd }))
    typeof message === 'string' ? t.equal(problems, message) : t.match(problems, message)
    t.notMatch(problems, 'hunter2')
  }
})

t.test('several problems are one line each, the environment first', async t => {
  const problems = await problemsOf(load(t, 'machines:\n  a: { urll: x }\n', { PORT: 'x', LOG_LEVEL: 'y' }))
  t.same(
    problems.split('\n').map(line => line.split(' ')[0]),
    ['PORT', 'LOG_LEVEL', 'llm-mcp.yaml:2:3', 'llm-mcp.yaml:2:8']
  )
})

t.test('a file that is wrong everywhere gives twenty lines and a count', async t => {
  const names = Array.from({ length: 40 }, (_, index) => `  m${index}: {}\n`).join('')
  const lines = (await problemsOf(load(t, `machines:\n${names}`))).split('\n')
  t.equal(lines.length, 21)
  t.match(lines[0], 'llm-mcp.yaml:2:3 machines.m0: url is missing')
  t.equal(lines[20], 'and 20 more')
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

t.test('a machine has defaults that follow from its memory', async t => {
  const cases: readonly [fields: string, device: object, env?: Variables][] = [
    ['vram_gb: 24', { maxConcurrency: 2, watts: 300, vramGb: 24, ramGb: null, keepAlive: '30m', numCtx: null }],
    ['vram_gb: 0', { maxConcurrency: 1, watts: 65, vramGb: 0 }],
    ['ram_gb: 32', { maxConcurrency: 1, watts: 150, vramGb: null, ramGb: 32 }],
    ['watts: 0', { maxConcurrency: 2, watts: 0 }],
    ['vram_gb: 0', { maxConcurrency: 7 }, { DEVICE_MAX_CONCURRENCY: '7' }],
    ['max_concurrency: 3', { maxConcurrency: 3 }, { DEVICE_MAX_CONCURRENCY: '7' }],
    ['keep_alive: null', { keepAlive: null }],
    ['keep_alive: -1', { keepAlive: -1 }],
    ['keep_alive: 300', { keepAlive: 300 }],
    ['keep_alive: 1h30m', { keepAlive: '1h30m' }],
    ['keep_alive: "0"', { keepAlive: '0' }],
    ['keep_alive: 1.5h', { keepAlive: '1.5h' }],
    ['num_ctx: 16384', { numCtx: 16384 }],
    ['type: openai', { keepAlive: null, numCtx: null }]
  ]
  for (const [fields, device, env] of cases) {
    const settings = await load(t, `machines:\n  m: { url: "http://h:1", ${fields} }\n`, env)
    t.match(upstream(settings, 'm').device, { id: 'm', ...device }, `${fields} ${JSON.stringify(env ?? {})}`)
  }
})

t.test('machines and providers of the file become upstreams with everything they say', async t => {
  const settings = await load(
    t,
    `
machines:
  studio:
    url: http://127.0.0.1:1234/v1/
    type: openai
    api_key: " secret-of-vllm "
    watts: 60
    models: [a, b]
    auto: [b]
    stream_usage: false
    headers: { X-Team: home }
    timeouts: { first_token_ms: 100, total_ms: 86400000 }
providers:
  groq:
    base_url: https://api.groq.com/openai/v1
    api_key: gsk_1
    price_registry: groq
    timeouts: { connect_ms: 250 }
  mirror: { type: openrouter, base_url: https://mirror.example/v1 }
  openrouter: { api_key: or }
  openai: { api_key: oa, auto: [] }
`
  )
  t.match(upstream(settings, 'studio'), {
    adapter: 'openai',
    own: true,
    baseUrl: 'http://127.0.0.1:1234/v1',
    apiKey: 'secret-of-vllm',
    models: ['a', 'b'],
    auto: ['b'],
    streamUsage: false,
    headers: { 'x-team': 'home' },
    registryId: null,
    device: { id: 'studio', watts: 60 },
    timeouts: { connectMs: 2000, firstTokenMs: 100, idleMs: 120000, totalMs: 86400000 }
  })
  t.match(upstream(settings, 'groq'), {
    adapter: 'openai',
    own: false,
    device: null,
    apiKey: 'gsk_1',
    registryId: 'groq',
    auto: [],
    models: null,
    timeouts: { connectMs: 250, firstTokenMs: 300000 }
  })
  t.match(upstream(settings, 'mirror'), { adapter: 'openrouter', apiKey: null, registryId: 'openrouter', auto: ['openrouter/auto'] })
  t.match(upstream(settings, 'openrouter'), { adapter: 'openrouter', baseUrl: 'https://openrouter.ai/api/v1' })
  t.match(upstream(settings, 'openai'), { adapter: 'openai', baseUrl: 'https://api.openai.com/v1', registryId: 'openai' })
  t.same(upstream(settings, 'openai').auto, [])
})

t.test('a provider of the file replaces the one of the environment', async t => {
  const env = { OPENAI_API_KEY: 'from-environment' }
  const replaced = await load(t, 'providers:\n  openai: { base_url: "http://proxy/v1", api_key: from-file }\n', env)
  t.match(replaced.upstreams, [{ id: 'openai', baseUrl: 'http://proxy/v1', apiKey: 'from-file' }])
  const keyless = await load(t, 'providers:\n  openai: { base_url: "http://proxy/v1" }\n', env)
  t.match(keyless.upstreams, [{ apiKey: null }], 'a key of the environment goes to no address of the file')
})

t.test('the order is the policy first, then machines, the own Ollama, providers and the environment', async t => {
  const yaml = (policy: string) => `
providers:
  groq: { base_url: "http://g/v1" }
machines:
  rtx: { url: "http://a:1" }
  "1060": { url: "http://b:1" }
${policy}`
  const env = { OPENAI_API_KEY: 'a', OPENROUTER_API_KEY: 'b', OLLAMA_HOST: 'here' }
  t.same(ids(await load(t, yaml(''), env)), ['rtx', '1060', 'ollama', 'groq', 'openai', 'openrouter'])
  t.same(ids(await load(t, yaml('policy: { order: [openrouter, "1060"] }'), env)), [
    'openrouter',
    '1060',
    'rtx',
    'ollama',
    'groq',
    'openai'
  ])
  t.same(
    ids(await load(t, yaml('policy: { order: [openrouter, ollama, groq] }'))),
    ['groq', 'rtx', '1060'],
    'what may be there need not be'
  )
})

t.test('aliases, prices and policies are read', async t => {
  const settings = await load(
    t,
    `
aliases:
  smart: [qwen3:32b, openrouter/anthropic/claude-sonnet-4.5]
  mixed: { weighted: { "llama3.2:3b": 3, "openai/gpt-4o-mini": 0.5 } }
prices:
  openai/gpt-4o-mini: { input_usd_per_1m: 0.15, output_usd_per_1m: 0.6, cached_input_usd_per_1m: 0.075, request_usd: 0 }
  plain: { input_usd_per_1m: 1, output_usd_per_1m: 0, tiers: [{ above_prompt_tokens: 200000, input_usd_per_1m: 3 }, { above_prompt_tokens: 1000, output_usd_per_1m: 2 }] }
policy:
  reasoning_field: both
  local_only: true
  electricity_usd_per_kwh: 0.5
  auto: [smart, gpt-4o]
`
  )
  t.same(
    settings.aliases,
    new Map([
      ['smart', { kind: 'ordered', models: ['qwen3:32b', 'openrouter/anthropic/claude-sonnet-4.5'] }],
      [
        'mixed',
        {
          kind: 'weighted',
          models: [
            { model: 'llama3.2:3b', weight: 3 },
            { model: 'openai/gpt-4o-mini', weight: 0.5 }
          ]
        }
      ]
    ])
  )
  t.same(
    settings.prices,
    new Map([
      ['openai/gpt-4o-mini', { inputUsdPer1m: 0.15, outputUsdPer1m: 0.6, cachedInputUsdPer1m: 0.075, requestUsd: 0 }],
      [
        'plain',
        {
          inputUsdPer1m: 1,
          outputUsdPer1m: 0,
          tiers: [
            { abovePromptTokens: 1000, outputUsdPer1m: 2 },
            { abovePromptTokens: 200000, inputUsdPer1m: 3 }
          ]
        }
      ]
    ])
  )
  t.match(settings, { reasoningField: 'both', localOnly: true, electricityUsdPerKwh: 0.5, auto: ['smart', 'gpt-4o'], configured: false })
})

t.test('the environment wins over the policy of the file', async t => {
  const settings = await load(t, 'policy: { electricity_usd_per_kwh: 0.5 }', { ELECTRICITY_USD_PER_KWH: '0.1' })
  t.equal(settings.electricityUsdPerKwh, 0.1)
})

t.test('an empty file, or one with empty sections, configures nothing', async t => {
  for (const yaml of ['', '# nothing\n', 'machines:\nproviders:\naliases:\nprices:\npolicy:\n', '{}', '\ufeff# bom\r\n']) {
    const settings = await load(t, yaml)
    t.match(settings, { configured: false, upstreams: [] }, JSON.stringify(yaml))
    t.match(settings.configFile, /llm-mcp\.yaml$/)
  }
})

t.test('LLM_MCP_CONFIG names another file, which messages call as it was written', async t => {
  const cwd = t.testdir({ 'llm-mcp.yaml': 'nonsense: 1', etc: { 'my.yaml': 'machines:\n  a: { url: http://h:1 }\n', 'bad.yaml': 'x: 1' } })
  const settings = await loadSettings({ env: { LLM_MCP_CONFIG: 'etc/my.yaml' }, cwd })
  t.equal(settings.configFile, join(cwd, 'etc/my.yaml'))
  t.same(ids(settings), ['a'])
  t.match(await problemsOf(loadSettings({ env: { LLM_MCP_CONFIG: 'etc/bad.yaml' }, cwd })), /^etc\/bad\.yaml:1:1 x: unknown key/)
})

t.test('${NAME} is filled in, in every style of YAML', async t => {
  const env = { KEY: 'k: {y}, #z', EMPTY: '', URL_OF_GROQ: 'http://g/v1' }
  const cases: readonly [written: string, expected: string][] = [
    ['{ base_url: "http://g/v1", headers: { a: ${KEY} } }', 'k: {y}, #z'],
    ['{ base_url: ${URL_OF_GROQ}, headers: { a: "<${KEY}>" } }', '<k: {y}, #z>'],
    ['{ base_url: "http://g/v1", headers: { a: \'${KEY}${KEY}\' } }', 'k: {y}, #zk: {y}, #z'],
    ['\n    base_url: http://g/v1\n    headers:\n      a: ${KEY}', 'k: {y}, #z'],
    ['{ base_url: "http://g/v1", headers: { a: ${NOT_SET:-a: b, [c] #d} } }', 'a: b, [c] #d'],
    ['{ base_url: "http://g/v1", headers: { a: ${NOT_SET:-} } }', ''],
    ['{ base_url: "http://g/v1", headers: { a: ${EMPTY:-x} } }', 'x'],
    ['{ base_url: "http://g/v1", headers: { a: ${EMPTY} } }', ''],
    ['{ base_url: "http://g/v1", headers: { a: "$${KEY} $KEY $" } }', '${KEY} $KEY $'],
    ['{ base_url: "http://g/v1", headers: { a: ${toString:-x} } }', 'x']
  ]
  for (const [written, expected] of cases) {
    const settings = await load(t, `providers:\n  groq: ${written}\n`, env)
    t.equal(upstream(settings, 'groq').headers.a, expected, written)
  }
})

t.test('a key from a variable that may be empty leaves the provider out; an empty key in the file is a mistake', async t => {
  const settings = await load(
    t,
    'providers:\n  groq: { base_url: "http://g/v1", api_key: ${GROQ_API_KEY:-} }\n  openai: { api_key: ${OPENAI_API_KEY} }\npolicy: { order: [groq] }',
    { OPENAI_API_KEY: ' ' }
  )
  t.same(settings.upstreams, [])
  t.equal(settings.configured, false)
  const machine = await load(t, 'machines:\n  m: { url: "http://g", api_key: ${KEY:-} }\n')
  t.match(machine.upstreams, [{ id: 'm', apiKey: null }], 'a machine is yours, with or without a key')
  t.match(
    await problemsOf(load(t, 'providers:\n  groq: { base_url: "http://g/v1", api_key: "" }\n')),
    'llm-mcp.yaml:2:45 providers.groq.api_key: expected a key, got an empty text (leave it out for a server that needs none)'
  )
})

t.test('what is wrong in the file is said with line, column, place and what was expected', async t => {
  const cases: readonly [yaml: string, first: string][] = [
    // Form.
    [
      'machines:\n  rtx:\n    url: http://a\n    max_concurency: 2\n',
      ':4:5 machines.rtx.max_concurency: unknown key, did you mean "max_concurrency"?'
    ],
    ['machine:\n  rtx: {}\n', ':1:1 machine: unknown key, did you mean "machines"?'],
    [
      'policy: { zzzzzzzz: 1 }',
      ':1:11 policy.zzzzzzzz: unknown key, expected one of order, reasoning_field, local_only, electricity_usd_per_kwh, auto'
    ],
    ['providers:\n  openai:\n    base_url: 7\n', ':3:15 providers.openai.base_url: expected a URL, got 7'],
    ['- a', ':1:1 expected a map with providers, machines, aliases, prices, vector_spaces, passthrough, policy, got a list'],
    ['machines: x', ':1:11 machines: expected a map of machines by name, got "x"'],
    ['machines:\n  rtx:\n', ':2:7 machines.rtx: expected a map with url, …, got nothing'],
    ['machines:\n  rtx: {}\n', ':2:3 machines.rtx: url is missing, expected a URL'],
    [
      'machines: { RTX: { url: "http://a" } }',
      ':1:13 machines.RTX: expected a name of lower-case letters, digits, "." "_" "-", at most 63, got "RTX"'
    ],
    [`machines: { ${'a'.repeat(64)}: { url: "http://a" } }`, `:1:13 machines.${'a'.repeat(64)}: expected a name`],
    ['machines: { "": { url: "http://a" } }', ':1:13 machines.: expected a name'],
    [
      'machines: { m: { url: "http://a", max_concurrency: 0 } }',
      ':1:52 machines.m.max_concurrency: expected an integer from 1 to 64, got 0'
    ],
    ['machines: { m: { url: "http://a", max_concurrency: 65 } }', ':1:52 machines.m.max_concurrency: expected an integer'],
    ['machines: { m: { url: "http://a", max_concurrency: 1.5 } }', ':1:52 machines.m.max_concurrency: expected an integer'],
    [
      'machines: { m: { url: "http://a", max_concurrency: "2" } }',
      ':1:52 machines.m.max_concurrency: expected an integer from 1 to 64, got "2"'
    ],
    ['machines: { m: { url: "http://a", vram_gb: .nan } }', ':1:44 machines.m.vram_gb: expected a number from 0 to 100000, got .nan'],
    ['machines: { m: { url: "http://a", watts: .inf } }', ':1:42 machines.m.watts: expected a number'],
    [
      'machines: { m: { url: "http://a", keep_alive: "-1" } }',
      ':1:47 machines.m.keep_alive: expected a duration such as "30m", a number of seconds, or null, got "-1"'
    ],
    ['machines: { m: { url: "http://a", keep_alive: 30 m } }', ':1:47 machines.m.keep_alive: expected a duration'],
    ['machines: { m: { url: "http://a", keep_alive: true } }', ':1:47 machines.m.keep_alive: expected a duration'],
    [
      'machines: { m: { url: "http://a", type: lmstudio } }',
      ':1:41 machines.m.type: expected one of echo, ollama, openai, openrouter, got "lmstudio"'
    ],
    [
      'machines: { m: { url: "http://a", timeouts: { idle_ms: 99 } } }',
      ':1:56 machines.m.timeouts.idle_ms: expected an integer from 100 to 86400000, got 99'
    ],
    ['machines: { m: { url: "http://a", timeouts: { idle_ms: 86400001 } } }', ':1:56 machines.m.timeouts.idle_ms: expected'],
    ['machines: { m: { url: "http://a", models: [a, a] } }', ':1:47 machines.m.models.1: stands twice'],
    ['machines: { m: { url: "http://a", models: a } }', ':1:43 machines.m.models: expected a list of model names, got "a"'],
    ['machines: { m: { url: "http://a", models: [""] } }', ':1:44 machines.m.models.0: expected the name of a model, got ""'],
    ['providers: { p: { base_url: "http://a", stream_usage: yes } }', ':1:55 providers.p.stream_usage: expected true or false, got "yes"'],
    [
      'providers: { p: { base_url: "http://a", headers: { "a b": x } } }',
      ':1:52 providers.p.headers.a b: expected the name of a header, got "a b"'
    ],
    [
      'providers: { p: { base_url: "http://a", headers: { a: "x\\ny" } } }',
      ':1:55 providers.p.headers.a: expected the text of a header, on one line, got a text'
    ],
    ['aliases: { a: [] }', ':1:15 aliases.a: expected a list of model names, or {weighted: {model: weight}}, got an empty list'],
    ['aliases: { a: x }', ':1:15 aliases.a: expected a list of model names'],
    ['aliases: { a: [b, 1] }', ':1:19 aliases.a.1: expected the name of a model, got 1'],
    ['aliases: { a: { weighted: {} } }', ':1:27 aliases.a.weighted: expected a map of model names to weights, got an empty map'],
    ['aliases: { a: { weighted: { b: 0 } } }', ':1:32 aliases.a.weighted.b: expected a weight above 0, at most 1000000, got 0'],
    ['aliases: { a: { weigted: { b: 1 } } }', ':1:12 aliases.a: weighted is missing'],
    ['prices: { a: { input_usd_per_1m: 1 } }', ':1:11 prices.a: output_usd_per_1m is missing, expected a number from 0 to 1000000'],
    ['prices: { a: { input_usd_per_1m: -1, output_usd_per_1m: 1 } }', ':1:34 prices.a.input_usd_per_1m: expected a number'],
    [
      'policy: { reasoning_field: thinking }',
      ':1:28 policy.reasoning_field: expected reasoning, reasoning_content or both, got "thinking"'
    ],
    ['policy: { electricity_usd_per_kwh: 11 }', ':1:36 policy.electricity_usd_per_kwh: expected a number from 0 to 10, got 11'],
    ['policy: { order: [a, a] }', ':1:22 policy.order.1: stands twice'],
    // Meaning.
    ['machines: { m: { url: "rtx:11434" } }', ':1:23 machines.m.url: expected an http or https URL, got "rtx:11434"'],
    ['machines: { m: { url: "http://a/#x" } }', ':1:23 machines.m.url: expected a URL without ? and #'],
    [
      'machines: { m: { url: "http://a:11434/v1" } }',
      ':1:23 machines.m.url: expected the address of Ollama without /v1 or /api, or type: openai'
    ],
    [
      'machines: { m: { url: "https://api.openai.com/v1", type: openai } }',
      ':1:23 machines.m.url: a rented service, expected a machine of yours: it belongs under providers'
    ],
    ['machines: { m: { url: "http://a" }, n: { url: "http://a/" } }', ':1:47 machines.n.url: the same server as machines.m'],
    [
      'machines: { m: { url: "http://a", type: openai, num_ctx: 4096 } }',
      ':1:49 machines.m.num_ctx: only a machine of type ollama has this'
    ],
    ['machines: { auto: { url: "http://a" } }', ':1:13 machines.auto: a reserved name'],
    ['providers: { cloud: { base_url: "http://a" } }', ':1:14 providers.cloud: a reserved name'],
    ['machines: { a: { url: "http://a" } }\nproviders: { a: { base_url: "http://b" } }', ':2:14 providers.a: a machine has this name too'],
    ['providers: { groq: { api_key: a } }', ':1:14 providers.groq: base_url is missing, expected a URL'],
    ['providers: { openai: {} }', ':1:14 providers.openai: api_key is missing, and https://api.openai.com/v1 answers nobody without one'],
    [
      'providers: { p: { base_url: "http://a", headers: { Host: x } } }',
      ':1:52 providers.p.headers.Host: a header of the connection, it cannot be set'
    ],
    ['providers: { p: { base_url: "http://a", headers: { A: x, a: y } } }', ':1:58 providers.p.headers.a: this header stands twice'],
    ['aliases: { local: [a] }', ':1:12 aliases.local: auto, local, cloud and echo have a meaning of their own'],
    ['aliases: { "auto:mine": [a] }', ':1:12 aliases.auto:mine: auto, local'],
    [
      'machines: { rtx: { url: "http://a" } }\npolicy: { order: [rtxx] }',
      ':2:19 policy.order.0: no machine or provider is called "rtxx", did you mean "rtx"?'
    ],
    [
      'providers:\n  openai: { api_key: ${OPENAI_KEY} }\n',
      ':2:22 providers.openai.api_key: the environment variable OPENAI_KEY is not set'
    ],
    ['machines: { m: { url: "${}" } }', ':1:23 machines.m.url: expected ${NAME} or ${NAME:-default} (a plain ${ is written $${)'],
    ['machines: { m: { url: "${a-b}" } }', ':1:23 machines.m.url: expected ${NAME}'],
    ['aliases: { a: [x, "${a"] }', ':1:19 aliases.a.1: expected ${NAME}'],
    // Syntax.
    ['a: 1\na: 2\n', ':2:1 a: this key stands twice'],
    ['machines:\n  m: { url: x }\n  m: { url: y }\n', ':3:3 machines.m: this key stands twice'],
    ['machines:\n  1060: { url: "http://a" }\n  "1060": { url: "http://b" }\n', ':3:3 machines.1060: this key stands twice'],
    ['machines: { m: \n', ':1:16 Flow map in block collection must be sufficiently indented and end with a }'],
    ['a: b: c', ':1:4 Nested mappings are not allowed in compact mappings'],
    ['a: 1\n---\nb: 2\n', ':2:1 a second YAML document begins, expected one'],
    ['machines: { m: { url: !env HOME } }', ':1:23 Unresolved tag'],
    ['machines: { m: { url: !!binary aGk= } }', ':1:23 Unresolved tag'],
    ['? [a]\n: 1\n', ':1:3 expected a text as the key'],
    ['machines: *m', ':1:11 a YAML alias without an anchor before it'],
    ['machines: &m [*m]', ':1:15 a YAML alias inside of its own anchor'],
    [`a: &a [x]\nb: [${'*a, '.repeat(101)}]`, ':1:1 too many YAML aliases, at most 100 are read'],
    [
      'a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]',
      ':1:1 too many YAML aliases, at most 100 are read'
    ],
    ['['.repeat(200_000), ':1:1 nested too deeply']
  ]
  for (const [yaml, first] of cases) {
    const problems = await problemsOf(load(t, yaml))
    const shown = yaml.slice(0, 100)
    t.ok(problems.startsWith(`llm-mcp.yaml${first}`), shown, { found: problems, wanted: first })
  }
})

t.test('anchors serve to say a thing once', async t => {
  const settings = await load(
    t,
    'machines:\n  a: { url: "http://a", timeouts: &slow { total_ms: 5000 } }\n  b: { url: "http://b", timeouts: *slow }\n'
  )
  t.match(settings.upstreams, [{ timeouts: { totalMs: 5000 } }, { timeouts: { totalMs: 5000 } }])
  t.match(
    await problemsOf(
      load(t, 'machines:\n  a: { url: "http://a", timeouts: &slow { total_ms: 1 } }\n  b: { url: "http://b", timeouts: *slow }\n')
    ),
    /^llm-mcp\.yaml:2:53 machines\.a\.timeouts\.total_ms: .*\nllm-mcp\.yaml:2:53 machines\.b\.timeouts\.total_ms: /
  )
})

t.test('problems come in the order of the file, and one for each place', async t => {
  const problems = await problemsOf(load(t, 'providers:\n  a: { base_url: 7 }\n  b: { type: ${NOT_SET}, base_url: 8 }\n'))
  t.same(problems.split('\n'), [
    'llm-mcp.yaml:2:18 providers.a.base_url: expected a URL, got 7',
    'llm-mcp.yaml:3:14 providers.b.type: the environment variable NOT_SET is not set',
    'llm-mcp.yaml:3:36 providers.b.base_url: expected a URL, got 8'
  ])
})

t.test('a file of aliases alone is refused at once', async t => {
  const start = process.cpuUsage()
  t.match(await problemsOf(load(t, `a: &a [x]\nb: [${'*a,'.repeat(100_000)}]`)), 'too many YAML aliases')
  const { user } = process.cpuUsage(start)
  t.ok(user < 10_000_000, `took ${user} us`)
})

t.test('an alias names models, not other aliases; its own name in it is the model of that name', async t => {
  const another = (name: string) => `an alias names models, not other aliases; "${name}" is an alias`
  const itself = 'an alias that names only itself stands for nothing: name its models'
  const cases: readonly [yaml: string, problems: readonly string[]][] = [
    ['aliases: { a: [b], b: [x] }', [`:1:16 aliases.a.0: ${another('b')}`]],
    ['aliases:\n  b: [x]\n  a: [x, b]\n', [`:3:10 aliases.a.1: ${another('b')}`]],
    ['aliases: { a: { weighted: { x: 1, b: 2 } }, b: [x] }', [`:1:35 aliases.a.weighted.b: ${another('b')}`]],
    ['aliases: { a: [b], b: [a] }', [`:1:16 aliases.a.0: ${another('b')}`, `:1:24 aliases.b.0: ${another('a')}`]],
    ['aliases: { a: [a] }', [`:1:16 aliases.a.0: ${itself}`]],
    ['aliases: { a: { weighted: { a: 1 } } }', [`:1:29 aliases.a.weighted.a: ${itself}`]]
  ]
  for (const [yaml, problems] of cases)
    t.same(
      (await problemsOf(load(t, yaml))).split('\n'),
      problems.map(problem => `llm-mcp.yaml${problem}`)
    )
  for (const yaml of [
    'aliases: { a: [a, b] }',
    'aliases: { a: { weighted: { a: 1, b: 2 } } }',
    'aliases: { a: [b], c: [b] }',
    'aliases: { a: [rtx/a] }',
    'machines: { rtx: { url: "http://rtx", models: [a] } }\naliases: { a: [a] }',
    'aliases: { constructor: [toString] }'
  ])
    t.ok((await load(t, yaml)).aliases.size > 0, yaml)
})

t.test('files that are no configuration are refused before they are parsed', async t => {
  const cwd = t.testdir({})
  const path = join(cwd, 'llm-mcp.yaml')
  await writeFile(path, '#'.repeat(1024 * 1024))
  t.equal((await loadSettings({ env: {}, cwd })).configured, false, '1 MiB is read')
  await writeFile(path, '#'.repeat(1024 * 1024 + 1))
  t.equal(await problemsOf(loadSettings({ env: {}, cwd })), 'llm-mcp.yaml: larger than 1 MiB')
  await writeFile(path, Buffer.from([0x61, 0xff]))
  t.equal(await problemsOf(loadSettings({ env: {}, cwd })), 'llm-mcp.yaml: not UTF-8')
})

t.test('no message shows a key, wherever it was written', async t => {
  const secret = 'sk-or-v1-Hunter2Hunter2Hunter2'
  const random = 'Zk3vQ9xTt7Lw2Rb8Yc5M'
  const env = { SECRET: secret, WORD: 'Hunter2', OPENAI_API_KEY: `${secret} ` }
  const cases = [
    `providers: { openai: ${secret} }`,
    `providers: { openai: { ${secret}: 1 } }`,
    `providers: { ${secret}: { base_url: "http://a" } }`,
    `providers: { openai: { api_key: [${secret}] } }`,
    `providers: { openai: { api_key: "${secret} and more" } }`,
    `providers: { openai: { api_key: ${secret}, base_url: ${secret} } }`,
    `providers: { openai: { base_url: "https://me:${secret}@host/v1" } }`,
    `providers: { openai: { base_url: "ftp://me:${secret}@host/v1" } }`,
    `providers: { openai: { base_url: "https://host/v1?key=${secret}" } }`,
    'providers: { openai: { base_url: "${SECRET}" } }',
    'providers: { openai: { type: "${SECRET}", headers: { "${SECRET}": "${SECRET}\\n" } } }',
    `providers: { p: { base_url: "http://a", headers: { authorization: "Bearer ${secret}\\n" } } }`,
    `providers: { openai: { api_key: "${secret}" }`,
    `providers:\n  openai:\n    api_key: ${secret}: x\n`,
    `providers:\n  openai:\n    api_key: "${secret}\n`,
    `providers:\n  openai:\n    api_key: !${secret} x\n`,
    `providers:\n  openai:\n    api_key: *${secret}\n`,
    `${secret}`,
    `policy: { order: [${secret}] }`,
    'policy: { order: ["http://me:Hunter2@host"] }',
    'providers: { openai: { type: "${WORD}" } }',
    'machines: { m: { url: "${WORD}" } }',
    'machines: { m: { url: "http://a", keep_alive: "${WORD}" } }',
    `machines: { m: { url: "http://a", keep_alive: ${random} } }`,
    `aliases: { a: [b], c: ${random} }`
  ]
  for (const yaml of cases) {
    const problems = await problemsOf(load(t, yaml, env))
    t.match(problems, /^llm-mcp\.yaml:\d+:\d+ /, yaml)
    t.notMatch(problems, /Hunter2/, yaml)
    t.notMatch(problems, random, yaml)
  }
})

t.test('the summary for the banner shows four characters of a key, and none of a short one', async t => {
  const settings = await load(
    t,
    'machines:\n  m: { url: "http://a", api_key: of-a-machine-of-mine-0001 }\nproviders:\n  keyless: { base_url: "http://b/v1" }\n  short: { base_url: "http://c/v1", api_key: abcd1234 }\n',
    { OPENAI_API_KEY: 'sk-0123456789abcdefWXYZ' }
  )
  t.same(redactedSummary(settings), [
    { id: 'keyless', baseUrl: 'http://b/v1', key: null },
    { id: 'short', baseUrl: 'http://c/v1', key: '…' },
    { id: 'openai', baseUrl: 'https://api.openai.com/v1', key: '…WXYZ' }
  ])
})

t.test('limits of machines: JSON over file, a name over "*", both over the file of machines', async t => {
  const cwd = t.testdir({
    'llm-mcp.yaml':
      'machines:\n  a: { url: "http://a", max_concurrency: 8, vram_gb: 4 }\n  b: { url: "http://b", max_concurrency: 8 }\n  c: { url: "http://c", type: openai }\n',
    'limits.json':
      '{\n\t"*": {"max_concurrency": 3, "ram_gb": 16, "vram_gb": null},\n\t"a": {"max_concurrency": 4, "deny_models": ["x"]}\n}\n'
  })
  const settings = await loadSettings({
    cwd,
    env: {
      DEVICE_LIMITS_FILE: 'limits.json',
      DEVICE_LIMITS_JSON: '{"a": {"vram_gb": 24}, "b": {"max_concurrency": 5, "max_context_k": 32}}',
      DEVICE_MAX_CONCURRENCY: '9'
    }
  })
  t.match(upstream(settings, 'a').device, { maxConcurrency: 4, vramGb: 24, ramGb: 16, watts: 300 })
  t.match(upstream(settings, 'b').device, { maxConcurrency: 5, vramGb: null, ramGb: 16 })
  t.match(upstream(settings, 'c').device, { maxConcurrency: 3 })
  t.same(
    settings.deviceLimits,
    new Map([
      ['*', { maxConcurrency: 3, ramGb: 16 }],
      ['a', { maxConcurrency: 4, denyModels: ['x'], vramGb: 24 }],
      ['b', { maxConcurrency: 5, maxContextK: 32 }]
    ])
  )
})

t.test('limits that are wrong are placed like everything else', async t => {
  const cwd = t.testdir({ 'limits.json': '{"a": {"max_concurency": 1}}' })
  const cases: readonly [env: Variables, message: string][] = [
    [{ DEVICE_LIMITS_FILE: 'limits.json' }, 'limits.json:1:8 a.max_concurency: unknown key, did you mean "max_concurrency"?'],
    [
      { DEVICE_LIMITS_JSON: '{"a": {"max_concurrency": 0}}' },
      'DEVICE_LIMITS_JSON:1:27 a.max_concurrency: expected an integer from 1 to 64, or null, got 0'
    ],
    [
      { DEVICE_LIMITS_JSON: '{"a": {"ram_gb": "16"}}' },
      'DEVICE_LIMITS_JSON:1:18 a.ram_gb: expected a number from 0 to 1000000, or null, got "16"'
    ],
    [{ DEVICE_LIMITS_JSON: '{"a": 2}' }, 'DEVICE_LIMITS_JSON:1:7 a: expected a map of limits, got 2'],
    [{ DEVICE_LIMITS_JSON: '[1]' }, 'DEVICE_LIMITS_JSON:1:1 expected a map of limits by machine, got a list'],
    [
      { DEVICE_LIMITS_JSON: '{"a": {"allow_models": "x"}}' },
      'DEVICE_LIMITS_JSON:1:24 a.allow_models: expected a list of model names, or null, got "x"'
    ],
    [{ DEVICE_LIMITS_JSON: '{"a": {' }, 'DEVICE_LIMITS_JSON:1:8 '],
    [{ DEVICE_LIMITS_JSON: '{"a": {}, "a": {}}' }, 'DEVICE_LIMITS_JSON:1:11 a: this key stands twice']
  ]
  for (const [env, message] of cases) {
    const problems = await problemsOf(loadSettings({ env, cwd }))
    t.ok(problems.startsWith(message), JSON.stringify(env), { found: problems, wanted: message })
  }
})

t.test('the published schema is the one in use', async t => {
  const published: unknown = JSON.parse(await readFile(join(root, 'llm-mcp.schema.json'), 'utf8'))
  t.same(published, configJsonSchema(), 'npm run schema writes it')
})

t.test('the example loads, without a key and with all of them', async t => {
  const cwd = t.testdir({})
  const LLM_MCP_CONFIG = join(root, 'llm-mcp.example.yaml')
  t.same(ids(await loadSettings({ cwd, env: { LLM_MCP_CONFIG } })), ['rtx', 'studio', 'mini'])
  const keys = { OPENAI_API_KEY: 'a', OPENROUTER_API_KEY: 'b', GROQ_API_KEY: 'c' }
  t.same(ids(await loadSettings({ cwd, env: { LLM_MCP_CONFIG, ...keys } })), ['rtx', 'studio', 'openrouter', 'openai', 'mini', 'groq'])
})

t.test('.env.example holds every setting, each with a value that is accepted', async t => {
  const text = await readFile(join(root, '.env.example'), 'utf8')
  const settings = new Map([...text.matchAll(/^#([A-Z_]+)=(.*)$/gm)].map(([, name = '', value = '']) => [name, value]))
  t.same([...settings.keys()].sort(), [
    'DATABASE_URL',
    'DEVICE_LIMITS_FILE',
    'DEVICE_LIMITS_JSON',
    'DEVICE_MAX_CONCURRENCY',
    'ELECTRICITY_USD_PER_KWH',
    'HOST',
    'LLM_MCP_ADMIN_KEY',
    'LLM_MCP_ALLOWED_HOSTS',
    'LLM_MCP_AUTH',
    'LLM_MCP_CONFIG',
    'LLM_MCP_CORS_ORIGINS',
    'LLM_MCP_DATA_DIR',
    'LOG_LEVEL',
    'OLLAMA_HOST',
    'OPENAI_API_KEY',
    'OPENAI_UPSTREAM_URL',
    'OPENROUTER_API_KEY',
    'OPENROUTER_UPSTREAM_URL',
    'OTEL_EXPORTER_OTLP_ENDPOINT',
    'PORT'
  ])
  // Empty on purpose, and refused when it is; the files need to be there.
  settings.delete('LLM_MCP_ADMIN_KEY')
  const cwd = t.testdir({ 'device-limits.json': '{}', 'llm-mcp.yaml': '' })
  t.match(await loadSettings({ env: Object.fromEntries(settings), cwd }), {
    port: 4000,
    host: '127.0.0.1',
    auth: true,
    logLevel: 'info',
    electricityUsdPerKwh: 0.25
  })
})

t.test('settings of pieces to come are refused, not obeyed in silence', async t => {
  const cwd = t.testdir({})
  await t.rejects(loadSettings({ env: { LLM_MCP_ROLE: 'worker' }, cwd }), {
    message: /LLM_MCP_ROLE can only be "all" in this version, got "worker"/
  })
})

t.test('origins are as browsers write them', async t => {
  const cwd = t.testdir({})
  const origins = async (text: string) => (await loadSettings({ env: { LLM_MCP_CORS_ORIGINS: text }, cwd })).corsOrigins
  t.same(await origins(' https://Chat.example.com/, http://localhost:3000 ,'), ['https://chat.example.com', 'http://localhost:3000'])
  t.same(await origins('*'), ['*'])
  for (const wrong of ['chat.example.com', 'https://a/path', 'https://a:443', '*.example.com', 'null'])
    await t.rejects(origins(wrong), { message: /^LLM_MCP_CORS_ORIGINS must be origins such as/ }, wrong)
})

t.test('models are declared to be one vector space, each in one only', async t => {
  const load = (file: object) =>
    loadSettings({ env: { OPENAI_API_KEY: 'sk-0123456789' }, cwd: t.testdir({ 'llm-mcp.yaml': JSON.stringify(file) }) })
  const { vectorSpaces, vectorDimensions } = await load({
    vector_spaces: { nomic: { models: ['nomic-embed-text:latest', 'openai/nomic'], dimensions: 768 }, bge: { models: ['bge-m3'] } }
  })
  t.same(
    [...vectorSpaces],
    [
      ['nomic-embed-text', 'nomic'],
      ['openai/nomic', 'nomic'],
      ['bge-m3', 'bge']
    ]
  )
  t.same([...vectorDimensions], [['nomic', 768]])
  await t.rejects(load({ vector_spaces: { a: { models: ['x'] }, b: { models: ['x:latest'] } } }), {
    message: /vector_spaces\.b\.models: "x:latest" is in the space "a" already/
  })
  await t.rejects(load({ vector_spaces: { a: { dimensions: 5 } } }), { message: /vector_spaces\.a/ })
})

t.test('what is not interpreted goes to the provider named openai, or another that is named', async t => {
  const env = { OPENAI_API_KEY: 'sk-0123456789' }
  const load = (file: object) => loadSettings({ env, cwd: t.testdir({ 'llm-mcp.yaml': JSON.stringify(file) }) })
  t.match((await load({})).passthrough, { provider: { id: 'openai' }, paths: ['audio', 'images', 'moderations'] })
  const machines = { whisper: { url: 'http://10.0.0.9:8000/v1', type: 'openai' }, box: { url: 'http://10.0.0.8:11434' } }
  t.match((await load({ machines, passthrough: { provider: 'whisper', paths: ['audio'] } })).passthrough, {
    provider: { id: 'whisper' },
    paths: ['audio']
  })
  const groq = { base_url: 'https://api.groq.com/openai/v1', api_key: '$'.concat('{GROQ_API_KEY:-}') }
  t.match((await load({ providers: { groq }, passthrough: { provider: 'groq' } })).passthrough, { provider: null }, 'left out with its key')
  await t.rejects(load({ machines, passthrough: { provider: 'wisper' } }), { message: /passthrough\.provider: .*did you mean "whisper"/ })
  await t.rejects(load({ machines, passthrough: { provider: 'box' } }), {
    message: /passthrough\.provider: a server that speaks OpenAI is needed/
  })
  for (const path of ['chat', 'keys', 'metrics', 'v1'])
    await t.rejects(load({ passthrough: { paths: [path] } }), { message: /passthrough\.paths/ }, path)
})

t.test('a file .env adds what the environment does not say', async t => {
  const cwd = t.testdir({ '.env': '# ours\nPORT=4321\nHOST="localhost"\nOPENROUTER_API_KEY=sk-or-0123456789abcdef\n' })
  t.match(await loadSettings({ env: { PORT: '4322' }, cwd }), { port: 4322, host: 'localhost', upstreams: [{ id: 'openrouter' }] })
  const wrong = t.testdir({ '.env': 'LLM_MCP_PRT=1\n' })
  await t.rejects(loadSettings({ env: {}, cwd: wrong }), { message: /LLM_MCP_PRT/ })
})

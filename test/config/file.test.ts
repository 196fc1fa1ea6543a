// What llm-mcp.yaml says: machines, providers, aliases, prices, policies, and variables filled in.
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: `${NAME}` is what a configuration file holds

import { join } from 'node:path'
import t from 'tap'
import { loadSettings, redactedSummary } from '../../bin/config.ts'
import { ids, load, problemsOf, upstream, type Variables } from './support.ts'

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
  for (const path of ['chat', 'jobs', 'keys', 'metrics', 'v1'])
    await t.rejects(load({ passthrough: { paths: [path] } }), { message: /passthrough\.paths/ }, path)
})

t.test('the bounds of the queue are those of the file, each with its default', async t => {
  const settings = await load(t, 'queue: { max_waiting: 0, max_jobs_per_source: 5, worker_concurrency: 1 }')
  t.same(settings.queue, { maxWaiting: 0, maxWaitingPerSource: 1_000, maxJobs: 1_000_000, maxJobsPerSource: 5, workerConcurrency: 1 })
  t.match(await load(t, 'queue:\n'), { queue: { maxWaiting: 10_000, workerConcurrency: 64 } })
  await t.rejects(load(t, 'queue: { worker_concurrency: 0 }'), { message: /queue\.worker_concurrency: expected an integer from 1 to 1024/ })
  await t.rejects(load(t, 'queue: { max_wating: 5 }'), { message: /queue\.max_wating: unknown key, did you mean "max_waiting"\?/ })
})

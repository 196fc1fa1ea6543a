// What is wrong is said with line, column and place, and never with a key.
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: `${NAME}` is what a configuration file holds

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { loadSettings } from '../../bin/config.ts'
import { load, problemsOf } from './support.ts'

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
    [
      '- a',
      ':1:1 expected a map with providers, machines, aliases, prices, same_models, vector_spaces, passthrough, queue, discovery, policy, got a list'
    ],
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

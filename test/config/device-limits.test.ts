// Limits of machines from DEVICE_LIMITS_FILE and DEVICE_LIMITS_JSON.

import t from 'tap'
import { loadSettings } from '../../bin/config.ts'
import { problemsOf, upstream, type Variables } from './support.ts'

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
      { DEVICE_LIMITS_JSON: '{"a": {"max_context_k": 0}}' },
      'DEVICE_LIMITS_JSON:1:25 a.max_context_k: expected a number from 1 to 1000000, or null, got 0'
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

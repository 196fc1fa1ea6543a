import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { readBody } from '../../gateway/body.ts'
import { GatewayError } from '../../routing/errors.ts'
import { fc } from '../support/properties.ts'

const read = (text: string) => readBody(Buffer.from(text))

function refusal(bytes: Buffer | string): GatewayError {
  try {
    readBody(Buffer.from(bytes))
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
  throw new Error('it was taken')
}

t.test('a body is read once for facts and once for texts, and kept as it came', async t => {
  const text = ' {"model":"größe","n":2,"messages":[{"content":"中"}]}\n'
  const body = read(text)
  t.equal(body.bytes.toString(), text)
  t.equal(body.facts.n, 2)
  t.equal((body.facts.model as string).length, 7, 'facts count bytes')
  t.same(body.json(), JSON.parse(text))
  t.equal(body.json(), body.json(), 'parsed once')
  t.equal(body.with({}), body.bytes, 'no changes, no copy')
})

t.test('messages are found with their ends, however they are written; what is kept holds nothing that was only looked at', async t => {
  const list =
    ' [ {"role":"user","content":"a,]}\\""} ,\n{"role":"assistant","tool_calls":[{"a":[1,2]},{}]}, {"role":"user","content":[{"type":"text"}]} ]'
  const body = read(`{"model":"m","messages":${list},"n":[1,2]}`)
  const { bytes, ends } = body.messages() as NonNullable<ReturnType<typeof body.messages>>
  t.equal(bytes.toString(), list.trim())
  t.same(
    ends.map((end, at) => JSON.parse(bytes.subarray((ends[at - 1] ?? 0) + 1, end).toString()).role),
    ['user', 'assistant', 'user']
  )
  t.equal(read('{"model":"m"}').messages(), null)
  t.equal(read('{"messages":"none"}').messages(), null)
  t.notOk('facts' in body.kept)
  t.same(body.kept.json(), body.json())
  t.equal(body.kept.bytes, body.bytes)
})

t.test('values are replaced, added and removed, and everything else stays to the byte', async t => {
  const cases: readonly [text: string, changes: Record<string, unknown>, expected: string][] = [
    ['{"model":"a"}', { model: 'b' }, '{"model":"b"}'],
    ['{"model":"a","n":1.0}', { model: 'b' }, '{"model":"b","n":1.0}'],
    ['{ "n" : 1e5 , "model" : "a" }', { model: 'b' }, '{ "n" : 1e5 , "model" : "b" }'],
    ['{"big":12345678901234567890,"model":null}', { model: 'b' }, '{"big":12345678901234567890,"model":"b"}'],
    ['{"model":{"model":"in"},"x":{"model":"in"}}', { model: 'b' }, '{"model":"b","x":{"model":"in"}}'],
    ['{"x":"\\"model\\":1","model":[1,{"a":"]}"}]\n}', { model: 'b' }, '{"x":"\\"model\\":1","model":"b"\n}'],
    ['{"x":"model","y":["model"],"model":true}', { model: 'b' }, '{"x":"model","y":["model"],"model":"b"}'],
    ['{"n":1}', { model: 'b' }, '{"model":"b","n":1}'],
    [' {} ', { model: 'b' }, ' {"model":"b"} '],
    ['{\n}', { model: 'b', x: [1] }, '{"model":"b","x":[1]\n}'],
    ['{"a":1,"b":2}', { b: { c: 'é' }, a: 0, d: 'n' }, '{"d":"n","a":0,"b":{"c":"é"}}'],
    ['{"a":1,"b":2,"c":3}', { b: undefined }, '{"a":1,"c":3}'],
    ['{ "a" : 1.0 , "b" : 2 }', { b: undefined }, '{"a" : 1.0}'],
    ['{"b":2}', { b: undefined }, '{}'],
    ['{"b":2}', { b: undefined, c: 1 }, '{"c":1}'],
    ['{"a":"ü","b":2}', { b: undefined, a: 'ö' }, '{"a":"ö"}'],
    ['{"a":1}', { b: undefined }, '{"a":1}'],
    ['{}', { b: undefined }, '{}'],
    ['{"constructor":1,"toString":2,"b":3}', { b: undefined }, '{"constructor":1,"toString":2}']
  ]
  for (const [text, changes, expected] of cases)
    t.equal(read(text).with(changes).toString(), expected, `${text} with ${JSON.stringify(changes)}`)
})

t.test('a body can be changed any number of times, each time from what came', async t => {
  const body = read('{"model":"a","n":1}')
  t.equal(body.with({ model: 'b' }).toString(), '{"model":"b","n":1}')
  t.equal(body.with({ n: undefined }).toString(), '{"model":"a"}')
  t.equal(body.with({ model: 'c' }).toString(), '{"model":"c","n":1}')
  t.equal(body.bytes.toString(), '{"model":"a","n":1}')
})

t.test('two keys of one name, or an escaped one, become what the last one says, for everybody', async t => {
  const cases: readonly [text: string, value: Record<string, unknown>][] = [
    ['{"model":"a","model":"b"}', { model: 'b' }],
    ['{"model":"a","mod\\u0065l":"b"}', { model: 'b' }],
    ['{"m\\u006fdel":"a"}', { model: 'a' }],
    ['{"a\\"b":1,"model":"a"}', { 'a"b': 1, model: 'a' }],
    ['{"a\\\\":1}', { 'a\\': 1 }],
    ['{"a\\nb":1,"a\\nb":2}', { 'a\nb': 2 }],
    ['{"\\ud800":1}', { '\ud800': 1 }],
    ['{"\\u0000":1,"x":{"a\\"b":1}}', { '\u0000': 1, x: { 'a"b': 1 } }],
    ['{"modèle":1,"modèle":2}', { modèle: 2 }]
  ]
  for (const [text, value] of cases) {
    const body = read(text)
    t.same(JSON.parse(body.bytes.toString()), value, text)
    t.same(body.json(), value)
    t.same(JSON.parse(body.with({ model: 'new' }).toString()), { ...value, model: 'new' })
    const { model: _, ...rest } = value
    t.same(JSON.parse(body.with({ model: undefined }).toString()), rest)
  }
})

t.test('what is no JSON object is refused', async t => {
  const texts = [
    '',
    ' ',
    'x',
    '[]',
    '[{"model":"a"}]',
    '"model"',
    '1',
    'null',
    'true',
    '{',
    '{"a"}',
    '{"a":1,}',
    '{"a":1}}',
    '{"a":1}{}',
    "{'a':1}",
    '{"a":"\n"}',
    '\ufeff',
    '\ufeff\ufeff{}',
    ' \ufeff{}',
    '{"a":01}'
  ]
  for (const text of texts) t.match(refusal(text), { code: 'invalid_request', status: 400 }, JSON.stringify(text))
})

t.test('a mark of UTF-8 before the object is passed over, and not passed on', async t => {
  const body = read('\ufeff {"model":"a","x":"\ufeff"}')
  t.equal(body.bytes.toString(), ' {"model":"a","x":"\ufeff"}')
  t.same(body.json(), { model: 'a', x: '\ufeff' })
  t.equal(body.with({ model: 'b' }).toString(), ' {"model":"b","x":"\ufeff"}')
  t.equal(read('\ufeff{"a":1,"a":2}').bytes.toString(), '{"a":2}')
})

t.test('what is no UTF-8 is refused', async t => {
  for (const bytes of [[0xff], [0xc3], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80]]) {
    const error = refusal(Buffer.concat([Buffer.from('{"a":"'), Buffer.from(bytes), Buffer.from('"}')]))
    t.match(error.message, /UTF-8/)
  }
})

t.test('a prototype is not to be set, at any depth and however it is spelled', async t => {
  const texts = [
    '{"__proto__":{}}',
    '{"a":[{"__proto__" : 1}]}',
    '{"__proto__"\n:1}',
    '{"\\u005f_proto__":1}',
    '{"a":{"\\u005F\\u005fproto__":1}}',
    '{"a":{"__pr\\u006fto__":1}}',
    '{"a":{"\\u005f\\u005f\\u0070\\u0072\\u006f\\u0074\\u006f\\u005f\\u005f" :1}}'
  ]
  for (const text of texts) t.match(refusal(text).message, /__proto__/, text)
  for (const text of [
    '{"a":"__proto__"}',
    '{"a":["__proto__"]}',
    '{"a":"\\"__proto__\\":1"}',
    '{"a":"\\\\u005f_proto__"}',
    '{"proto":1}',
    '{"___proto__":1}'
  ]) {
    t.same(read(text).json(), JSON.parse(text), `${text} sets none`)
  }
})

t.test('64 levels and 200,000 elements are the limit', async t => {
  const nested = (depth: number) => `{"a":${'['.repeat(depth - 1)}${']'.repeat(depth - 1)}}`
  t.ok(read(nested(64)))
  t.match(refusal(nested(65)).message, /deeper than 64/)
  t.match(refusal(nested(100_000)).message, /deeper than 64/)
  t.match(refusal('['.repeat(100_000)).message, /deeper than 64/)
  t.ok(read(`{"a":"${'['.repeat(1_000)}"}`), 'brackets in a text are text')
  const list = (count: number) => `{"a":[${'1,'.repeat(count - 1)}1]}`
  t.ok(read(list(199_990)))
  t.match(refusal(list(200_001)).message, /more than 200000/)
  t.match(refusal(`{"a":[${'{},'.repeat(70_000)}{}]}`).message, /more than 200000/)
  t.ok(read(`{"a":"${','.repeat(300_000)}"}`), 'commas in a text are text')
})

t.test('an error never says what was in the body', async t => {
  const broken = fc.constantFrom(
    (canary: string) => `{"a":${canary}}`,
    (canary: string) => `{"a":"x"${canary}"b":1}`,
    (canary: string) => canary,
    (canary: string) => `{"${canary}`,
    (canary: string) => `{"a":"${canary}\n"}`,
    (canary: string) => `{"a":1}${canary}`,
    (canary: string) => `["${canary}"]`,
    (canary: string) => `{"a":${'['.repeat(70)}"${canary}"`,
    (canary: string) => `{"__proto__":"${canary}"}`
  )
  const canary = fc.constantFrom('xyzzyq', ' position 7654321', 'at position 7654321 (line 1)', '😀xyzzyq', 'xyzzyq'.repeat(100))
  fc.assert(
    fc.property(broken, canary, fc.nat(3), (make, text, spaces) => {
      const { message } = refusal(' '.repeat(spaces) + make(text))
      return !/xyzzyq|7654321/.test(message) && message.length < 200
    })
  )
  t.match(refusal('{"a":1 x}').message, /at byte 7\)/)
  t.match(refusal('{"é":1 x}').message, /at byte 8\)/, 'bytes, not characters')
})

// ---- any object

const space = fc.constantFrom('', '', '', ' ', '\n', '\t', '\r\n  ')
const piece = fc.constantFrom(
  'a',
  'model',
  ' ',
  'é',
  '中文',
  '😀',
  '\\u00e9',
  '\\ud83d\\ude00',
  '\\n',
  '\\"',
  '\\\\',
  '{',
  '}',
  '[',
  ']',
  ':',
  ',',
  '\\"model\\":1'
)
const textOf = fc.array(piece, { maxLength: 6 }).map(pieces => `"${pieces.join('')}"`)
const numberOf = fc.oneof(
  fc.constantFrom('0', '1e5', '1.0', '1E+2', '-1.50', '12345678901234567890', '0.1e-7', '100000000000000000000000'),
  fc.integer().map(String)
)
const plainKeys = [
  '"model"',
  '"stream_options"',
  '"stream"',
  '"a"',
  '"constructor"',
  '"toString"',
  '"é"',
  '"模型"',
  '""',
  '"1"',
  '"0"',
  '"hasOwnProperty"'
]
const trickyKeys = ['"m\\u006fdel"', '"stream\\u005foptions"', '"a\\"b"', '"x\\\\"', '"q\\n"', '"\\u00e9"']
const { value } = fc.letrec<{ value: string; list: string; record: string }>(tie => ({
  value: fc.oneof({ maxDepth: 4 }, textOf, numberOf, fc.constantFrom('true', 'false', 'null'), tie('list'), tie('record')),
  list: fc.tuple(fc.array(fc.tuple(space, tie('value'), space), { maxLength: 4 }), space).map(([items, empty]) => {
    return `[${items.length === 0 ? empty : items.map(parts => parts.join('')).join(',')}]`
  }),
  record: fc
    .array(fc.tuple(space, fc.constantFrom(...plainKeys, ...trickyKeys), space, space, tie('value'), space), { maxLength: 4 })
    .map(entries => `{${entries.map(([a, key, b, c, item, d]) => `${a}${key}${b}:${c}${item}${d}`).join(',')}}`)
}))

interface Entry {
  readonly before: string
  readonly key: string
  readonly colon: string
  readonly value: string
  readonly after: string
}
const entryOf = (keys: readonly string[]): fc.Arbitrary<Entry> =>
  fc.record({
    before: space,
    key: fc.constantFrom(...keys),
    colon: fc.tuple(space, space).map(([a, b]) => `${a}:${b}`),
    value,
    after: space
  })
const clear = fc.uniqueArray(entryOf(plainKeys), { maxLength: 6, selector: ({ key }) => key })
const tricky = fc.array(entryOf([...plainKeys, ...trickyKeys]), { maxLength: 6 })
const changesOf = fc.dictionary(
  fc.constantFrom('model', 'stream_options', 'stream', 'a', 'new'),
  fc.oneof(fc.constantFrom('m', 'größe "x"', { include_usage: true }, null, 7), fc.constant(undefined)),
  { maxKeys: 3, noNullPrototype: true }
)

const written = (entries: readonly Entry[]) =>
  `{${entries.map(({ before, key, colon, value, after }) => before + key + colon + value + after).join(',')}}`

function changed(text: string, changes: Record<string, unknown>): Record<string, unknown> {
  const result: Record<string, unknown> = { ...JSON.parse(text), ...changes }
  for (const [name, value] of Object.entries(changes)) if (value === undefined) delete result[name]
  return result
}

t.test('any object: a change changes what it names, and not a byte of any other value', async t => {
  fc.assert(
    fc.property(clear, changesOf, space, space, (entries, changes, before, after) => {
      const text = before + written(entries) + after
      const body = read(text)
      if (body.bytes.toString() !== text) throw new Error('not as it came')
      const result = body.with(changes).toString()
      if (!isDeepStrictEqual(JSON.parse(result), changed(text, changes))) throw new Error(`${text} became ${result}`)
      if (!Object.values(changes).includes(undefined)) {
        const kept = entries.map(entry => {
          const name = JSON.parse(entry.key) as string
          return Object.hasOwn(changes, name) ? { ...entry, value: JSON.stringify(changes[name]) } : entry
        })
        const names = entries.map(({ key }) => JSON.parse(key) as string)
        const added = Object.entries(changes)
          .filter(([name]) => !names.includes(name))
          .map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`)
        const inside = [...added, ...(kept.length === 0 ? [] : [written(kept).slice(1, -1)])].join(',')
        return result === `${before}{${inside}}${after}`
      }
      let from = 0
      for (const { key, colon, value } of entries) {
        if (Object.hasOwn(changes, JSON.parse(key) as string)) continue
        const at = result.indexOf(key + colon + value, from)
        if (at === -1) return false
        from = at + 1
      }
      return true
    }),
    { numRuns: 10_000 }
  )
  t.pass()
})

t.test('any object, with keys that are escaped or there twice: everybody reads the same, also after a change', async t => {
  fc.assert(
    fc.property(tricky, changesOf, (entries, changes) => {
      const text = written(entries)
      const body = read(text)
      const expected = JSON.parse(text)
      return (
        isDeepStrictEqual(JSON.parse(body.bytes.toString()), expected) &&
        isDeepStrictEqual(body.json(), expected) &&
        Object.keys(body.facts).length === Object.keys(expected).length &&
        isDeepStrictEqual(JSON.parse(body.with(changes).toString()), changed(text, changes))
      )
    }),
    { numRuns: 10_000 }
  )
  t.pass()
})

t.test('any bytes are either an object or refused', async t => {
  const bit = fc.constantFrom('{', '}', '[', ']', '"', '\\', ':', ',', '1', 'a', ' ', '\n', '"model"', '"a":', 'é', '\\u00', 'null')
  fc.assert(
    fc.property(fc.array(bit, { maxLength: 20 }), bits => {
      const text = bits.join('')
      let expected: unknown
      try {
        expected = JSON.parse(text)
      } catch {
        expected = undefined
      }
      const isObject = typeof expected === 'object' && expected !== null && !Array.isArray(expected)
      if (!isObject) return refusal(text).code === 'invalid_request'
      return isDeepStrictEqual(read(text).json(), expected)
    }),
    { numRuns: 20_000 }
  )
  t.pass()
})

t.test('hostile bodies take time in proportion to their length', async t => {
  const size = 2 * 1024 * 1024
  const repeat = (piece: string) => piece.repeat(size / piece.length)
  const hostile: Record<string, string> = {
    backslashes: `{"a":"${repeat('\\')}"}`,
    'backslashes and quotes': `{"a":"${repeat('\\\\\\"')}"}`,
    'escaped quotes': `{"a":"${repeat('\\"')}"}`,
    quotes: `{"a":${repeat('"')}}`,
    'empty texts': `{"a":[${repeat('"",')}""]}`,
    brackets: repeat('['),
    'closed brackets': repeat('[]'),
    'closing brackets': repeat(']'),
    colons: `{"a"${repeat(':')}1}`,
    spaces: `{"a":1${repeat(' ')}}`,
    'keys without an end': `{${repeat('"a":1,')}`,
    'a key for each': `{${Array.from({ length: 100_000 }, (_, index) => `"${index}":1`).join(',')}}`,
    'one key again and again': `{${'"a":1,'.repeat(100_000)}"a":1}`,
    'half prototypes': `{"a":"${repeat('__proto__')}"}`,
    'escaped halves': `{"a":"${repeat('\\u005f')}"}`,
    'prototypes as values': `{"a":[${'"__proto__"      ,'.repeat(90_000)}1]}`
  }
  for (const [name, text] of Object.entries(hostile)) {
    const bytes = Buffer.from(text)
    const start = process.cpuUsage()
    try {
      readBody(bytes).with({ model: 'b' })
    } catch (error) {
      if (!(error instanceof GatewayError)) throw error
    }
    const { user } = process.cpuUsage(start)
    // Some 50 ms each; with the square of the length it would be minutes.
    t.ok(user < 5_000_000, `${name}: ${user} us`)
  }
})

import { createParser } from 'eventsource-parser'
import t from 'tap'
import { createSseSplitter, eachEvent, sseData } from '../../outbound/sse.ts'
import { fc } from '../support/properties.ts'

const plenty = 1 << 30

interface Split {
  readonly blocks: readonly Buffer[]
  readonly rest: Buffer
}

function split(chunks: readonly Buffer[], maxEventBytes = plenty): Split {
  const splitter = createSseSplitter(maxEventBytes)
  const blocks = chunks.map(chunk => splitter.push(chunk)).filter(block => block !== null)
  return { blocks, rest: splitter.rest() }
}

/** `bytes` in pieces that end at these places. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const sorted = [...new Set(places.map(place => place % (bytes.length + 1)))].sort((a, b) => a - b)
  const ends = [...sorted, bytes.length]
  return ends.map((end, index) => bytes.subarray(index === 0 ? 0 : ends[index - 1], end)).filter(piece => piece.length > 0)
}

function eventsOf(blocks: readonly Buffer[]): Buffer[] {
  const events: Buffer[] = []
  for (const block of blocks) eachEvent(block, (start, end) => events.push(block.subarray(start, end)))
  return events
}

function datasOf(blocks: readonly Buffer[]): string[] {
  return eventsOf(blocks)
    .map(sseData)
    .filter(data => data !== null)
}

/** What a browser would hear. */
function oracle(bytes: Buffer): string[] {
  const heard: string[] = []
  const parser = createParser({ onEvent: event => heard.push(event.data) })
  parser.feed(bytes.toString('utf8'))
  return heard
}

t.test('the data of an event is what its data lines say', async t => {
  const cases: readonly [event: string, data: string | null][] = [
    ['data: {"a":1}\n\n', '{"a":1}'],
    ['data:{"a":1}\n\n', '{"a":1}'],
    ['data:  two spaces\n\n', ' two spaces'],
    ['data: a\ndata: b\n\n', 'a\nb'],
    ['data: a\r\ndata: b\r\n\r\n', 'a\nb'],
    ['data: a\rdata: b\r\r', 'a\nb'],
    ['event: error\nid: 7\ndata: x\nretry: 5\n\n', 'x'],
    ['data\n\n', ''],
    ['data:\n\n', ''],
    ['data: \n\n', ''],
    ['data:\ndata\n\n', '\n'],
    ['data: a\ndata:\n\n', 'a\n'],
    ['database: x\n\n', null],
    ['dat: x\n\n', null],
    [' data: x\n\n', null],
    [': data: x\n\n', null],
    [': comment\ndata: x\n\n', 'x'],
    ['event: ping\n\n', null],
    ['\n', null],
    ['\n\n', null],
    ['\ndata: x\n\n', 'x'],
    ['', null],
    ['data: [DONE]', '[DONE]'],
    ['data: x: y\n\n', 'x: y'],
    ['data: größe 中 😀\n\n', 'größe 中 😀'],
    ['\ufeffdata: x\n\n', 'x'],
    ['data: \ufeffx\n\n', '\ufeffx'],
    ['data: a\u2028b\u0085c\n\n', 'a\u2028b\u0085c']
  ]
  for (const [event, data] of cases) t.equal(sseData(Buffer.from(event)), data, JSON.stringify(event).replace(/[^ -~]/g, '?'))
})

t.test('whole events come out as they came, and what is not whole waits', async t => {
  const cases: readonly [chunks: readonly string[], blocks: readonly string[], rest: string][] = [
    [['data: a\n\n'], ['data: a\n\n'], ''],
    [['data: a\n\ndata: b\n\n'], ['data: a\n\ndata: b\n\n'], ''],
    [['data: a\n\ndata: b'], ['data: a\n\n'], 'data: b'],
    [['data: a', '\n\ndata: b\n', '\n'], ['data: a\n\n', 'data: b\n\n'], ''],
    [['data: a\n', '\n'], ['data: a\n\n'], ''],
    [['data: a\r\n\r\nda', 'ta: b\r\n\r', '\n'], ['data: a\r\n\r\n', 'data: b\r\n\r\n'], ''],
    [['data: a\r', '\rdata: b\r', '\r'], ['data: a\r\r', 'data: b\r\r'], ''],
    [['data: a\n\r\ndata: b'], ['data: a\n\r\n'], 'data: b'],
    [['\n', '\n'], ['\n\n'], ''],
    [[': c\n\n'], [': c\n\n'], ''],
    [['data: a'], [], 'data: a'],
    [[], [], '']
  ]
  for (const [chunks, blocks, rest] of cases) {
    const found = split(chunks.map(chunk => Buffer.from(chunk)))
    t.same([found.blocks.map(String), String(found.rest)], [blocks, rest], JSON.stringify(chunks))
  }
})

t.test('after the rest was taken, nothing of it comes again', async t => {
  const splitter = createSseSplitter(plenty)
  splitter.push(Buffer.from('data: a'))
  t.equal(splitter.rest().toString(), 'data: a')
  t.equal(splitter.rest().toString(), '')
  t.equal(splitter.push(Buffer.from('data: b\n\n'))?.toString(), 'data: b\n\n')
})

// ---- any stream

const lineText = fc
  .array(fc.constantFrom('a', '{"b":1}', ':', ' ', 'data', 'é', '中', '😀', '\u2028', '[DONE]', '\ufeff'), { maxLength: 4 })
  .map(parts => parts.join(''))
const line = fc.oneof(
  { weight: 5, arbitrary: fc.tuple(fc.constantFrom('data: ', 'data:'), lineText).map(([name, text]) => name + text) },
  { weight: 1, arbitrary: fc.constantFrom('data', 'event: x', 'id: 7', 'retry: 5', ': comment', ':', 'database: x', 'dat', ' data: no') },
  { weight: 1, arbitrary: lineText.map(text => `: ${text}`) }
)
/** Lines of one event, then one blank line or more. */
const event = fc.tuple(fc.array(line, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 3 }))
const stream = fc.record({
  end: fc.constantFrom('\n', '\r\n', '\r'),
  bom: fc.boolean(),
  before: fc.nat(2),
  events: fc.array(event, { maxLength: 6 }),
  tail: fc.constantFrom('', 'data: cut off', 'dat')
})
const text = stream.map(({ end, bom, before, events, tail }) => {
  const body = events.map(([lines, blanks]) => lines.map(one => one + end).join('') + end.repeat(blanks)).join('')
  return (bom ? '\ufeff' : '') + end.repeat(before) + body + tail
})
const places = fc.array(fc.nat(10_000), { maxLength: 12 })

t.test('any stream, cut anywhere: the bytes are the same, and so are the events', async t => {
  fc.assert(
    fc.property(text, places, (text, places) => {
      const bytes = Buffer.from(text)
      const { blocks, rest } = split(cut(bytes, places))
      if (!Buffer.concat([...blocks, rest]).equals(bytes)) throw new Error('other bytes')
      if (!Buffer.concat(eventsOf(blocks)).equals(Buffer.concat(blocks))) throw new Error('events lose bytes')
      return JSON.stringify(datasOf(blocks)) === JSON.stringify(oracle(bytes))
    }),
    { numRuns: 20_000 }
  )
  t.pass()
})

t.test('a stream cut after every byte is the same as one that is whole', async t => {
  fc.assert(
    fc.property(text, text => {
      const bytes = Buffer.from(text)
      const { blocks, rest } = split(Array.from(bytes, (_, index) => bytes.subarray(index, index + 1)))
      if (!Buffer.concat([...blocks, rest]).equals(bytes)) throw new Error('other bytes')
      return JSON.stringify(datasOf(blocks)) === JSON.stringify(oracle(bytes))
    }),
    { numRuns: 3_000 }
  )
  t.pass()
})

t.test('line ends of all kinds in one stream lose nothing', async t => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(line, fc.constantFrom('\n', '\r\n', '\r', '\n\n', '\r\n\r\n', '\r\r', '\n\r\n')), { maxLength: 12 }),
      places,
      (lines, places) => {
        const bytes = Buffer.from(lines.flat().join(''))
        const { blocks, rest } = split(cut(bytes, places))
        if (!Buffer.concat([...blocks, rest]).equals(bytes)) throw new Error('other bytes')
        // Where an event ends may be seen one line end later than it could be; its data is the same.
        return JSON.stringify(datasOf([...blocks, rest])) === JSON.stringify(oracle(Buffer.concat([bytes, Buffer.from('\n\n')])))
      }
    ),
    { numRuns: 10_000 }
  )
  t.pass()
})

t.test('an event that is too large throws, however it comes, after the events before it', async t => {
  const before = Buffer.from('data: before\n\n')
  const splitter = createSseSplitter(1_000)
  t.equal(splitter.push(before), before)
  t.equal(splitter.push(Buffer.alloc(600, 'x')), null)
  t.throws(() => splitter.push(Buffer.alloc(401, 'x')), RangeError)
  const exact = createSseSplitter(1_000)
  for (let index = 0; index < 1_000; index++) exact.push(Buffer.from('x'))
  t.throws(() => exact.push(Buffer.from('x')), RangeError)
  const many = createSseSplitter(20)
  for (let index = 0; index < 100; index++) t.ok(many.push(Buffer.from('data: 12345678\n\n')), 'only one event at a time counts')
})

t.test('an event of 16 MB in pieces is not copied again for each of them', async t => {
  const size = 16 * 1024 * 1024
  const piece = Buffer.alloc(64 * 1024, 'x')
  const start = process.cpuUsage()
  const splitter = createSseSplitter(plenty)
  splitter.push(Buffer.from('data: '))
  for (let sent = 0; sent < size; sent += piece.length) t.equal(splitter.push(piece), null)
  const block = splitter.push(Buffer.from('\n\n'))
  t.equal(block?.length, size + 8)
  t.equal(sseData(block ?? piece)?.length, size)
  const small = createSseSplitter(plenty)
  const crumb = Buffer.alloc(16, 'x')
  for (let sent = 0; sent < size / 16; sent += crumb.length) small.push(crumb)
  const { user } = process.cpuUsage(start)
  // Some 50 ms; a copy of all that came before for each piece would be 2 GB, or 8 s.
  t.ok(user < 2_000_000, `${user} us`)
})

t.test('a block of many events is read in one go', async t => {
  const block = Buffer.from('data: {"a":1}\n\n'.repeat(200_000))
  const start = process.cpuUsage()
  let events = 0
  eachEvent(block, () => events++)
  eachEvent(Buffer.from('data: {"a":1}\r\n\r\n'.repeat(200_000)), () => events++)
  t.equal(events, 400_000)
  const { user } = process.cpuUsage(start)
  // Some 60 ms; looking through the rest of the block for each event would be 300 GB.
  t.ok(user < 2_000_000, `${user} us`)
})

import t from 'tap'
import { createLineSplitter } from '../../outbound/ndjson.ts'

function split(chunks: readonly (string | Buffer)[], maxLineBytes?: number): string[] {
  const lines: string[] = []
  const splitter = createLineSplitter(line => lines.push(line), maxLineBytes)
  for (const chunk of chunks) splitter.push(Buffer.from(chunk))
  splitter.end()
  return lines
}

t.test('lines come out whole, without their ends, and without the empty ones', t => {
  const table: readonly (readonly [string, readonly string[], readonly string[]])[] = [
    ['one line', ['a\n'], ['a']],
    ['several lines in one chunk', ['a\nb\nc\n'], ['a', 'b', 'c']],
    ['a line over three chunks', ['a', 'b', 'c\n'], ['abc']],
    ['the end alone in a chunk', ['ab', '\n', 'c\n'], ['ab', 'c']],
    ['CRLF', ['a\r\nb\r\n'], ['a', 'b']],
    ['CR and LF in two chunks', ['a\r', '\nb\r', '\n'], ['a', 'b']],
    ['a CR inside a line stays', ['a\rb\n'], ['a\rb']],
    ['empty lines', ['\n\n\r\na\n\n\r\n'], ['a']],
    ['the last line without its newline', ['a\nb'], ['a', 'b']],
    ['the last line without its newline, cut', ['a\nb', 'c'], ['a', 'bc']],
    ['the last line with half an end', ['a\r'], ['a']],
    ['empty chunks', ['', 'a', '', '\n', ''], ['a']],
    ['nothing', [], []]
  ]
  for (const [name, chunks, lines] of table) t.same(split(chunks), lines, name)
  t.end()
})

t.test('a stream gives the same lines wherever it is cut, also inside a character', t => {
  const lines = ['{"a":"Grüße"}', '{"b":"日本語 👩‍👩‍👧"}', 'ß', '{"c":"\u2028"}']
  const bytes = Buffer.from(`${lines[0]}\n${lines[1]}\r\n\n${lines[2]}\n${lines[3]}`)
  for (let first = 0; first <= bytes.length; first++) {
    for (let second = first; second <= bytes.length; second++) {
      const got = split([bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)])
      if (got.join('\n') !== lines.join('\n')) return t.fail(`cut at ${first} and ${second}: ${got.join('|')}`)
    }
  }
  t.same(split(Array.from(bytes, byte => Buffer.from([byte]))), lines, 'byte by byte')
  t.end()
})

t.test('lines given out do not change when later chunks arrive', t => {
  t.same(split(['aaaa', 'a\nb', 'bbbb\nc', 'c\n']), ['aaaaa', 'bbbbb', 'cc'])
  t.end()
})

t.test('a line over the limit throws, however it comes, after the lines before it', t => {
  t.same(split(['12345678\n'], 8), ['12345678'], 'exactly the limit is fine')
  for (const chunks of [['123456789\n'], ['123456789'], ['12345', '6789'], ['12345', '6789\n']]) {
    const lines: string[] = []
    const splitter = createLineSplitter(line => lines.push(line), 8)
    splitter.push(Buffer.from('before\n'))
    t.throws(
      () => {
        for (const chunk of chunks) splitter.push(Buffer.from(chunk))
      },
      RangeError,
      JSON.stringify(chunks)
    )
    t.same(lines, ['before'])
  }
  t.throws(() => split(['x'.repeat(1024 * 1024 + 1)]), RangeError, 'one mebibyte unless told otherwise')
  t.end()
})

t.test('a long line in many small chunks is not copied again for every chunk', t => {
  const pieces = 300_000
  const piece = Buffer.from('abc')
  let length = 0
  const splitter = createLineSplitter(line => {
    length = line.length
  })
  const startMs = performance.now()
  for (let index = 0; index < pieces; index++) splitter.push(piece)
  splitter.end()
  t.equal(length, pieces * 3)
  // 300,000 copies of up to 900 kB would be 135 GB; this is some 20 ms.
  t.ok(performance.now() - startMs < 3000)
  t.end()
})

// Server-sent events as bytes: where whole events end, and what their data says. Format: WHATWG HTML, 9.2.6.

const lf = 0x0a
const cr = 0x0d

export interface SseSplitter {
  /** The bytes up to the end of the last whole event, as they came; null when none is complete yet. */
  push(chunk: Buffer): Buffer | null
  /** What is left after the last whole event; empties the splitter. */
  rest(): Buffer
}

/** Cuts a byte stream at the ends of events, whatever the chunks were. Throws RangeError when an event is larger than `maxEventBytes`. */
export function createSseSplitter(maxEventBytes: number): SseSplitter {
  let carry: Buffer[] = []
  let carryBytes = 0

  function push(chunk: Buffer): Buffer | null {
    if (carryBytes === 0 && chunk.length > 1 && chunk[chunk.length - 1] === lf && chunk[chunk.length - 2] === lf) return chunk
    // An end may lie across the seam: look at the last three bytes before it too.
    const seam = carryBytes === 0 ? chunk : Buffer.concat([lastBytes(carry, 3), chunk])
    const overlap = seam.length - chunk.length
    const end = lastEventEnd(seam) - overlap
    if (end <= 0) {
      carry.push(chunk)
      carryBytes += chunk.length
      if (carryBytes > maxEventBytes) throw new RangeError(`an event is larger than ${maxEventBytes} bytes`)
      return null
    }
    const complete = carryBytes === 0 ? chunk.subarray(0, end) : Buffer.concat([...carry, chunk.subarray(0, end)])
    // A copy: a view of a few bytes would keep all 64 kB of what was read, for as long as the reader stands still.
    carry = end === chunk.length ? [] : [Buffer.from(chunk.subarray(end))]
    carryBytes = chunk.length - end
    return complete
  }

  function rest(): Buffer {
    const bytes = Buffer.concat(carry)
    carry = []
    carryBytes = 0
    return bytes
  }

  return { push, rest }
}

/** Calls `each` with the bounds of every event in a block that `push` gave back. */
export function eachEvent(block: Buffer, each: (start: number, end: number) => void): void {
  // Looked for once: for each event again, a block of many small ones would cost the square of their number.
  const hasCr = block.includes(cr)
  let start = 0
  while (start < block.length) {
    const end = nextEventEnd(block, start, hasCr)
    each(start, end)
    start = end
  }
}

/** The data of one event, its lines joined; null when it has none (comments, blank lines, other fields). */
export function sseData(event: Buffer): string | null {
  const text = event.toString('utf8')
  if (text.startsWith('data: ') && text.indexOf('\n') === text.length - 2 && text.endsWith('\n\n') && !text.includes('\r'))
    return text.slice(6, -2)
  let data: string | null = null
  // A byte order mark may stand before the first event of a stream.
  for (const line of text.replace(/^\ufeff/, '').split(/\r\n|\n|\r/)) {
    if (!line.startsWith('data')) continue
    if (line.length > 4 && line[4] !== ':') continue
    const value = line.length <= 5 ? '' : line[5] === ' ' ? line.slice(6) : line.slice(5)
    data = data === null ? value : `${data}\n${value}`
  }
  return data
}

function lastBytes(chunks: readonly Buffer[], count: number): Buffer {
  const tail: Buffer[] = []
  let have = 0
  for (let at = chunks.length - 1; at >= 0 && have < count; at--) {
    const chunk = chunks[at] as Buffer
    tail.unshift(chunk)
    have += chunk.length
  }
  const joined = Buffer.concat(tail)
  return joined.subarray(Math.max(0, joined.length - count))
}

/** One past the blank line that ends the last whole event, or 0. */
function lastEventEnd(bytes: Buffer): number {
  const plain = bytes.lastIndexOf('\n\n')
  const windows = bytes.lastIndexOf('\n\r\n')
  const old = bytes.lastIndexOf('\r\r')
  return Math.max(plain === -1 ? 0 : plain + 2, windows === -1 ? 0 : windows + 3, old === -1 ? 0 : old + 2)
}

function nextEventEnd(bytes: Buffer, from: number, hasCr: boolean): number {
  if (!hasCr) {
    // Only line feeds: the common case.
    const plain = bytes.indexOf('\n\n', from)
    return plain === -1 ? bytes.length : plain + 2
  }
  for (let at = from; at < bytes.length; at++) {
    const code = bytes[at]
    if (code !== lf && code !== cr) continue
    const next = code === cr && bytes[at + 1] === lf ? at + 2 : at + 1
    if (next >= bytes.length) return bytes.length
    if (bytes[next] === lf) return next + 1
    if (bytes[next] === cr) return bytes[next + 1] === lf ? next + 2 : next + 1
    at = next - 1
  }
  return bytes.length
}

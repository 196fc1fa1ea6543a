// Newline-delimited JSON as bytes: whole lines out of a stream, however its chunks were cut.

const lf = 0x0a
const cr = 0x0d
const mebibyte = 1024 * 1024

export interface LineSplitter {
  /** Throws RangeError when a line is too long, after the lines before it were given out; useless from then on. */
  push(chunk: Buffer): void
  /** The stream is over: gives out a last line that lacks its newline. */
  end(): void
}

/**
 * Calls `onLine` with every line that is not empty, without its line end. Lines are decoded whole, so a character
 * may lie across chunks. Every byte is copied at most twice, also when they come one at a time.
 */
export function createLineSplitter(onLine: (line: string) => void, maxLineBytes: number = mebibyte): LineSplitter {
  // The beginning of a line whose end has not come yet.
  let held = Buffer.alloc(0)
  let heldBytes = 0

  function push(chunk: Buffer): void {
    let start = 0
    for (let end = chunk.indexOf(lf); end !== -1; end = chunk.indexOf(lf, start)) {
      if (heldBytes === 0) give(chunk, start, end)
      else {
        hold(chunk, start, end)
        giveHeld()
      }
      start = end + 1
    }
    if (start < chunk.length) hold(chunk, start, chunk.length)
  }

  function giveHeld(): void {
    const end = heldBytes
    heldBytes = 0
    give(held, 0, end)
  }

  function give(bytes: Buffer, start: number, end: number): void {
    check(end - start)
    const textEnd = end > start && bytes[end - 1] === cr ? end - 1 : end
    if (textEnd > start) onLine(bytes.toString('utf8', start, textEnd))
  }

  function hold(chunk: Buffer, start: number, end: number): void {
    const bytes = heldBytes + end - start
    check(bytes)
    if (held.length < bytes) {
      const grown = Buffer.allocUnsafe(Math.max(bytes, held.length * 2))
      held.copy(grown, 0, 0, heldBytes)
      held = grown
    }
    chunk.copy(held, heldBytes, start, end)
    heldBytes = bytes
  }

  function check(bytes: number): void {
    if (bytes > maxLineBytes) throw new RangeError(`a line is longer than ${maxLineBytes} bytes`)
  }

  return { push, end: giveHeld }
}

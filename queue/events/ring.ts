// The chunks of one attempt in memory: those that are not written yet, and the last ones that are, for readers of this process.

// Readers that are further behind read the table.
const keptCharacters = 256 * 1024

export interface Ring {
  /** The number of the next chunk; the first has 1. */
  readonly next: number
  push(json: string): void
  /** As `WrittenHere.after`. */
  after(seq: number, characters: number): readonly string[] | null
  /** The chunks before `seq` are written: what is old of them may go. */
  written(seq: number): void
}

export function createRing(): Ring {
  let chunks: string[] = []
  let first = 1
  let characters = 0

  return {
    get next() {
      return first + chunks.length
    },
    push(json) {
      chunks.push(json)
      characters += json.length
    },
    after(seq, atMost) {
      const start = seq + 1 - first
      if (start < 0) return null
      let end = start
      for (let sum = 0; end < chunks.length && sum < atMost; end++) sum += (chunks[end] as string).length
      return chunks.slice(start, end)
    },
    written(seq) {
      // Half of it at a time: an array is shortened at its front at the price of its length.
      if (characters <= 2 * keptCharacters) return
      let gone = 0
      for (; first + gone < seq && characters > keptCharacters; gone++) characters -= (chunks[gone] as string).length
      chunks = chunks.slice(gone)
      first += gone
    }
  }
}

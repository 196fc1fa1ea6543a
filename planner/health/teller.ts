// Writes down what was found of the machines, again and again while the database is away: the last word on each.

export interface Word {
  readonly state: 'up' | 'down'
  readonly note: string
}

export interface Teller {
  tell(deviceId: string, word: Word): void
  close(): void
}

export interface TellerPorts {
  readonly write: (deviceId: string, word: Word) => Promise<unknown>
  readonly log: (message: string, error: unknown) => void
  readonly againMs?: number
}

/** Words on one machine are written in their order; one that was overtaken while it could not be written is dropped. */
export function createTeller({ write, log, againMs = 1_000 }: TellerPorts): Teller {
  const words = new Map<string, Word>()
  const writing = new Set<string>()
  const timers = new Set<NodeJS.Timeout>()
  let failing = false
  let isClosed = false

  async function writeAll(deviceId: string): Promise<void> {
    writing.add(deviceId)
    for (let word = words.get(deviceId); word !== undefined && !isClosed; word = words.get(deviceId)) {
      try {
        await write(deviceId, word)
        failing = false
        if (words.get(deviceId) === word) words.delete(deviceId)
      } catch (error) {
        if (!failing) log('what became of a machine could not be written down yet', error)
        failing = true
        await pause()
      }
    }
    writing.delete(deviceId)
  }

  function pause(): Promise<void> {
    return new Promise(resolve => {
      const timer = setTimeout(() => {
        timers.delete(timer)
        resolve()
      }, againMs)
      timers.add(timer.unref())
    })
  }

  return {
    tell(deviceId, word) {
      words.set(deviceId, word)
      if (!writing.has(deviceId)) void writeAll(deviceId)
    },
    close() {
      isClosed = true
      for (const timer of timers) clearTimeout(timer)
    }
  }
}

// Whether a machine is there, from what it answers and from what it sends. Pure: times come in, in ms of a clock that never jumps.

export interface Pulse {
  /** A question is on its way. Returns its number. */
  asked(nowMs: number): number
  /** It was answered, however late. */
  answered(question: number, nowMs: number): void
  /** The machine refused or reset the connection: nobody is there. */
  refused(nowMs: number): void
  /** Something answered, but not the server that is meant to be there. */
  wrong(nowMs: number): void
  /** It sent something else, such as a token: that outranks every question. */
  alive(nowMs: number): void
  /** Another process found it so. */
  believe(state: Verdict['state'], nowMs: number): void
  /** It answered, or sent something, at least once. */
  isKnown(): boolean
  /** When that was last; -Infinity = never. */
  heardMs(): number
  /** What is to be believed now. */
  verdict(nowMs: number): Verdict
  /** How long to wait until the next question, without jitter. `busy`: something runs there. */
  pauseMs(busy: boolean, nowMs: number): number
}

export interface Verdict {
  readonly state: 'up' | 'down'
  /** Why it is down; null when it is up. */
  readonly why: Reason | null
}

type Reason = 'refused' | 'silent' | 'other'

// Asked so often while something runs there, and otherwise.
const busyEveryMs = 500
const idleEveryMs = 5_000
// One that is down, or did not answer in time, is asked often: it may be back, or be down for good.
const doubtEveryMs = 500
// An answer that takes longer than this, and than four times what is usual there, is missed.
const missAfterMs = 400
const missFactor = 4
// Two misses make nobody dead who may be reading a long prompt: a busy server answers late, a frozen one never.
const missesAtLeast = 2
export const silentAfterMs = 3_000
// Behind a proxy one answer may be the proxy's own; of a machine that was never itself the first one counts.
const wrongsAtLeast = 2
// Of the slowest answers a share of one in a hundred.
const samples = 100
// Three times down in a minute, and each time it needs twice as many answers to be trusted again, eight at most.
const flapWithinMs = 60_000
const flapsFree = 2
const successesAtMost = 8

/** Nothing is known of it yet, so it is taken for up. */
export function createPulse(): Pulse {
  const open = new Map<number, number>()
  const took: number[] = []
  const downAt: number[] = []
  let questions = 0
  let isDown = false
  let why: Verdict['why'] = null
  let successes = 0
  let wrongs = 0
  let aliveAt = Number.NEGATIVE_INFINITY

  function missMs(): number {
    if (took.length === 0) return missAfterMs
    const sorted = took.toSorted((a, b) => a - b)
    return Math.max(missAfterMs, missFactor * (sorted[Math.floor(sorted.length * 0.99)] as number))
  }

  /** Questions without an answer since the last sign of life: when the first was asked, and how many are overdue. */
  function silence(nowMs: number): { readonly sinceMs: number; readonly misses: number } {
    // Nearly always: this is asked for every machine, four times a second.
    if (open.size === 0) return { sinceMs: nowMs, misses: 0 }
    const limit = missMs()
    const asked = [...open.values()].filter(at => at >= aliveAt)
    const misses = asked.filter(at => nowMs - at > Math.min(limit, silentAfterMs)).length
    return { sinceMs: asked.length === 0 ? nowMs : Math.min(...asked), misses }
  }

  function fall(reason: Reason, nowMs: number): void {
    successes = 0
    why = reason
    if (isDown) return
    isDown = true
    downAt.push(nowMs)
    while (downAt.length > 0 && nowMs - (downAt[0] as number) > flapWithinMs) downAt.shift()
  }

  function rise(): void {
    successes++
    if (!isDown || successes < needed()) return
    isDown = false
    why = null
    successes = 0
  }

  function needed(): number {
    return Math.min(successesAtMost, 2 ** Math.max(0, downAt.length - flapsFree))
  }

  function forgetOpen(): void {
    open.clear()
  }

  return {
    asked(nowMs) {
      const question = ++questions
      open.set(question, nowMs)
      // One that hangs is asked again and again; the first few tell as much as all of them.
      if (open.size > samples) open.delete([...open.keys()][1] as number)
      return question
    },
    answered(question, nowMs) {
      const at = open.get(question)
      if (at !== undefined) {
        took.push(nowMs - at)
        if (took.length > samples) took.shift()
      }
      aliveAt = nowMs
      wrongs = 0
      forgetOpen()
      rise()
    },
    refused(nowMs) {
      forgetOpen()
      fall('refused', nowMs)
    },
    wrong(nowMs) {
      forgetOpen()
      wrongs++
      if (wrongs >= wrongsAtLeast || aliveAt === Number.NEGATIVE_INFINITY) fall('other', nowMs)
    },
    alive(nowMs) {
      aliveAt = nowMs
      wrongs = 0
      // A token from a machine that was given up: it is there, but it has to answer for itself.
      if (!isDown) forgetOpen()
    },
    believe(state, nowMs) {
      forgetOpen()
      if (state === 'down') return fall('refused', nowMs)
      isDown = false
      why = null
      successes = 0
    },
    isKnown: () => aliveAt > Number.NEGATIVE_INFINITY,
    heardMs: () => aliveAt,
    verdict(nowMs) {
      const { sinceMs, misses } = silence(nowMs)
      if (!isDown && misses >= missesAtLeast && nowMs - sinceMs >= silentAfterMs) fall('silent', nowMs)
      return isDown ? { state: 'down', why } : { state: 'up', why: null }
    },
    pauseMs(busy, nowMs) {
      if (isDown || wrongs > 0 || silence(nowMs).misses > 0) return doubtEveryMs
      return busy ? busyEveryMs : idleEveryMs
    }
  }
}

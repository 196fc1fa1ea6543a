// Watches the machines without giving them work: asks for their version, hears of their tokens, and tells everybody when one goes or comes.

import { otherServer } from './health/ask.ts'
import { type LivingProcess, probersOf } from './health/probers.ts'
import { createPulse, type Pulse, silentAfterMs, type Verdict } from './health/pulse.ts'

/** A machine to be watched. */
export interface Watched {
  readonly deviceId: string
  readonly onlyHost: string | null
  /** Asks it something that costs it nothing; resolves when it answered as itself. Rejects with a code, as sockets do, or `otherServer`. */
  readonly ask: (signal: AbortSignal) => Promise<void>
}

export interface HealthPorts {
  readonly processId: string
  readonly now: () => number
  readonly random: () => number
  /** Processes that are alive, this one among them. */
  readonly living: () => Promise<readonly LivingProcess[]>
  /** Calls that run there, of this process. */
  readonly inFlight: (deviceId: string) => number
  /** What is believed here is another than before. */
  readonly onChange: (deviceId: string, state: 'up' | 'down') => void
  /** What this process found out; everybody is to hear of it. */
  readonly tell: (deviceId: string, state: 'up' | 'down', note: string) => void
  readonly log: (message: string, error: unknown) => void
}

export interface Health {
  /** The machines there are from now on. */
  watch(machines: readonly Watched[]): void
  /** Somebody elsewhere found it so. What this process finds itself outranks that. */
  told(deviceId: string, state: 'up' | 'down'): void
  isDown(deviceId: string): boolean
  /** It sent something. */
  alive(deviceId: string): void
  /** A call there failed: whether anybody is there is asked at once. */
  failed(deviceId: string): void
  /** Asks it now; resolves with what is believed then. */
  check(deviceId: string): Promise<'up' | 'down'>
  close(): void
}

interface Entry {
  watched: Watched
  readonly pulse: Pulse
  timer: NodeJS.Timeout | null
  /** When it is asked next. */
  dueMs: number
  /** Null = nobody has said anything yet, so it is taken for up. */
  isDown: boolean | null
  /** That it is down was found here: then it is asked here until it answers, whatever others say. */
  isOwn: boolean
  /** What others said last; null = nothing. */
  word: 'up' | 'down' | null
  isDoubting: boolean
}

// An unanswered question stays open for longer than it takes to give a machine up.
const answerWithinMs = 5_000
// Somebody says that it is away: so long it has to say that it is not, and longer while it was heard of just now.
const denyWithinMs = 1_000
const livingEveryMs = 1_000
const judgeEveryMs = 250
const jitter = 0.1
/** Of sockets: nobody listens there. */
const refusals = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN'])
/** A connection that was kept may be closed just when it is used: that says something only when a new one ends like that too. */
const resets = new Set(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET'])
const others = new Set([otherServer])
const notes: Readonly<Record<NonNullable<Verdict['why']>, string>> = {
  refused: 'it refuses connections',
  silent: 'it is silent',
  other: 'something else answers there'
}

export function createHealth(ports: HealthPorts): Health {
  const { now } = ports
  const entries = new Map<string, Entry>()
  const leaving = new AbortController()
  let living: readonly LivingProcess[] = []
  let failing = false

  async function lookAround(): Promise<void> {
    try {
      living = await ports.living()
      failing = false
    } catch (error) {
      // Whoever asked goes on asking.
      if (!failing) ports.log('the living processes could not be read', error)
      failing = true
    }
    for (const entry of entries.values()) if (isAsked(entry) && entry.timer === null) schedule(entry, 0)
  }

  function isMine({ watched: { deviceId, onlyHost } }: Entry): boolean {
    return probersOf(deviceId, onlyHost, living).includes(ports.processId)
  }

  function isAsked(entry: Entry): boolean {
    return isMine(entry) || (entry.isDown === true && entry.isOwn)
  }

  function schedule(entry: Entry, ms: number): void {
    if (leaving.signal.aborted) return
    if (entry.timer !== null) clearTimeout(entry.timer)
    entry.dueMs = now() + ms
    entry.timer = setTimeout(
      () => {
        entry.timer = null
        if (entries.get(entry.watched.deviceId) !== entry || !isAsked(entry)) return
        void question(entry)
        schedule(entry, entry.pulse.pauseMs(ports.inFlight(entry.watched.deviceId) > 0, now()))
      },
      ms * (1 + jitter * (2 * ports.random() - 1))
    )
    entry.timer.unref()
  }

  async function question(entry: Entry): Promise<void> {
    const { pulse, watched } = entry
    const number = pulse.asked(now())
    const signal = AbortSignal.any([leaving.signal, AbortSignal.timeout(answerWithinMs)])
    try {
      await ask(watched, signal)
      pulse.answered(number, now())
    } catch (error) {
      if (leaving.signal.aborted) return
      if (hasCode(error, refusals) || hasCode(error, resets)) pulse.refused(now())
      else if (hasCode(error, others)) pulse.wrong(now())
    }
    judge(entry)
  }

  /** Somebody elsewhere finds it away. Who hears of it knows better, and says so; who does not believes it. */
  async function doubt(entry: Entry): Promise<void> {
    const { watched, pulse } = entry
    if (entry.isDoubting) return
    entry.isDoubting = true
    const isOpen = (): boolean =>
      !leaving.signal.aborted && entries.get(watched.deviceId) === entry && entry.isDown !== true && entry.word === 'down'
    while (isOpen()) {
      const beganMs = now()
      const withinMs = Math.ceil(Math.max(denyWithinMs, silentAfterMs - (beganMs - pulse.heardMs())))
      const found = await ask(watched, AbortSignal.any([leaving.signal, AbortSignal.timeout(withinMs)])).then(
        () => 'here' as const,
        error => ([refusals, resets, others].some(codes => hasCode(error, codes)) ? ('away' as const) : ('silent' as const))
      )
      if (!isOpen()) break
      if (found === 'here') {
        pulse.alive(now())
        judge(entry)
        ports.tell(watched.deviceId, 'up', 'another gateway reaches it')
        break
      }
      // Tokens came meanwhile: it is asked once more.
      if (found === 'silent' && pulse.heardMs() > beganMs) continue
      believe(entry, 'down')
    }
    entry.isDoubting = false
  }

  function believe(entry: Entry, state: 'up' | 'down'): void {
    entry.isDown = state === 'down'
    entry.isOwn = false
    entry.pulse.believe(state, now())
    ports.onChange(entry.watched.deviceId, state)
  }

  function judge(entry: Entry): void {
    const { deviceId } = entry.watched
    if (leaving.signal.aborted || entries.get(deviceId) !== entry) return
    const { state, why } = entry.pulse.verdict(now())
    if ((state === 'down') === entry.isDown || (entry.isDown === null && state === 'up' && !entry.pulse.isKnown())) return
    entry.isDown = state === 'down'
    entry.isOwn = entry.isDown
    ports.onChange(deviceId, state)
    ports.tell(deviceId, state, why === null ? 'it answers again' : notes[why])
    schedule(entry, entry.pulse.pauseMs(ports.inFlight(deviceId) > 0, now()))
  }

  /** Work came to an idle machine, or doubt: the next question is not to wait for the old pause. */
  function hurry(entry: Entry): void {
    const pauseMs = entry.pulse.pauseMs(ports.inFlight(entry.watched.deviceId) > 0, now())
    if (entry.timer !== null && entry.dueMs - now() > pauseMs) schedule(entry, pauseMs)
  }

  const clocks = [
    setInterval(() => void lookAround(), livingEveryMs),
    setInterval(() => {
      for (const entry of entries.values()) {
        judge(entry)
        hurry(entry)
      }
    }, judgeEveryMs)
  ]
  for (const clock of clocks) clock.unref()

  return {
    watch(machines) {
      const ids = new Set(machines.map(({ deviceId }) => deviceId))
      for (const [id, { timer }] of entries) {
        if (ids.has(id)) continue
        if (timer !== null) clearTimeout(timer)
        entries.delete(id)
      }
      for (const watched of machines) {
        const entry = entries.get(watched.deviceId)
        if (entry === undefined) entries.set(watched.deviceId, newEntry(watched))
        else entry.watched = watched
      }
      void lookAround()
    },
    told(deviceId, state) {
      const entry = entries.get(deviceId)
      if (entry === undefined) return
      entry.word = state
      if (entry.isDown === (state === 'down')) return
      if (state === 'down') void doubt(entry)
      // Who asks it hears soon enough, and has counted how often it came and went.
      else if (!isAsked(entry)) believe(entry, 'up')
    },
    isDown: deviceId => entries.get(deviceId)?.isDown === true,
    alive(deviceId) {
      entries.get(deviceId)?.pulse.alive(now())
    },
    failed(deviceId) {
      const entry = entries.get(deviceId)
      if (entry !== undefined && entry.isDown !== true) void question(entry)
    },
    async check(deviceId) {
      const entry = entries.get(deviceId)
      if (entry === undefined) return 'down'
      await question(entry)
      return entry.isDown === true ? 'down' : 'up'
    },
    close() {
      leaving.abort(new Error('the process leaves'))
      for (const clock of clocks) clearInterval(clock)
      for (const { timer } of entries.values()) if (timer !== null) clearTimeout(timer)
    }
  }
}

function newEntry(watched: Watched): Entry {
  return { watched, pulse: createPulse(), timer: null, dueMs: 0, isDown: null, isOwn: false, word: null, isDoubting: false }
}

async function ask(watched: Watched, signal: AbortSignal): Promise<void> {
  await watched.ask(signal).catch(error => {
    if (!hasCode(error, resets)) throw error
    return watched.ask(signal)
  })
}

function hasCode(error: unknown, codes: ReadonlySet<string>): boolean {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth++) {
    if ('code' in at && typeof at.code === 'string' && codes.has(at.code)) return true
  }
  return false
}

// The tool calls of an answer: deltas of several calls may come interleaved, each call is one output item.

import { isRecord, type Json } from './fields.ts'
import type { Emit, Item, ItemStatus } from './items.ts'

export interface Calls {
  /** A whole call, or the next piece of one. */
  take(delta: Json): void
  /** Opens the calls whose name never came: what was said of them belongs into the answer. */
  settle(): void
}

export interface CallPorts {
  readonly newId: () => string
  readonly emit: Emit
  /** Counts what is held. */
  readonly hold: (text: string) => void
  /** Makes it an output item, and says which. */
  readonly add: (item: Item) => number
}

/** The two kinds of calls: what the model's words to the tool are called, in the item and in its events. */
const callForms = {
  function: { item: 'function_call', prefix: 'fc', field: 'arguments', events: 'response.function_call_arguments' },
  custom: { item: 'custom_tool_call', prefix: 'ctc', field: 'input', events: 'response.custom_tool_call_input' }
} as const

interface Call extends Item {
  readonly givenId: string | null
  take(name: string, piece: string): void
  open(): void
}

export function createCalls(ports: CallPorts): Calls {
  const calls: Call[] = []
  const byIndex = new Map<number, Call>()
  const callIds = new Set<string>()

  function start(delta: Json, index: number | null): Call {
    const givenId = idOf(delta)
    // Two items with one call_id cannot be told apart (the SDK throws); later the client answers to the id it was given.
    const callId = givenId === null || callIds.has(givenId) ? `call_${ports.newId()}` : givenId
    callIds.add(callId)
    const call = createCall({ kind: isRecord(delta.custom) || delta.type === 'custom' ? 'custom' : 'function', callId, givenId, ports })
    calls.push(call)
    if (index !== null) byIndex.set(index, call)
    return call
  }

  /** The call that a delta belongs to: 1. by its index, 2. by its id, 3. the one that is being written. */
  function find(delta: Json, name: string): Call {
    const givenId = idOf(delta)
    if (typeof delta.index === 'number') {
      const known = byIndex.get(delta.index)
      // 1. Some servers number every call 0: another id with a name is another call.
      const isAnother = givenId !== null && known?.givenId !== givenId && name !== ''
      return known === undefined || isAnother ? start(delta, delta.index) : known
    }
    // 2.
    const known = givenId === null ? undefined : calls.findLast(call => call.givenId === givenId)
    if (known !== undefined) return known
    // 3.
    const last = calls.at(-1)
    return givenId !== null || name !== '' || last === undefined ? start(delta, null) : last
  }

  return {
    take(delta) {
      const body = isRecord(delta.custom) ? delta.custom : isRecord(delta.function) ? delta.function : {}
      const name = typeof body.name === 'string' ? body.name : ''
      find(delta, name).take(name, wordsOf(body.arguments ?? body.input))
    },
    settle() {
      for (const call of calls) call.open()
    }
  }
}

function idOf(delta: Json): string | null {
  return typeof delta.id === 'string' && delta.id !== '' ? delta.id : null
}

/** Arguments are a string that holds JSON; some servers send the JSON itself. */
function wordsOf(value: unknown): string {
  if (typeof value === 'string') return value
  return isRecord(value) ? JSON.stringify(value) : ''
}

function createCall({
  kind,
  callId,
  givenId,
  ports
}: {
  readonly kind: keyof typeof callForms
  readonly callId: string
  readonly givenId: string | null
  readonly ports: CallPorts
}): Call {
  const { emit } = ports
  const form = callForms[kind]
  const id = `${form.prefix}_${ports.newId()}`
  const pieces: string[] = []
  let name = ''
  let index: number | null = null
  let status: ItemStatus = 'in_progress'
  let words: string | null = null

  function itemOf(text: string, as: ItemStatus): Json {
    return { id, type: form.item, status: as, [form.field]: text, call_id: callId, name }
  }

  function send(piece: string): void {
    if (piece !== '') emit(`${form.events}.delta`, { item_id: id, output_index: index, delta: piece })
  }

  function open(): void {
    if (index !== null) return
    index = ports.add(call)
    emit('response.output_item.added', { output_index: index, item: itemOf('', 'in_progress') })
    // What came before the name.
    send(pieces.join(''))
  }

  const call: Call = {
    givenId,
    open,
    take(givenName, piece) {
      ports.hold(piece)
      if (index === null && givenName !== '') {
        name = givenName
        open()
      }
      pieces.push(piece)
      if (index !== null) send(piece)
    },
    close(as) {
      if (status !== 'in_progress') return
      status = as
      words = pieces.join('')
      const named = kind === 'function' ? { name } : {}
      emit(`${form.events}.done`, { item_id: id, output_index: index, ...named, [form.field]: words })
      emit('response.output_item.done', { output_index: index, item: itemOf(words, status) })
    },
    value: () => itemOf(words ?? pieces.join(''), status === 'in_progress' ? 'incomplete' : status)
  }
  return call
}

// What of a request Ollama never hears of: fields that it does not know.

import type { ModelRequest, Operation, Target } from '../../routing/types.ts'
import { completionFields } from './completion.ts'
import { embeddingFields } from './embeddings.ts'
import { chatFields } from './request.ts'
import { mayThink, thinkFields } from './thinking.ts'
import { isGiven } from './values.ts'

// Answered by the gateway itself.
const gatewayFields = ['model', 'models', 'provider', 'stream', 'stream_options']

const heeded: Readonly<Record<Operation, ReadonlySet<string>>> = {
  chat: new Set([...gatewayFields, ...chatFields]),
  complete: new Set([...gatewayFields, ...completionFields]),
  embed: new Set([...gatewayFields, ...embeddingFields])
}

// They go into a header.
const namesAtMost = 32
const showable = /^[\w.-]{1,64}$/

/** An adapter's `dropped`: by the lists that the translations themselves are held to. */
export function droppedHints(request: ModelRequest, target?: Target): readonly string[] {
  const known = heeded[request.operation]
  const isUnheard = (name: string): boolean =>
    !known.has(name) || (target !== undefined && !mayThink(target) && (thinkFields as readonly string[]).includes(name))
  return Object.entries(request.body.json())
    .filter(([name, value]) => isGiven(value) && isUnheard(name) && showable.test(name))
    .map(([name]) => name)
    .slice(0, namesAtMost)
}

// What each kind of job is about: the form of its payload, who alone may answer it, and how its answer is shown.

import type { JobKind } from '../../queue/types.ts'

export interface KindFacts {
  /** `any`: it is given back as it came. */
  readonly payload: 'any' | 'chat' | 'embeddings' | 'ollama.embed' | 'ollama.generate'
  /** As `providerOf` names it; null = whoever is best. */
  readonly provider: string | null
  /** Its tokens can be read while they come. */
  readonly canStream: boolean
}

export const kindFacts: Readonly<Record<JobKind, KindFacts>> = {
  chat: { payload: 'chat', provider: null, canStream: true },
  embed: { payload: 'embeddings', provider: null, canStream: false },
  'openai.chat': { payload: 'chat', provider: 'openai', canStream: true },
  'openrouter.chat': { payload: 'chat', provider: 'openrouter', canStream: true },
  'ollama.generate': { payload: 'ollama.generate', provider: 'ollama', canStream: false },
  'ollama.embed': { payload: 'ollama.embed', provider: 'ollama', canStream: false },
  echo: { payload: 'any', provider: null, canStream: false }
}

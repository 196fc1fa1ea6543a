// Who gets the requests that we do not interpret.

import { nearest } from '../../routing/nearest.ts'
import type { Upstream } from '../../routing/types.ts'
import type { CheckedDocument } from './document.ts'
import type { ConfigFile } from './schema.ts'

export interface PassthroughSettings {
  /** Null = nobody. */
  readonly provider: Upstream | null
  /** First parts of paths after /v1. */
  readonly paths: readonly string[]
}

/** What is answered here, with and without /v1. */
const ours = [
  'chat',
  'completions',
  'costs',
  'docs',
  'embeddings',
  'health',
  'jobs',
  'keys',
  'metrics',
  'models',
  'openapi.json',
  'ready',
  'responses',
  'v1'
]

/**
 * What keeps nothing at the provider. Files, threads, vector stores and the like would be seen by every key of ours,
 * as the provider knows only one: whoever wants them names them.
 */
const defaultPaths = ['audio', 'images', 'moderations']

export function passthroughOf(
  file: { readonly value: ConfigFile; readonly document: CheckedDocument } | null,
  upstreams: readonly Upstream[]
): PassthroughSettings {
  const written = file?.value?.passthrough
  const paths = written?.paths ?? defaultPaths
  const taken = paths.find(path => ours.includes(path))
  if (taken !== undefined) file?.document.complain(['passthrough', 'paths'], `"${taken}" is answered by the gateway itself`)
  const name = written?.provider
  if (name === undefined) return { provider: upstreams.find(({ id }) => id === 'openai') ?? null, paths }
  const provider = upstreams.find(({ id }) => id === name) ?? null
  // Left out with its key, like everything of that provider.
  if (provider === null && file?.value?.providers?.[name] !== undefined) return { provider, paths }
  if (provider === null) {
    const [near] = nearest(
      name,
      upstreams.map(({ id }) => id),
      1
    )
    file?.document.complain(
      ['passthrough', 'provider'],
      `no provider or machine has this name${near === undefined ? '' : `, did you mean "${near}"?`}`
    )
  } else if (provider.adapter === 'ollama') {
    file?.document.complain(['passthrough', 'provider'], 'a server that speaks OpenAI is needed, and this one is spoken to as Ollama')
  }
  return { provider, paths }
}

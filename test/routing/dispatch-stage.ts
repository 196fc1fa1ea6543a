// What the tests of routing share: targets and requests with nothing special about them.

import type { Caller, ModelRequest, Target, Upstream } from '../../routing/types.ts'

export const caller: Caller = { keyId: 'key', source: 'me', subSource: null, kind: 'source', models: null, providers: null }

/** Model `m` there; on a machine of two places with `own`. */
export function targetOn(id: string, changes: Partial<Target> = {}, upstream: Partial<Upstream> = {}): Target {
  const own = upstream.own ?? false
  return {
    id: `${id}/m`,
    model: 'm',
    contextTokens: null,
    maxOutputTokens: null,
    features: null,
    operations: ['chat', 'complete'],
    loaded: true,
    price: { source: 'unknown', tokens: null },
    createdAt: 0,
    ...changes,
    upstream: {
      id,
      adapter: 'fake',
      own,
      baseUrl: '',
      apiKey: null,
      headers: {},
      device: own ? { id: `${id}-box`, maxConcurrency: 2, watts: 1, vramGb: null, ramGb: null, keepAlive: null, numCtx: null } : null,
      timeouts: { connectMs: 1, firstTokenMs: 1, idleMs: 1, totalMs: 1 },
      models: null,
      auto: [],
      streamUsage: true,
      registryId: null,
      ...upstream
    }
  }
}

export function requestFor(changes: Partial<ModelRequest> = {}): ModelRequest {
  return {
    id: 'request',
    operation: 'chat',
    choices: 1,
    input: null,
    embedding: null,
    body: { bytes: Buffer.alloc(0), json: () => ({}), with: () => Buffer.alloc(0) },
    model: 'm',
    stream: true,
    includeUsage: false,
    streamOptions: null,
    maxOutputTokens: null,
    needs: [],
    prompt: { low: 1, expected: 10 },
    longest: changes.prompt ?? { low: 1, expected: 10 },
    localOnly: false,
    ...changes
  }
}

// The demo model's place in the catalog.

import type { Target } from '../routing/types.ts'

export const demoTarget: Target = {
  id: 'echo/echo',
  upstream: {
    id: 'echo',
    adapter: 'echo',
    // Nothing leaves the house, and it is no machine: it has no slots and draws no power.
    own: true,
    baseUrl: '',
    apiKey: null,
    headers: {},
    device: null,
    timeouts: { connectMs: 1_000, firstTokenMs: 10_000, idleMs: 10_000, totalMs: 60_000 },
    models: null,
    auto: [],
    streamUsage: true,
    registryId: null
  },
  model: 'echo',
  contextTokens: null,
  maxOutputTokens: null,
  features: null,
  operations: ['chat', 'complete'],
  loaded: true,
  price: { source: 'free', tokens: null },
  createdAt: 0
}

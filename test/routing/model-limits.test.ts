// Which models of a machine are used, by its limits.

import t from 'tap'
import { contextTokensAtMost, overLimit, usualParamsB } from '../../routing/model-limits.ts'
import type { ModelLimits, ModelListing } from '../../routing/types.ts'

const gib = 1024 ** 3

function listing(changes: { sizeGb?: number; paramsB?: number } = {}): Pick<ModelListing, 'model' | 'memory' | 'build'> {
  return {
    model: 'llama3.1:latest',
    memory:
      changes.sizeGb === undefined
        ? null
        : {
            weightBytes: changes.sizeGb * gib,
            kvBytesPerToken: null,
            loadedContextTokens: null,
            loadedBytes: null,
            loadedVramBytes: null
          },
    build: { family: null, paramsB: changes.paramsB ?? null, quantization: null }
  }
}

t.test('names, sizes and parameters are limits; what nobody knows is no reason', async t => {
  const cases: readonly [limits: ModelLimits, sizeGb: number | undefined, paramsB: number | undefined, reason: string | null][] = [
    [{}, 500, 700, null],
    [{ denyModels: ['llama*'] }, 1, 1, 'denied'],
    [{ denyModels: ['llama3.1'] }, 1, 1, 'denied'],
    [{ denyModels: ['llama3'] }, 1, 1, null],
    [{ allowModels: ['qwen*'] }, 1, 1, 'not_allowed'],
    [{ allowModels: ['llama3.1:latest'] }, 1, 1, null],
    [{ allowModels: [] }, 1, 1, 'not_allowed'],
    [{ maxParamsB: 8 }, 1, 8, null],
    [{ maxParamsB: 8 }, 1, 8.03, 'too_many_parameters'],
    [{ maxParamsB: 8 }, 1, undefined, null],
    [{ maxSizeGb: 10 }, 10, 1, null],
    [{ maxSizeGb: 10 }, 10.1, 1, 'too_large'],
    [{ maxSizeGb: 10 }, undefined, 1, null]
  ]
  for (const [modelLimits, sizeGb, paramsB, reason] of cases) {
    const given = listing({ ...(sizeGb !== undefined && { sizeGb }), ...(paramsB !== undefined && { paramsB }) })
    t.equal(overLimit(given, { vramGb: null, ramGb: null, modelLimits }), reason, JSON.stringify([modelLimits, sizeGb, paramsB]))
  }
})

t.test('the rule of thumb counts only where the size of the weights is not known', async t => {
  for (const [vramGb, ramGb, most] of [
    [8, null, 5],
    [6, 64, 5],
    [16, null, 12],
    [24, null, 18],
    [0, 32, 24],
    [null, 8, 5],
    [null, null, null]
  ] as const) {
    t.equal(usualParamsB({ vramGb, ramGb }), most)
  }
  const device = { vramGb: 8, ramGb: null }
  t.equal(overLimit(listing({ paramsB: 7 }), device), 'too_many_parameters')
  t.equal(overLimit(listing({ paramsB: 7, sizeGb: 4.7 }), device), null)
  t.equal(overLimit(listing({ paramsB: 7 }), { ...device, modelLimits: { maxParamsB: 14 } }), null)
})

t.test('the context limit is in 1,024 tokens', async t => {
  t.equal(contextTokensAtMost({ modelLimits: { maxContextK: 16 } }), 16_384)
  t.equal(contextTokensAtMost({}), null)
})

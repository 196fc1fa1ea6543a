import t from 'tap'
import { chooseContextTokens } from '../../routing/context-size.ts'
import type { Device, ModelMemory } from '../../routing/types.ts'
import { fc } from '../support/properties.ts'

const gib = 1024 ** 3

const device = (changes: Partial<Device> = {}): Device => ({
  id: 'home',
  maxConcurrency: 1,
  watts: 100,
  vramGb: null,
  ramGb: null,
  keepAlive: null,
  numCtx: null,
  ...changes
})

/** An 8B model at 4 bits: 4.9 GB, 131,072 bytes of cache a token. */
const memory = (changes: Partial<ModelMemory> = {}): ModelMemory => ({
  weightBytes: 4.9e9,
  kvBytesPerToken: 131_072,
  loadedContextTokens: null,
  loadedBytes: null,
  loadedVramBytes: null,
  ...changes
})

t.test('the context is the largest step that stays in the memory of the GPU', async t => {
  const cases: readonly [vramGb: number, tokens: number][] = [
    [4, 8_192],
    [6, 8_192],
    [8, 16_384],
    [12, 32_768],
    [16, 65_536],
    [24, 131_072],
    [80, 131_072]
  ]
  for (const [vramGb, tokens] of cases) t.equal(chooseContextTokens(device({ vramGb }), memory(), null), tokens, `${vramGb} GB`)
})

t.test('exactly what fits is taken, and a byte less is not', async t => {
  const fitting = (tokens: number) => (1e9 * 1.1 + 100_000 * tokens) / 0.92 / gib
  const model = memory({ weightBytes: 1e9, kvBytesPerToken: 100_000 })
  for (const tokens of [16_384, 32_768, 65_536, 131_072]) {
    t.equal(chooseContextTokens(device({ vramGb: fitting(tokens) + 1e-9 }), model, null), tokens)
    t.equal(chooseContextTokens(device({ vramGb: fitting(tokens) - 1e-6 }), model, null), tokens / 2)
  }
})

t.test('the model’s own limit stands above the memory', async t => {
  t.equal(chooseContextTokens(device({ vramGb: 80 }), memory(), 40_960), 40_960)
  t.equal(chooseContextTokens(device({ vramGb: 80 }), memory(), 2_048), 2_048)
  t.equal(chooseContextTokens(device(), null, 4_096), 4_096)
  t.equal(chooseContextTokens(device(), null, 1_000_000), 8_192)
})

t.test('a size set by hand wins over everything but the model’s limit', async t => {
  const byHand = device({ vramGb: 4, numCtx: 100_000 })
  t.equal(chooseContextTokens(byHand, memory(), null), 100_000)
  t.equal(chooseContextTokens(byHand, memory(), 32_768), 32_768)
  t.equal(chooseContextTokens(device({ numCtx: 512 }), null, null), 512)
})

t.test('a machine without a GPU goes by its memory', async t => {
  const cpu = device({ vramGb: 0, ramGb: 16 })
  t.equal(chooseContextTokens(cpu, memory(), null), 32_768)
  t.equal(chooseContextTokens(device({ vramGb: 0 }), memory(), null), 8_192, 'its memory is unknown')
  const found = memory({ loadedContextTokens: 4_096, loadedBytes: 5e9, loadedVramBytes: 0 })
  t.equal(chooseContextTokens(device({ ramGb: 16 }), found, null), 32_768, 'known by a model that is loaded without one')
  t.equal(chooseContextTokens(device({ ramGb: 16 }), memory(), null), 8_192, 'not known to have none')
  t.equal(chooseContextTokens(device({ vramGb: 8, ramGb: 512 }), found, null), 16_384, 'a GPU is what counts where there is one')
})

t.test('where the memory is unknown, what is loaded on the GPU stays as it is', async t => {
  const loaded = (tokens: number, vram = 5e9) => memory({ loadedContextTokens: tokens, loadedBytes: 5e9, loadedVramBytes: vram })
  t.equal(chooseContextTokens(device(), loaded(20_000), null), 20_000)
  t.equal(chooseContextTokens(device(), loaded(8_192), null), 8_192)
  t.equal(chooseContextTokens(device(), loaded(4_096), null), 8_192, 'too small to stay')
  t.equal(chooseContextTokens(device(), loaded(1_000_000), null), 131_072)
  t.equal(chooseContextTokens(device(), loaded(20_000), 10_000), 10_000)
  t.equal(chooseContextTokens(device(), loaded(20_000, 4e9), null), 8_192, 'partly on the CPU')
  t.equal(chooseContextTokens(device(), memory(), null), 8_192, 'not loaded')
  t.equal(chooseContextTokens(device(), null, null), 8_192)
  t.equal(chooseContextTokens(device({ vramGb: 24 }), null, null), 8_192, 'nothing is known of the model')
})

t.test('where the model does not say, the cache is taken for that of an 8B model of its weight', async t => {
  const silent = memory({ kvBytesPerToken: null })
  t.equal(chooseContextTokens(device({ vramGb: 16 }), silent, null), 65_536)
  t.equal(chooseContextTokens(device({ vramGb: 8 }), silent, null), 16_384)
})

t.test('more memory never means less context, and the model’s limit always holds', async t => {
  const amount = fc.double({ min: 0.1, max: 200, noNaN: true })
  fc.assert(
    fc.property(
      amount,
      amount,
      fc.integer({ min: 1e8, max: 1e11 }),
      fc.option(fc.integer({ min: 1_000, max: 1_000_000 })),
      fc.boolean(),
      (a, b, weightBytes, limit, gpu) => {
        const on = (gb: number) =>
          chooseContextTokens(device(gpu ? { vramGb: gb } : { vramGb: 0, ramGb: gb }), memory({ weightBytes }), limit)
        const [less, more] = [on(Math.min(a, b)), on(Math.max(a, b))]
        return less <= more && more <= (limit ?? 131_072) && less >= Math.min(8_192, limit ?? 8_192)
      }
    )
  )
  t.pass()
})

import t from 'tap'
import { drawLengths, quantile } from '../../simulate/lengths.ts'
import { createStream } from '../../simulate/random.ts'
import { fc } from '../support/properties.ts'

t.test('the table is met at its shares, and in between it is interpolated in log space', async t => {
  t.equal(quantile('code', 'prompt', 0), 3)
  t.ok(Math.abs(quantile('conv', 'output', 1) - 1000) < 1e-9)
  t.ok(Math.abs(quantile('conv', 'prompt', 0.5) - 1022) < 1e-9)
  t.ok(Math.abs(quantile('code', 'output', 0.995) - Math.sqrt(258 * 1899)) < 1e-6)
})

t.test('a larger share is never shorter', async () => {
  const share = fc.double({ min: 0, max: 1, noNaN: true })
  fc.assert(
    fc.property(
      fc.constantFrom('code' as const, 'conv' as const),
      fc.constantFrom('prompt' as const, 'output' as const),
      share,
      share,
      (len, of, a, b) => {
        return quantile(len, of, Math.min(a, b)) <= quantile(len, of, Math.max(a, b)) + 1e-9
      }
    )
  )
})

t.test('what is drawn has the quantiles of the table and the means of the traces', async t => {
  const stream = createStream('lengths')
  const drawn = Array.from({ length: 20_000 }, () => drawLengths({ len: 'conv' }, stream))
  const prompts = drawn.map(({ promptTokens }) => promptTokens).sort((a, b) => a - b)
  const outputs = drawn.map(({ outputTokens }) => outputTokens).sort((a, b) => a - b)
  const near = (found: number | undefined, wanted: number, share: number): boolean => Math.abs((found ?? 0) / wanted - 1) < share
  t.ok(near(prompts[10_000], 1022, 0.02), `median prompt ${prompts[10_000]}`)
  t.ok(near(outputs[10_000], 129, 0.05), `median answer ${outputs[10_000]}`)
  t.ok(near(outputs[18_000], 427, 0.02), `p90 answer ${outputs[18_000]}`)
  // Of the traces themselves: 1,155 and 211.
  t.ok(near(prompts.reduce((sum, each) => sum + each, 0) / 20_000, 1155, 0.03))
  t.ok(near(outputs.reduce((sum, each) => sum + each, 0) / 20_000, 211, 0.03))
})

t.test('prompt and answer are drawn apart', async t => {
  const stream = createStream('apart')
  const drawn = Array.from({ length: 5_000 }, () => drawLengths({ len: 'conv' }, stream))
  const logs = drawn.map(({ promptTokens, outputTokens }) => [Math.log(promptTokens), Math.log(outputTokens)] as const)
  const mean = (of: 0 | 1): number => logs.reduce((sum, each) => sum + each[of], 0) / logs.length
  const [x, y] = [mean(0), mean(1)]
  const sum = (of: (dx: number, dy: number) => number): number => logs.reduce((total, each) => total + of(each[0] - x, each[1] - y), 0)
  const correlation = sum((dx, dy) => dx * dy) / Math.sqrt(sum(dx => dx * dx) * sum((_, dy) => dy * dy))
  t.ok(Math.abs(correlation) < 0.05, `${correlation}`)
})

t.test('scales multiply, maxTokens ends the answer, and neither changes what is drawn next', async t => {
  const plain = drawLengths({ len: 'conv' }, createStream('same'))
  const scaled = drawLengths({ len: 'conv', inScale: 3, outScale: 0.5 }, createStream('same'))
  t.ok(Math.abs(scaled.promptTokens - 3 * plain.promptTokens) <= 2)
  t.ok(Math.abs(scaled.outputTokens - plain.outputTokens / 2) <= 1)
  const stream = createStream('same')
  const cut = drawLengths({ len: 'conv', maxTokens: 5 }, stream)
  t.same(cut, { promptTokens: plain.promptTokens, outputTokens: 5, isCut: true })
  const other = createStream('same')
  drawLengths({ len: 'conv' }, other)
  t.equal(stream.uniform(), other.uniform())
  t.equal(drawLengths({ len: 'conv', maxTokens: 1000 }, createStream('same')).isCut, false)
})

import t from 'tap'
import { embeddingsJson, inOrder, readVectors, type Vector, vectorJson } from '../../adapters/shared/vectors.ts'
import { fc } from '../support/properties.ts'

const float = fc.float({ noNaN: true, noDefaultInfinity: true })
const base64Of = (values: readonly number[]) => Buffer.from(new Float32Array(values).buffer).toString('base64')
const floatsOf = (base64: string) => [...new Float32Array(new Uint8Array(Buffer.from(base64, 'base64')).buffer)]

t.test('numbers become the base64 of their 32-bit floats, bit for bit', async t => {
  const double = fc.double({ min: -3e38, max: 3e38, noNaN: true })
  fc.assert(
    fc.property(fc.array(fc.oneof(float, double), { minLength: 1, maxLength: 50 }), values => {
      t.equal(JSON.parse(vectorJson(values, 'base64')), base64Of(values))
    })
  )
  t.equal(vectorJson([0.5, 0.25], 'base64'), '"AAAAPwAAgD4="', "OpenAI's form of it")
})

t.test('base64 becomes numbers that are the same floats, bit for bit, and back again', async t => {
  fc.assert(
    fc.property(fc.array(float, { minLength: 1, maxLength: 50 }), values => {
      const base64 = base64Of(values)
      const numbers: number[] = JSON.parse(vectorJson(base64, 'float'))
      // Also the sign of a zero.
      t.ok(numbers.length === values.length && numbers.every((number, index) => Object.is(number, values[index])))
      t.equal(JSON.parse(vectorJson(numbers, 'base64')), base64)
      t.same(floatsOf(base64), values)
    })
  )
})

t.test('what is in the encoding asked for stays as it is', async t => {
  // No 32-bit float: it would come back as 0.10000000149011612.
  t.equal(vectorJson([0.1, -0, 1e-7, 1e21], 'float'), '[0.1,-0,1e-7,1e+21]')
  t.equal(vectorJson('AAAAPwAAgD4=', 'base64'), '"AAAAPwAAgD4="')
})

t.test('only whole vectors of one length, one for each text, are vectors', async t => {
  const good: readonly (readonly [vectors: readonly Vector[], dimensions: number])[] = [
    [[[1], [2]], 1],
    [[[1, 2], base64Of([3, 4])], 2]
  ]
  for (const [list, dimensions] of good) t.same(readVectors(list, 2), { list, dimensions })
  const nan = base64Of([1, Number.NaN])
  const bad: readonly (readonly [vectors: readonly unknown[], wrong: RegExp])[] = [
    [[[1]], /1 vectors for 2 texts/],
    [[[1], [2], [3]], /3 vectors for 2 texts/],
    [[[1], [1, 2]], /different lengths \(1 and 2\)/],
    [[base64Of([1]), [1, 2]], /different lengths/],
    [[[], []], /empty vector \(0\)/],
    [['', ''], /empty vector \(0\)/],
    [[[1], null], /vector \(1\) that is not/],
    [[[1], { 0: 1, length: 1 }], /vector \(1\) that is not/],
    [[[1], ['1']], /vector \(1\) that is not/],
    [[[1], [null]], /vector \(1\) that is not/],
    [[[1], [Number.NaN]], /vector \(1\) that is not/],
    [[[1], [1e39]], /vector \(1\) that is not/],
    [[nan, nan], /vector \(0\) that is not/],
    [[base64Of([Number.POSITIVE_INFINITY]), [1]], /vector \(0\) that is not/],
    [['AAAAAAAAAA==', [1]], /vector \(0\) that is not/],
    [['AAAAPw', [1]], /vector \(0\) that is not/],
    [['AAAA Pw==', [1]], /vector \(0\) that is not/],
    [['AAAA-_==', [1]], /vector \(0\) that is not/]
  ]
  for (const [list, wrong] of bad) t.match(readVectors(list, 2), { wrong }, JSON.stringify(list))
})

t.test('entries go by their index, or by their place where they have none', async t => {
  const entry = (index: unknown, embedding: unknown) => ({ index, embedding })
  t.same(inOrder([entry(1, 'b'), entry(0, 'a')], 2), ['a', 'b'])
  t.same(inOrder([{ embedding: 'a' }, entry(null, 'b')], 2), ['a', 'b'])
  for (const data of [
    undefined,
    {},
    [],
    [entry(0, 'a')],
    [entry(0, 'a'), entry(0, 'b')],
    [entry(0, 'a'), entry(2, 'b')],
    [entry(-1, 'a'), entry(1, 'b')],
    [entry(0.5, 'a'), entry(1, 'b')],
    [entry('0', 'a'), entry(1, 'b')],
    [entry(1, 'a'), { embedding: 'b' }],
    [entry(0, 'a'), null],
    [entry(0, 'a'), 'b']
  ])
    t.hasProp(inOrder(data, 2), 'wrong', JSON.stringify(data))
})

t.test('the answer is one JSON object, with what else was said', async t => {
  const rest = { model: 'm"', usage: { prompt_tokens: 1, total_tokens: 1 }, provider: 'x' }
  t.same(JSON.parse(embeddingsJson({ list: [[1], base64Of([2])], dimensions: 1 }, 'float', rest).toString()), {
    object: 'list',
    data: [
      { object: 'embedding', index: 0, embedding: [1] },
      { object: 'embedding', index: 1, embedding: [2] }
    ],
    ...rest
  })
})

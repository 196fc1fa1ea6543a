// What is said of a field that is wrong: its name, what was expected, and the kind of what came.

import t from 'tap'
import { missing, optionalBoolean, optionalRecord, positiveInteger, wrong } from '../../gateway/fields.ts'
import { GatewayError } from '../../routing/errors.ts'

t.test('the kind of a wrong value is named, emptiness too, and never its text', async t => {
  const kinds: readonly [value: unknown, kind: string][] = [
    [[], 'an empty list'],
    [['secret'], 'a list'],
    ['', 'an empty string'],
    [' ', 'a string'],
    ['secret', 'a string'],
    [{}, 'an object'],
    [{ secret: 1 }, 'an object'],
    [null, 'null'],
    [undefined, 'nothing'],
    [0, '0'],
    [-1.5, '-1.5'],
    [false, 'false']
  ]
  for (const [value, kind] of kinds) {
    const error = wrong('messages[0].role', 'a list of messages', value)
    t.equal(error.message, `Invalid value for "messages[0].role": expected a list of messages, got ${kind}.`)
    t.match(error, { code: 'invalid_request', param: 'messages[0].role', publicCode: 'invalid_value' })
  }
  t.match(missing('model', 'a name'), {
    message: 'Missing required parameter: "model", a name.',
    param: 'model',
    publicCode: 'missing_required_parameter'
  })
})

t.test('a field that is absent or null is null; one of its kind is itself; any other is refused by name', async t => {
  const cases: readonly [
    read: (facts: Record<string, unknown>, name: string) => unknown,
    good: readonly unknown[],
    bad: readonly unknown[]
  ][] = [
    [positiveInteger, [1, 5, 2 ** 40], [0, -1, 1.5, '1', true, [], {}]],
    [optionalBoolean, [true, false], [0, 'true', [], {}]],
    [optionalRecord, [{}, { a: 1 }], [0, 'a', true, [], [{}]]]
  ]
  for (const [read, good, bad] of cases) {
    t.equal(read({}, 'x'), null, read.name)
    t.equal(read({ x: null }, 'x'), null, read.name)
    for (const value of good) t.equal(read({ x: value }, 'x'), value, read.name)
    for (const value of bad) {
      const refused = refusal(() => read({ x: value }, 'x'))
      t.equal(refused.param, 'x', `${read.name} of ${JSON.stringify(value)}`)
    }
  }
})

function refusal(act: () => unknown): GatewayError {
  try {
    act()
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
  throw new Error('it was taken')
}

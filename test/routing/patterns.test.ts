import t from 'tap'
import { matches, matchesAny } from '../../routing/patterns.ts'
import { fc } from '../support/properties.ts'

t.test('a star stands for any characters, and for none', async t => {
  const cases: readonly [pattern: string, name: string, result: boolean][] = [
    ['gpt-4o', 'gpt-4o', true],
    ['gpt-4o', 'gpt-4o-mini', false],
    ['gpt-4o*', 'gpt-4o', true],
    ['gpt-4o*', 'gpt-4o-mini', true],
    ['*mini', 'gpt-4o-mini', true],
    ['*', '', true],
    ['', '', true],
    ['', 'x', false],
    ['a*b*c', 'a-b-c', true],
    ['a*b*c', 'acb', false],
    ['a*bb*b', 'abbb', true],
    ['a*bb*b', 'abb', false],
    ['ab*bc', 'abc', false],
    ['openai/*', 'openrouter/openai/gpt', false],
    ['gpt.4o', 'gpt-4o', false],
    ['**x**', 'x', true]
  ]
  for (const [pattern, name, result] of cases) t.equal(matches(pattern, name), result, `${pattern} ${name}`)
})

t.test('it agrees with what a regular expression would say', async () => {
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '*'), maxLength: 8 })
  fc.assert(
    fc.property(text, fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 10 }), (pattern, name) => {
      return matches(pattern, name) === new RegExp(`^${pattern.replaceAll('*', '.*')}$`).test(name)
    }),
    { numRuns: 5_000 }
  )
})

t.test('no pattern makes it slow', async t => {
  const started = process.cpuUsage()
  t.equal(matches(`${'*a'.repeat(1_000)}*b`, 'a'.repeat(10_000)), false)
  t.ok(process.cpuUsage(started).user < 500_000)
})

t.test('one match of any name is enough', async t => {
  t.equal(matchesAny(['x', 'gpt-*'], ['fast', 'gpt-4o']), true)
  t.equal(matchesAny([], ['a']), false)
})

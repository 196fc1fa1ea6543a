import t from 'tap'
import { createAgenda } from '../../simulate/agenda.ts'
import { fc } from '../support/properties.ts'

t.test('things happen by time, and in the order of entry at the same time', async () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 60 }), times => {
      const agenda = createAgenda()
      const happened: { readonly atS: number; readonly number: number }[] = []
      for (const [number, atS] of times.entries()) agenda.at(atS, () => happened.push({ atS: agenda.nowS, number }))
      while (agenda.step(100));
      const wanted = times.map((atS, number) => ({ atS, number })).sort((a, b) => a.atS - b.atS || a.number - b.number)
      return JSON.stringify(happened) === JSON.stringify(wanted)
    })
  )
})

t.test('what is entered for the past happens now, and nothing after the bound', async t => {
  const agenda = createAgenda()
  const happened: string[] = []
  agenda.at(5, () => {
    happened.push('first')
    agenda.at(1, () => happened.push(`second at ${agenda.nowS}`))
  })
  agenda.at(11, () => happened.push('late'))
  while (agenda.step(10));
  t.same(happened, ['first', 'second at 5'])
  t.equal(agenda.nowS, 5)
})

t.test('a clock that stands still for a million acts is an error', async t => {
  const agenda = createAgenda()
  const again = (): void => agenda.at(3, again)
  again()
  t.throws(() => {
    while (agenda.step(10));
  }, /stands still at 3 s/)
})

// The guards that `npm run chaos -- mutants` takes out are where it looks for them: one that moved would be missed for a wrong reason.

import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { changed, mutants } from './mutants.ts'

for (const [name, { replacements }] of mutants) {
  t.test(`${name} changes the source`, async t => {
    t.ok(replacements.length > 0)
    const texts = new Map<string, string>()
    for (const replacement of replacements) {
      const { file } = replacement
      const text = texts.get(file) ?? readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')
      const after = changed(text, replacement)
      t.not(after, text)
      texts.set(file, after)
    }
  })
}

t.test('a guard in a migration is in the last one that has it', async t => {
  const places = [...mutants.values()].flatMap(({ replacements }) => replacements.filter(({ file }) => file.startsWith('migrations/')))
  t.ok(places.length > 0)
  for (const { file, find } of places) {
    const later = readdirSync(new URL('../../migrations', import.meta.url)).filter(name => `migrations/${name}` > file)
    const texts = later.map(name => readFileSync(new URL(`../../migrations/${name}`, import.meta.url), 'utf8'))
    t.notOk(
      texts.some(text => text.includes(find)),
      `${file} holds what a later one writes anew`
    )
  }
})

t.test('a guard that is not there, or there twice, is an error', async t => {
  for (const text of ['', 'a guard, and a guard']) {
    t.throws(() => changed(text, { file: 'x.ts', find: 'a guard', replace: '' }), /x\.ts holds "a guard"/)
  }
})

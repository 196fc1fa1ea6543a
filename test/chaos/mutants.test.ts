// The guards that `npm run chaos -- mutants` takes out are where it looks for them: one that moved would be missed for a wrong reason.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { changed, mutants } from './mutants.ts'

for (const [name, replacements] of mutants) {
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

t.test('a guard that is not there, or there twice, is an error', async t => {
  for (const text of ['', 'a guard, and a guard']) {
    t.throws(() => changed(text, { file: 'x.ts', find: 'a guard', replace: '' }), /x\.ts holds "a guard"/)
  }
})

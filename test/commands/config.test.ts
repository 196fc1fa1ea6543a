// llm-mcp config: what it prints, for people and as JSON.

import t from 'tap'
import { newFolder } from '../support/gateway.ts'
import { runCommand } from './run.ts'

t.test('config check says what is wrong, as JSON too', async t => {
  const folder = await newFolder(t)
  const well = await runCommand(t, { folder, args: ['config', 'check', '--json'], config: { aliases: { a: ['b'] } } })
  t.match(JSON.parse(well.stdout), { ok: true, problems: [], upstreams: 1, aliases: 1, file: /llm-mcp\.yaml$/ })
  t.equal(well.code, 0)
  const wrong = { folder, config: { aliases: { auto: ['b'] }, nonsense: 1 }, env: { PORT: 'x' } }
  const ill = await runCommand(t, { ...wrong, args: ['config', 'check', '--json'] })
  t.same([ill.code, ill.stderr], [1, ''])
  const { ok, problems } = JSON.parse(ill.stdout)
  t.equal(ok, false)
  t.equal(problems.length, 2)
  t.match(problems[0], /^PORT must be/)
  const plain = await runCommand(t, { ...wrong, args: ['config', 'check'] })
  t.same([plain.code, plain.stdout], [1, ''])
  t.same(plain.stderr.trimEnd().split('\n'), problems)
})

t.test('config schema is JSON, and says where it was written', async t => {
  const folder = await newFolder(t)
  const { stdout } = await runCommand(t, { folder, args: ['config', 'schema', '--json'] })
  t.match(JSON.parse(stdout), { $schema: /json-schema/ })
  const written = await runCommand(t, { folder, args: ['config', 'schema', '--write', 'schema.json', '--json'] })
  t.same(JSON.parse(written.stdout), { file: 'schema.json' })
})

t.test('--help says how --json and failures go together', async t => {
  t.match(
    (await runCommand(t, { folder: await newFolder(t), args: ['--help'] })).stdout,
    /one JSON value on stdout\. A failure is one line on stderr/
  )
})

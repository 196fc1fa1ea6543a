// llm-mcp doctor: looks at everything a request depends on, and says in one line what to do about each thing that is wrong.

import { styleText } from 'node:util'
import { loadAdapters } from '../../adapters/shared/scan.ts'
import { createOutbound, type Outbound } from '../../outbound/client.ts'
import type { Adapter, Upstream } from '../../routing/types.ts'
import { ConfigError, loadSettings, localOllamaUpstream, type Settings } from '../config.ts'
import { bounded, type Check, fail, ok, reasonOf, type Status, skipped, warn, within } from './doctor/check.ts'
import { type ClockReading, clockCheck } from './doctor/clock.ts'
import { type DatabaseState, databaseState } from './doctor/database.ts'
import { diskCheck } from './doctor/disk.ts'
import { nodeCheck, nodeFacts } from './doctor/node.ts'
import { portState } from './doctor/port.ts'
import { requestCheck, requestRemedy } from './doctor/request.ts'
import { createRedactor, secretsOf } from './doctor/secrets.ts'
import { machineCheck, machineRemedy, providerRemedy, providerState } from './doctor/upstreams.ts'
import { plain, printJson } from './print.ts'

const lookMs = 10_000
const requestMs = 60_000
// A child that must be killed, a key that is taken back.
const cleanUpMs = 12_000
const closeMs = 5_000

/** Prints every check; exit code 1 when one fails. */
export async function doctorCommand({ json, request }: { readonly json?: boolean; readonly request: boolean }): Promise<void> {
  const stopped = new AbortController()
  const stop = (): void => stopped.abort(new Error('called off'))
  // What was made for the looks is taken away all the same.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, stop)
  const checks: Check[] = []
  await examine({ request, signal: stopped.signal }, check => {
    checks.push(check)
    if (json !== true) console.log(line(check))
  })
  const isWell = checks.every(({ status }) => status !== 'fail')
  if (json === true) printJson({ ok: isWell, checks })
  process.exitCode = isWell ? 0 : 1
  // A connection that was given up on may still stand; nobody waits for it.
  setTimeout(() => process.exit(), 1_000).unref()
}

interface Examination {
  readonly request: boolean
  readonly signal: AbortSignal
}

/** Tells each check as soon as it and those before it are there. At most 87 s; never rejects. */
async function examine({ request, signal }: Examination, tell: (check: Check) => void): Promise<void> {
  tell({ name: 'node', ...nodeCheck(nodeFacts()) })
  const settings = await loadSettings().catch((error: unknown) => error)
  if (settings instanceof Error) {
    const problems = settings instanceof ConfigError ? settings.problems : [reasonOf(settings)]
    const more = problems.length > 1 ? ' (all of them: llm-mcp config check)' : ''
    tell({ name: 'configuration', ...fail(`problems: ${problems.length}`, `${plain(problems[0] ?? '')}${more}`) })
    for (const name of ['port', 'disk', 'database', 'clock', 'request']) tell({ name, ...skipped('needs the configuration') })
    return
  }
  const outbound = createOutbound()
  try {
    await examineAll(settings as Settings, outbound, { request, signal }, tell)
  } finally {
    await outbound.close()
  }
}

async function examineAll(settings: Settings, outbound: Outbound, { request, signal }: Examination, tell: (check: Check) => void) {
  const secrets = secretsOf(settings)
  let redact = createRedactor(secrets)
  const shown = (text: string): string => plain(redact(text))
  const say = (check: Check): void =>
    tell({ ...check, detail: shown(check.detail), remedy: check.remedy === null ? null : shown(check.remedy) })
  const adapters = await loadAdapters({ outbound, reasoningField: settings.reasoningField, now: Date.now, randomId: () => '' })
  const readings = new Map<string, ClockReading | null>()
  let gatewayUrl: string | null = null
  let database: DatabaseState['database'] = null
  const bounds = (remedy: string) => ({ ms: lookMs, signal, remedy })

  // 1. everything at once, told in order
  const looks = [
    Promise.resolve<Check>({ name: 'configuration', ...configurationCheck(settings) }),
    bounded('port', bounds('Set PORT to another one.'), async signal => {
      const state = await portState(outbound, settings, signal)
      gatewayUrl = state.gatewayUrl
      return state.finding
    }),
    bounded('disk', bounds('Set LLM_MCP_DATA_DIR to a folder on a disk that answers.'), () => diskCheck(settings.dataDir)),
    bounded('database', bounds('See the log of the database.'), async signal => {
      const state = await databaseState(settings, signal, message => console.error(shown(message)))
      database = state.database
      readings.set('database', state.clock)
      return state.finding
    }),
    ...machinesOf(settings, adapters).map(({ upstream, adapter, isCandidate }) => lookAt(upstream, adapter, isCandidate)),
    ...settings.upstreams
      .filter(upstream => !upstream.own)
      .map(upstream =>
        bounded(`provider ${upstream.id}`, bounds(providerRemedy), async signal => {
          const state = await providerState(outbound, upstream, signal)
          readings.set(`provider ${upstream.id}`, state.clock)
          return state.finding
        })
      )
  ]
  try {
    const clocks: ClockReading[] = []
    for (const look of looks) {
      const check = await look
      say(check)
      const reading = readings.get(check.name) ?? null
      if (reading !== null) clocks.push(reading)
    }

    // 2. what needs their answers
    say({ name: 'clock', ...clockCheck(clocks) })
    const open = database as DatabaseState['database']
    if (!request) return say({ name: 'request', ...skipped('left out (--no-request)') })
    if (open === null) return say({ name: 'request', ...skipped('needs the database') })
    const onKey = (key: string): void => {
      redact = createRedactor([...secrets, key])
    }
    say(
      await bounded('request', { ms: requestMs, signal, remedy: requestRemedy, graceMs: cleanUpMs }, signal =>
        requestCheck({ pool: open.pool, gatewayUrl, signal, onKey })
      )
    )
  } finally {
    await within(closeMs, (database as DatabaseState['database'])?.close())
  }

  function lookAt(upstream: Upstream, adapter: Adapter, isCandidate: boolean): Promise<Check> {
    const name = `machine ${upstream.id}`
    const look = bounded(name, bounds(machineRemedy(upstream)), signal => machineCheck(adapter, upstream, signal))
    // Nobody asked for it: that it is not there is news only where there is nothing else.
    if (!isCandidate) return look
    return look.then(check => {
      if (check.status !== 'fail') return check
      if (settings.upstreams.length > 0) return { name, ...skipped(`no Ollama on this machine (${upstream.baseUrl})`) }
      return { name, ...warn(`no Ollama on this machine (${upstream.baseUrl}), and nothing else is set: a demo answers`, connectRemedy) }
    })
  }
}

const connectRemedy = 'Start Ollama, or set OPENROUTER_API_KEY or OPENAI_API_KEY.'

function configurationCheck({ configFile, upstreams, aliases }: Settings) {
  const own = upstreams.filter(upstream => upstream.own).length
  return ok(`${configFile ?? 'the environment alone'}: machines: ${own}, providers: ${upstreams.length - own}, aliases: ${aliases.size}`)
}

function machinesOf(settings: Settings, adapters: ReadonlyMap<string, Adapter>) {
  const candidate = settings.localOllama?.explicit === false ? localOllamaUpstream(settings) : null
  return [...settings.upstreams.filter(upstream => upstream.own), ...(candidate === null ? [] : [candidate])].map(upstream => ({
    upstream,
    adapter: adapters.get(upstream.adapter) as Adapter,
    isCandidate: upstream === candidate
  }))
}

const marks: Readonly<Record<Status, string>> = {
  ok: styleText('green', '✓'),
  warn: styleText('yellow', '!'),
  fail: styleText('red', '✗'),
  skipped: styleText('dim', '-')
}

function line({ name, status, detail, remedy }: Check): string {
  return `${marks[status]} ${name.padEnd(13)}  ${detail}${remedy === null ? '' : `\n  ${styleText('dim', '→')} ${remedy}`}`
}

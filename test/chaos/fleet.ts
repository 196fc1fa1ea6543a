// The processes under test: gateways and workers on one embedded database, started, killed, frozen and started again.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { removeData } from '../support/copy.ts'
import { until } from '../support/wait.ts'
import type { History } from './history.ts'
import { boxSlots, type Machines, rentedModel } from './machines.ts'

export type Role = 'gateway' | 'worker'

export const fleetNames: readonly string[] = ['gateway-1', 'gateway-2', 'worker-1', 'worker-2', 'worker-3']
export const adminKey = 'sk-llm-chaos-admin-key-0123456789abcdef'

// One charge of the provider is a dollar, lost or not, and one of the box a tenth of a cent: sums of money count calls.
export const dollarsPerRentedCall = 1
export const dollarsPerBoxCall = 0.001
const prices = { [`openai/${rentedModel}`]: { input_usd_per_1m: 0, output_usd_per_1m: 0, request_usd: dollarsPerRentedCall } }
const watts = 3_600

export type ProcessState = 'starting' | 'up' | 'stopped' | 'down'

export interface Fleet {
  /** Starts all of it and waits until it is ready. */
  start(): Promise<void>
  stateOf(name: string): ProcessState
  /** Addresses of the gateways that are up or frozen: no client can tell one from the other. */
  gateways(): readonly string[]
  /** SIGKILL; it is started again at once. */
  kill(name: string): void
  /** SIGSTOP. */
  freeze(name: string): void
  /** SIGCONT. */
  thaw(name: string): void
  /** Ends PostgreSQL's postmaster with SIGKILL; false when there is none to kill. */
  killPostgres(): boolean
  /** Waits until everything is up. Throws when it does not come. */
  allUp(ms: number): Promise<void>
  /** Kills all, and the database; keeps the files. */
  close(): Promise<void>
}

export interface FleetOptions {
  /** The project, or a copy of it. */
  readonly root: string
  /** Everybody may enter it: the database runs as another account. */
  readonly folder: string
  readonly machines: Machines
  readonly history: History
}

interface Member {
  readonly name: string
  child: ChildProcess | null
  state: ProcessState
  url: string | null
}

export function createFleet({ root, folder, machines, history }: FleetOptions): Fleet {
  const members = new Map<string, Member>(fleetNames.map(name => [name, { name, child: null, state: 'down', url: null }]))
  const dataDir = join(folder, 'data')
  let isClosed = false

  function member(name: string): Member {
    const found = members.get(name)
    if (found === undefined) throw new Error(`there is no process ${name}`)
    return found
  }

  async function launch(given: Member): Promise<void> {
    const { name } = given
    const log = join(folder, `${name}.log`)
    const child = spawn(process.execPath, [join(root, 'bin/llm-mcp.js'), 'serve'], {
      cwd: folder,
      env: environmentOf(name),
      stdio: ['ignore', 'pipe', 'pipe']
    })
    given.child = child
    given.state = 'starting'
    given.url = null
    history.write({ t: 'fault', kind: 'start', process: name })
    let rest = ''
    const heard = (chunk: string): void => {
      appendFileSync(log, chunk)
      const lines = (rest + chunk).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) hear(given, child, line)
    }
    for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', heard)
    await once(child, 'exit')
    // Not by us: a start that found no database gives up, and whoever runs it starts it again.
    const wasUp = given.state !== 'starting'
    given.state = 'down'
    if (isClosed) return
    if (child.signalCode !== 'SIGKILL') {
      const note = `${wasUp ? 'after' : 'before'} it was ready, code ${child.exitCode ?? child.signalCode}`
      history.write({ t: 'fault', kind: 'ended', process: name, note })
      await delay(250)
    }
    if (isClosed) return
    void launch(given)
  }

  function hear(given: Member, child: ChildProcess, line: string): void {
    if (!line.includes('"event":"ready"')) return
    const { url } = JSON.parse(line) as { url?: unknown }
    if (given.child !== child) return
    given.url = typeof url === 'string' ? url : null
    given.state = 'up'
    history.write({ t: 'fault', kind: 'ready', process: given.name })
  }

  function environmentOf(name: string): Record<string, string> {
    return {
      PATH: process.env.PATH ?? '',
      HOME: folder,
      PORT: '0',
      LLM_MCP_ROLE: name.split('-', 1)[0] as Role,
      LLM_MCP_ADMIN_KEY: adminKey,
      LLM_MCP_DATA_DIR: dataDir,
      LLM_MCP_CONFIG: join(folder, `${name}.yaml`),
      ELECTRICITY_USD_PER_KWH: '1',
      // Nothing listens there: the file says what there is.
      OLLAMA_HOST: '127.0.0.1:9'
    }
  }

  function signal(given: Member, name: NodeJS.Signals): boolean {
    const { child } = given
    return child !== null && child.exitCode === null && child.signalCode === null && child.kill(name)
  }

  function postmaster(): number | null {
    const place = join(dataDir, 'postgres-location')
    const where = existsSync(place) ? readFileSync(place, 'utf8').trim() : dataDir
    try {
      const pid = Number.parseInt(readFileSync(join(where, 'postgres', 'postmaster.pid'), 'utf8'), 10)
      return pid > 0 && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(join(where, 'postgres')) ? pid : null
    } catch {
      return null
    }
  }

  return {
    async start() {
      for (const name of fleetNames) {
        const { box, openai } = machines.door(name)
        const config = {
          machines: { box: { url: box, max_concurrency: boxSlots, watts } },
          providers: { openai: { base_url: openai, api_key: 'sk-chaos-0000000000000000' } },
          prices
        }
        await writeFile(join(folder, `${name}.yaml`), JSON.stringify(config))
        void launch(member(name))
      }
      await this.allUp(90_000)
    },
    stateOf: name => member(name).state,
    gateways: () => [...members.values()].flatMap(({ state, url }) => (state !== 'down' && url !== null ? [url] : [])),
    kill(name) {
      const given = member(name)
      if (!signal(given, 'SIGKILL')) return
      given.state = 'down'
      given.url = null
      history.write({ t: 'fault', kind: 'kill', process: name })
    },
    freeze(name) {
      const given = member(name)
      if (given.state !== 'up' || !signal(given, 'SIGSTOP')) return
      given.state = 'stopped'
      history.write({ t: 'fault', kind: 'stop', process: name })
    },
    thaw(name) {
      const given = member(name)
      // It may have been killed meanwhile, and be another one by now.
      if (given.state !== 'stopped' || !signal(given, 'SIGCONT')) return
      given.state = 'up'
      history.write({ t: 'fault', kind: 'continue', process: name })
    },
    killPostgres() {
      const pid = postmaster()
      if (pid === null) return false
      process.kill(pid, 'SIGKILL')
      history.write({ t: 'fault', kind: 'postgres', process: 'postgres' })
      return true
    },
    async allUp(ms) {
      await until('every process to be up', () => [...members.values()].every(({ state }) => state === 'up'), ms)
    },
    async close() {
      isClosed = true
      const running = [...members.values()].flatMap(({ child }) =>
        child === null || child.exitCode !== null || child.signalCode !== null ? [] : [child]
      )
      await Promise.all(
        running.map(child => {
          const exited = once(child, 'exit')
          child.kill('SIGKILL')
          return exited
        })
      )
      await removeData(dataDir)
    }
  }
}

// Starts pretended machines as processes, and kills, freezes and asks them.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import type { Bill, Fault, MachineSpec } from './machine.ts'

export interface Machine {
  readonly url: string
  readonly port: number
  readonly pid: number
  kill(): Promise<void>
  freeze(): void
  thaw(): void
  bill(): Promise<Bill>
  fault(fault: Fault): Promise<void>
  /** Again at the same address, after a kill. */
  restart(): Promise<Machine>
}

const program = fileURLToPath(new URL('machine.ts', import.meta.url))

/** A machine that ends with `t` (or `end`). */
export async function startMachine(t: Pick<Test, 'teardown'>, spec: MachineSpec): Promise<Machine> {
  const child: ChildProcess = spawn(process.execPath, [program, JSON.stringify(spec)], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => end(child))
  const ended = once(child, 'exit').then(([code]) => {
    throw new Error(`The machine ended with ${code} before it was ready.`)
  })
  const [line] = (await Promise.race([once(createInterface({ input: child.stdout as NodeJS.ReadableStream }), 'line'), ended])) as [string]
  ended.catch(() => {})
  const { port } = JSON.parse(line) as { port: number }
  const url = `http://${spec.host ?? '127.0.0.1'}:${port}`
  return {
    url,
    port,
    pid: child.pid as number,
    kill: () => end(child),
    freeze: () => void child.kill('SIGSTOP'),
    thaw: () => void child.kill('SIGCONT'),
    bill: async () => (await (await fetch(`${url}/_bill`)).json()) as Bill,
    async fault(fault) {
      await fetch(`${url}/_fault`, { method: 'POST', body: JSON.stringify(fault) })
    },
    restart: () => startMachine(t, { ...spec, port })
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGKILL')
  await exited
}

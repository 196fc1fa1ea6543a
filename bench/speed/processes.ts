// Processes of the bench, their place on the processors, and the time they took there. On Linux, for /proc.

import { type ChildProcess, execFileSync, fork } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { cpus } from 'node:os'

/** What makes the load runs on one processor, what bears it on another. */
export type Place = 'load' | 'target'

const canPin = cpus().length > 1 && hasTaskset()

function hasTaskset(): boolean {
  try {
    execFileSync('taskset', ['-p', String(process.pid)], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

export const isPinned = canPin

/** All threads of a process, and what they start from here on. */
export function pin(pid: number, place: Place): void {
  if (canPin) execFileSync('taskset', ['-acp', place === 'load' ? '0' : '1', String(pid)], { stdio: 'ignore' })
}

/** A module of the bench as a process of its own, which says where it listens. */
export function startPart(module: string, args: readonly string[], place: Place): ChildProcess {
  const child = fork(module, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  if (child.pid !== undefined) pin(child.pid, place)
  return child
}

/** Time on a processor, of all threads of these processes, in nanoseconds: user and system, the collector's too. */
export function cpuNs(pids: readonly number[]): number {
  let sum = 0
  for (const pid of pids) {
    for (const thread of entries(`/proc/${pid}/task`)) sum += Number(read(`/proc/${pid}/task/${thread}/schedstat`).split(' ')[0] ?? 0)
  }
  return sum
}

/** What a process holds in memory, MB. */
export function residentMb(pid: number): number {
  return Number(/VmRSS:\s+(\d+) kB/.exec(read(`/proc/${pid}/status`))?.[1] ?? 0) / 1_024
}

/** This process and all that come from it. */
export function familyOf(pid: number): number[] {
  const children = entries(`/proc/${pid}/task`).flatMap(thread =>
    read(`/proc/${pid}/task/${thread}/children`)
      .split(' ')
      .filter(text => text.trim() !== '')
      .map(Number)
  )
  return [pid, ...children.flatMap(familyOf)]
}

export function commandOf(pid: number): string {
  return read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

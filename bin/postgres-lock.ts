// The lock that lets one launcher act at a time on a data directory.

import { randomUUID } from 'node:crypto'
import { readFile, readlink, rename, symlink, unlink, writeFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { identityOf } from './postgres-identity.ts'
import { failure, hasCode, ignoreMissing, onWindows } from './postgres-tools.ts'

/**
 * Runs the task while this process alone holds the lock. The lock names its holder; a dead holder's lock is broken.
 * Should two ever hold it at once, PostgreSQL's own interlock and the rename of a finished cluster keep the data whole.
 */
export async function underLock<T>(path: string, task: () => Promise<T>): Promise<T> {
  const mine = `${process.pid} ${await identityOf(process.pid)} ${randomUUID()}`
  const begunMs = performance.now()
  while (!(await takeLock(path, mine))) {
    await breakStaleLock(path)
    // 75 s: longer than any holder may take (initdb 30 s, waiting for a predecessor 15 s, start 15 s, stop 10 s).
    if (performance.now() - begunMs > 75_000)
      throw failure(`lock ${path}`, 'another process has held it for 75 s', 'end that process, or set DATABASE_URL')
    await delay(10)
  }
  try {
    return await task()
  } finally {
    if ((await lockHolder(path)) === mine) await unlink(path).catch(() => {})
  }
}

/** A symbolic link that leads nowhere: it appears together with its text, even on a full disk. On Windows it would need special rights. */
async function takeLock(path: string, holder: string): Promise<boolean> {
  try {
    await (onWindows ? writeFile(path, holder, { flag: 'wx' }) : symlink(holder, path))
    return true
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return false
    throw error
  }
}

function lockHolder(path: string): Promise<string | undefined> {
  return (onWindows ? readFile(path, 'utf8') : readlink(path)).catch(ignoreMissing)
}

async function breakStaleLock(path: string): Promise<void> {
  const holder = await lockHolder(path)
  if (holder === undefined) return
  const [pid = '', identity] = holder.split(' ')
  if ((await identityOf(Number.parseInt(pid, 10))) === identity) return
  const aside = `${path}.${randomUUID()}`
  await rename(path, aside).catch(ignoreMissing) // of several breakers one succeeds
  const taken = await lockHolder(aside)
  if (taken === undefined) return
  if (taken !== holder) await takeLock(path, taken) // another had broken it and taken it since we looked: it gets it back
  await unlink(aside)
}

// Tells a live process from a zombie, and from a stranger that got its pid.

import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { hasCode, onWindows } from './postgres-tools.ts'

/** When the process began, in whatever form the system gives it; undefined when it is dead, and a zombie is dead. */
export async function identityOf(pid: number): Promise<string | undefined> {
  if (onWindows) {
    try {
      process.kill(pid, 0)
      return 'alive'
    } catch (error) {
      return hasCode(error, 'EPERM') ? 'alive' : undefined
    }
  }
  if (process.platform === 'linux') {
    const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '')
    const [state, ...fields] = text.slice(text.lastIndexOf(')') + 2).split(' ') // the name before may hold anything
    return state === 'Z' || state === 'X' ? undefined : fields[18]
  }
  const [state = '', ...started] = (await processStatus(pid, ['stat=', 'lstart='])).split(/\s+/)
  return started.length === 0 || state.startsWith('Z') ? undefined : started.join('-')
}

export function processStatus(pid: number, columns: readonly string[]): Promise<string> {
  return new Promise(resolve => {
    execFile('ps', [...columns.flatMap(column => ['-o', column]), '-p', String(pid)], { timeout: 2000 }, (_error, stdout) =>
      resolve(stdout.trim())
    )
  })
}

/** Whether the process could be signalled; 0 only asks. */
export function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, name)
    return true
  } catch (error) {
    return hasCode(error, 'EPERM')
  }
}

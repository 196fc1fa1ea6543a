// Is there a place for the data, and room in it?

import { access, constants, stat, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { type Finding, fail, ok, reasonOf, warn } from './check.ts'

const mebibyte = 1024 * 1024
const warnBelowBytes = 1024 * mebibyte
const failBelowBytes = 100 * mebibyte

export type FreeBytes = (path: string) => Promise<number>

/** A folder that is not there yet is fine where it can be made. */
export async function diskCheck(dataDir: string, freeBytes: FreeBytes = freeOn): Promise<Finding> {
  const remedy = 'Set LLM_MCP_DATA_DIR to a folder that this user may write to.'
  const folder = await existing(dataDir)
  try {
    if (!(await stat(folder)).isDirectory()) return fail(`${folder} is not a folder`, remedy)
    await access(folder, constants.W_OK | constants.X_OK)
  } catch (error) {
    return fail(`${dataDir} cannot be written to (${(error as NodeJS.ErrnoException).code ?? reasonOf(error)})`, remedy)
  }
  const free = await freeBytes(folder)
  const detail = `${dataDir}${folder === dataDir ? '' : ' (not made yet)'}: ${size(free)} free`
  const more = 'Free some space, or set LLM_MCP_DATA_DIR to a larger disk.'
  if (free < failBelowBytes) return fail(detail, more)
  return free < warnBelowBytes ? warn(detail, more) : ok(detail)
}

async function existing(path: string): Promise<string> {
  for (let folder = path; ; folder = dirname(folder)) {
    const isThere = await stat(folder).then(
      () => true,
      (error: NodeJS.ErrnoException) => error.code !== 'ENOENT'
    )
    if (isThere || dirname(folder) === folder) return folder
  }
}

async function freeOn(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path)
  return bavail * bsize
}

function size(bytes: number): string {
  const gibibytes = bytes / mebibyte / 1024
  return gibibytes >= 1 ? `${gibibytes.toFixed(1)} GiB` : `${Math.floor(bytes / mebibyte)} MiB`
}

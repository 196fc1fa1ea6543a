// The file the server writes its log to: whose it is, and how long it may get.

import { constants } from 'node:fs'
import { copyFile, type FileHandle, open, stat, truncate } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ignoreMissing } from './postgres-tools.ts'

/** The server appends to the file it was given, so a log of more than 5 MB is emptied in place; what it said is kept once. */
export async function boundLog(path: string): Promise<void> {
  const info = await stat(path).catch(ignoreMissing)
  if (info === undefined || info.size <= 5 * 1024 * 1024) return
  await copyFile(path, `${path}.1`)
  await truncate(path)
}

/** Root may have started it once in a user's directory; the user will want to go on without root. */
export async function openLog(path: string): Promise<FileHandle> {
  const log = await open(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0), 0o600)
  const { uid, gid } = await stat(dirname(path))
  if (process.getuid?.() === 0) await log.chown(uid, gid)
  return log
}

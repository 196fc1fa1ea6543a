// Where the embedded cluster lives: in the data directory, or where the server's account can reach it.

import { randomBytes } from 'node:crypto'
import { chmod, mkdir, readdir, readFile, realpath, rename, stat, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { blockedAt, makeDirectory, serverAccount, sharedDirectory } from './postgres-binaries.ts'
import { othersConnected, user } from './postgres-client.ts'
import { findPostmaster, stopServer } from './postgres-process.ts'
import { type Account, failure, ignoreMissing } from './postgres-tools.ts'

export interface EmbeddedPostgresOptions {
  /** Made when missing. The cluster goes to `postgres` in it, unless the server's account cannot get there. */
  readonly dataDir: string
  readonly log: (message: string) => void
  /** Default: the installed package for this platform. */
  readonly packageDir?: string
  /** Where root puts what the server's account must reach: the first that is writable. */
  readonly sharedDirs?: readonly string[]
}

/** Everything that is known before the server runs. */
export interface Site {
  readonly dataDir: string
  /** The directory that holds `postgres` and `postgres-socket`: `dataDir`, or one of its own under a shared directory. */
  readonly place: string
  readonly cluster: string
  readonly account: Account | undefined
  readonly packageDir: string
  readonly version: string
  readonly sharedDirs: readonly string[]
  /** In the data directory, not in the cluster: root must not open files in a directory of another account. */
  readonly logFile: string
  readonly log: (message: string) => void
}

const defaultSharedDirs = ['/var/lib/llm-mcp', '/srv/llm-mcp', '/opt/llm-mcp']

/** Only passable for others when we are root: the server's account must get through, but has no business in it. */
export async function makeDataDir(path: string): Promise<string> {
  const mode = process.getuid?.() === 0 ? 0o711 : 0o700
  await makeDirectory(resolve(path), mode)
  return realpath(path)
}

/**
 * Where the cluster is or shall be:
 * 1. where `postgres-location` says
 * 2. in the data directory, if it is there already or the server's account can get there
 * 3. in a new directory under a shared one, with a random name that `postgres-location` keeps: without that file, in a
 *    fresh clone at the same path, an old cluster is never found again
 */
export async function survey(known: EmbeddedPostgresOptions & { readonly packageDir: string; readonly version: string }): Promise<Site> {
  const { dataDir, packageDir, version, log, sharedDirs = defaultSharedDirs } = known
  const siteAt = async (place: string): Promise<Site> => {
    const cluster = (await realpath(join(place, 'postgres')).catch(ignoreMissing)) ?? join(place, 'postgres')
    return {
      dataDir,
      place,
      cluster,
      account: await serverAccount(cluster),
      packageDir,
      version,
      sharedDirs,
      logFile: join(dataDir, 'postgres.log'),
      log
    }
  }
  const named = await claimOf(dataDir)
  if (named !== undefined) {
    // 1
    await assertOurPlace(named, dataDir)
    return siteAt(named)
  }
  const site = await siteAt(dataDir) // 2
  const blocked = await blockedAt(dataDir, site.account)
  if (blocked === undefined) return site
  if ((await stat(join(site.cluster, 'PG_VERSION')).catch(ignoreMissing)) !== undefined) {
    throw failure(
      `use ${site.cluster}`,
      `its account ${site.account?.name} may not enter ${blocked}`,
      `run: chmod o+x '${blocked}', or set DATABASE_URL`
    )
  }
  const place = await newPlace(dataDir, blocked, site) // 3
  log(`PostgreSQL data goes to ${place}, because ${site.account?.name} may not enter ${blocked}`)
  return siteAt(place)
}

async function newPlace(dataDir: string, blocked: string, { account, sharedDirs, log }: Site): Promise<string> {
  const refusals: string[] = []
  for (const base of sharedDirs) {
    try {
      await sharedDirectory(base, account)
    } catch (error) {
      refusals.push(error instanceof Error ? error.message : String(error))
      continue
    }
    const place = join(await realpath(base), randomBytes(8).toString('hex'))
    await stopUnclaimed(dirname(place), log).catch(() => {})
    await mkdir(place)
    await chmod(place, 0o711)
    await writeWhole(join(place, 'owner'), dataDir)
    await writeWhole(join(dataDir, 'postgres-location'), place)
    return place
  }
  throw failure(
    `put the database in ${dataDir}`,
    [`${account?.name} may not enter ${blocked}`, ...refusals].join(', '),
    `run: chmod o+x '${blocked}', or set DATABASE_URL`
  )
}

/** A deleted data directory may have left its server running. Its files stay: perhaps the directory is only not mounted. */
export async function stopUnclaimed(base: string, log: (message: string) => void): Promise<void> {
  const unclaimed: string[] = []
  for (const name of await readdir(base)) {
    const place = join(base, name)
    const owner = await readFile(join(place, 'owner'), 'utf8').catch(() => undefined)
    if (owner === undefined || (await claimOf(owner)) === place) continue
    unclaimed.push(place)
    const server = await findPostmaster(join(place, 'postgres'))
    if (server === undefined || (await othersConnected({ host: server.socketDir, port: server.port, user, database: 'postgres' }))) continue
    await stopServer(join(place, 'postgres'), server, undefined)
  }
  if (unclaimed.length > 0) log(`PostgreSQL data of deleted data directories: remove ${unclaimed.join(', ')} if nothing there is needed`)
}

async function claimOf(dataDir: string): Promise<string | undefined> {
  return (await readFile(join(dataDir, 'postgres-location'), 'utf8').catch(ignoreMissing))?.trim()
}

/** A place belongs to one data directory. A copied one must not share the original's database; a moved one keeps it. */
export async function assertOurPlace(place: string, dataDir: string): Promise<void> {
  const owner = await readFile(join(place, 'owner'), 'utf8').catch(ignoreMissing)
  if (owner === undefined) {
    throw failure(
      `find the database of ${dataDir}`,
      `${place}, which its file postgres-location names, is gone`,
      'restore it, or delete postgres-location to begin with an empty database, or set DATABASE_URL'
    )
  }
  if (owner === dataDir) return
  const [theirs, ours] = await Promise.all([stat(owner).catch(() => undefined), stat(dataDir)])
  if ((await claimOf(owner)) === place && (theirs?.ino !== ours.ino || theirs.dev !== ours.dev)) {
    throw failure(
      `use ${place}`,
      `it is the database of ${owner}, of which ${dataDir} is a copy`,
      `delete ${join(dataDir, 'postgres-location')} to begin with an empty database, or set DATABASE_URL`
    )
  }
  await writeWhole(join(place, 'owner'), dataDir)
}

export function lockOf(dataDir: string): string {
  return join(dataDir, 'postgres.lock')
}

/** Under a temporary name first: a reader sees all of it or nothing. */
export async function writeWhole(path: string, text: string): Promise<void> {
  const unfinished = `${path}.${randomBytes(4).toString('hex')}`
  await writeFile(unfinished, text, { mode: 0o600, flush: true })
  await rename(unfinished, path)
}

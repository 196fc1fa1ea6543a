// The append-only journal: what was begun and what came of it, on disk before the database knows. Survives `kill -9`.

import { closeSync, existsSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { readdir, readFile, unlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { CostRow } from '../store/costs.ts'

/** Who wrote a journal; enough to tell whether it still lives. */
export interface JournalOwner {
  readonly processId: string
  readonly pid: number
  /** When the process began, in the kernel's ticks: pids are used again. Null where the kernel does not say. */
  readonly startTicks: string | null
  /** Boot and pid namespace: within one, the pid can be checked; across, only the database knows. */
  readonly realm: string
}

/** What is known before the call, and booked if nothing else ever is. */
export type Intent = CostRow

type Line =
  | { readonly t: 'owner'; readonly owner: JournalOwner }
  | { readonly t: 'intent'; readonly row: Intent }
  | { readonly t: 'settled'; readonly row: CostRow }

export interface Journal {
  /** One write, no fsync: it outlives this process, not the machine. With `settled` before it, in the same one. Throws when the disk refuses. */
  intent(row: Intent, settled?: readonly CostRow[]): void
  settle(...rows: readonly CostRow[]): void
  /** These rows are in the database: what held them can go. */
  stored(rows: readonly CostRow[]): void
  /** Closes the files, and removes those that hold nothing the database lacks. What is stored later is let go of all the same; twice is safe. */
  close(): void
}

const segmentBytesAtMost = 4 * 1024 * 1024

interface Segment {
  readonly path: string
  readonly fd: number
  bytes: number
  /** Lines in it that are not yet in the database. */
  pending: number
  /** The last write stopped half-way: its line must not swallow the next one. */
  torn: boolean
  /** Its number may be another file's as soon as it is closed. */
  isOpen: boolean
}

/** A journal of this process in `folder`, whose parent is there, in segments that are removed when all in them is stored. */
export function createJournal(folder: string, owner: JournalOwner): Journal {
  if (!existsSync(folder)) mkdirSync(folder, { mode: 0o700 })
  let number = 0
  let isClosed = false
  const segments = new Set<Segment>()
  let current = open()
  // Which segments wait for an attempt: the one with its intent, and the one with its settlement.
  const waiting = new Map<string, Segment[]>()

  function open(): Segment {
    const path = join(folder, `${owner.processId}-${number++}.ndjson`)
    const segment: Segment = { path, fd: openSync(path, 'a', 0o600), bytes: 0, pending: 0, torn: false, isOpen: true }
    try {
      append(segment, lineOf({ t: 'owner', owner }))
    } catch (error) {
      remove(segment)
      throw error
    }
    segments.add(segment)
    return segment
  }

  function append(segment: Segment, lines: string): void {
    const text = segment.torn ? `\n${lines}` : lines
    segment.torn = true
    // A disk that is nearly full takes a part, says how much, and refuses the rest.
    const length = Buffer.byteLength(text)
    let written = writeSync(segment.fd, text)
    if (written < length) {
      const bytes = Buffer.from(text)
      while (written < length) written += writeSync(segment.fd, bytes, written)
    }
    segment.torn = false
    segment.bytes += length
  }

  /** `lines`: one for each of the attempts. */
  function write(lines: string, attemptIds: readonly string[]): void {
    if (isClosed) throw new Error('the journal is closed')
    if (current.bytes > segmentBytesAtMost) {
      const full = current
      current = open()
      if (full.pending === 0) remove(full)
    }
    append(current, lines)
    current.pending += attemptIds.length
    for (const id of attemptIds) {
      const holders = waiting.get(id)
      if (holders === undefined) waiting.set(id, [current])
      else holders.push(current)
    }
  }

  function stored(rows: readonly CostRow[]): void {
    for (const row of rows) {
      for (const segment of waiting.get(row.attemptId) ?? []) {
        segment.pending--
        if (segment.pending === 0 && (segment !== current || isClosed)) remove(segment)
      }
      waiting.delete(row.attemptId)
    }
  }

  function shut(segment: Segment): void {
    if (segment.isOpen) closeSync(segment.fd)
    segment.isOpen = false
  }

  function remove(segment: Segment): void {
    shut(segment)
    segments.delete(segment)
    // Gone already where somebody took us for dead and booked it.
    rmSync(segment.path, { force: true })
  }

  return {
    intent(row, settled = []) {
      const lines = settledLines(settled) + lineOf({ t: 'intent', row })
      write(lines, settled.length === 0 ? [row.attemptId] : [...settled.map(({ attemptId }) => attemptId), row.attemptId])
    },
    settle(...rows) {
      write(
        settledLines(rows),
        rows.map(({ attemptId }) => attemptId)
      )
    },
    stored,
    close() {
      isClosed = true
      for (const segment of [...segments]) {
        if (segment.pending === 0) remove(segment)
        else shut(segment)
      }
    }
  }
}

function lineOf(line: Line): string {
  return `${JSON.stringify(line)}\n`
}

function settledLines(rows: readonly CostRow[]): string {
  let lines = ''
  for (const row of rows) lines += lineOf({ t: 'settled', row })
  return lines
}

export interface FoundJournal {
  readonly path: string
  readonly owner: JournalOwner | null
}

/** Every journal file in `folder` with its owner; null for a file too short to tell. */
export async function findJournals(folder: string): Promise<FoundJournal[]> {
  const files = (await readdir(folder).catch(() => [])).filter(file => file.endsWith('.ndjson'))
  return Promise.all(
    files.map(async file => {
      const path = join(folder, file)
      const [first] = ((await readFile(path, 'utf8').catch(ignoreMissing)) ?? '').split('\n', 1)
      const line = parseLine(first ?? '')
      return { path, owner: line?.t === 'owner' ? line.owner : null }
    })
  )
}

/**
 * The rows of journals whose owner is gone, one per attempt. An intent without a settlement was in the air when the
 * process died: it is booked as `lost`, at its estimate. A last line cut short is left out: its write never ended.
 */
export async function readRows(paths: readonly string[]): Promise<CostRow[]> {
  const rows = new Map<string, CostRow>()
  const settled = new Set<string>()
  for (const path of paths) {
    for (const text of ((await readFile(path, 'utf8').catch(ignoreMissing)) ?? '').split('\n')) {
      const line = parseLine(text)
      if (line === null || line.t === 'owner') continue
      const { attemptId } = line.row
      if (settled.has(attemptId)) continue
      if (line.t === 'settled') settled.add(attemptId)
      rows.set(attemptId, line.row)
    }
  }
  return [...rows.values()]
}

export async function removeJournals(paths: readonly string[]): Promise<void> {
  // Another process may be at it too.
  await Promise.all(paths.map(path => unlink(path).catch(ignoreMissing)))
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error
}

function parseLine(text: string): Line | null {
  if (text === '') return null
  try {
    const line = JSON.parse(text)
    const isOwner = line?.t === 'owner' && typeof line.owner?.processId === 'string'
    const isRow = (line?.t === 'intent' || line?.t === 'settled') && typeof line.row?.attemptId === 'string'
    return isOwner || isRow ? line : null
  } catch {
    return null
  }
}

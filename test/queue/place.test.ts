// How far a reader has read, and what he is told next: every number once, in order, whatever the rows and the memory hold.

import t from 'tap'
import { asked, lastEvents, learn, type Place, startPlace, takeChunks, takeRows } from '../../queue/events/place.ts'
import type { EventId, JobEvent, JobRecord } from '../../queue/types.ts'
import type { EventRow } from '../../store/job-events.ts'

const at = new Date('2027-01-31T12:00:00Z')

function job(more: Partial<JobRecord> = {}): JobRecord {
  const fields = {
    id: 'job',
    stream: true,
    status: 'running',
    attemptNo: 2,
    processId: 'there',
    createdAt: at,
    startedAt: at,
    finishedAt: at
  }
  return { ...fields, ...more } as JobRecord
}

const done = (more: Partial<JobRecord> = {}): JobRecord => job({ status: 'done', processId: null, ...more })

function row(seq: number, kind: EventRow['kind'], data: readonly string[] = []): EventRow {
  return { jobId: 'job', attempt: 2, seq, kind, count: Math.max(1, data.length), data: data.join('\n'), at }
}

const chunks = (seq: number, ...data: readonly string[]): EventRow => row(seq, 'chunks', data)

/** `attempt 2-0`, `2-1 "text"`. */
function short(events: readonly JobEvent[]): string[] {
  return events.map(event => {
    if (event.type === 'status') return 'status'
    const id = `${event.id.attempt}-${event.id.seq}`
    return event.type === 'chunk' ? `${id} ${event.json}` : `${event.type} ${id}`
  })
}

function placeAt(seq: number, of: JobRecord = job()): Place {
  return startPlace(of, { attempt: 2, seq })
}

t.test('a reader begins where it says it stands, if that is in the newest attempt, and otherwise before its marker', async t => {
  const cases: readonly (readonly [JobRecord, EventId | null, object])[] = [
    [job(), null, { attempt: 2, seq: -1, isRowEnd: true }],
    [job(), { attempt: 2, seq: 5 }, { attempt: 2, seq: 5, isRowEnd: false }],
    [job(), { attempt: 1, seq: 5 }, { attempt: 2, seq: -1, isRowEnd: true }],
    [job(), { attempt: 3, seq: 5 }, { attempt: 2, seq: -1, isRowEnd: true }],
    [job({ attemptNo: 0, status: 'queued' }), null, { attempt: 0, seq: 0, isRowEnd: true }],
    [job({ stream: false }), null, { attempt: 2, seq: 0, isRowEnd: true }]
  ]
  for (const [of, after, expected] of cases) t.match(asked(startPlace(of, after)), expected, JSON.stringify(after))
})

t.test('of rows it gets what is beyond its place, and waits where a number is missing unless nothing can come any more', async t => {
  const fresh = (): Place => startPlace(job(), null)
  const rows = [row(0, 'attempt'), chunks(1, 'a', 'b'), chunks(3, 'c', 'd')]
  const gap = [row(0, 'attempt'), chunks(1, 'a'), chunks(3, 'c')]
  const cases: readonly (readonly [string, Place, readonly EventRow[], boolean, readonly string[]])[] = [
    ['from the beginning', fresh(), rows, false, ['attempt 2-0', '2-1 a', '2-2 b', '2-3 c', '2-4 d']],
    ['from within a row', placeAt(1), rows.slice(1), false, ['2-2 b', '2-3 c', '2-4 d']],
    ['from the end of a row', placeAt(2), rows.slice(1), false, ['2-3 c', '2-4 d']],
    ['with all of it', placeAt(4), rows.slice(1), false, []],
    ['with more than there is', placeAt(7), rows.slice(1), false, []],
    ['before a gap', fresh(), gap, false, ['attempt 2-0', '2-1 a']],
    ['before a gap that stays', fresh(), gap, true, ['attempt 2-0', '2-1 a', '2-3 c']],
    ['the marker is missing', fresh(), [chunks(1, 'a')], false, ['attempt 2-0', '2-1 a']],
    ['the first chunk is missing', fresh(), [row(0, 'attempt'), chunks(2, 'b')], false, ['attempt 2-0']],
    ['after the result', placeAt(1), [row(2, 'result'), chunks(2, 'x'), row(3, 'end'), chunks(3, 'y')], true, []]
  ]
  for (const [name, place, given, isLast, expected] of cases) t.same(short(takeRows(place, given, isLast)), expected, name)
})

t.test('after chunks from memory the row is asked for that holds the next one, after rows the next row', async t => {
  const place = startPlace(job(), null)
  t.same(short(takeChunks(place, at, [])), ['attempt 2-0'])
  t.match(asked(place), { seq: 0, isRowEnd: true }, 'the marker is a row of its own')
  t.same(short(takeChunks(place, at, ['a', 'b'])), ['2-1 a', '2-2 b'])
  t.match(asked(place), { seq: 2, isRowEnd: false })
  t.same(short(takeRows(place, [chunks(1, 'a', 'b', 'c')], false)), ['2-3 c'])
  t.match(asked(place), { seq: 3, isRowEnd: true })
})

t.test('what is known of a job does not go back to an earlier attempt; a later one begins before its marker', async t => {
  const place = placeAt(4)
  t.equal(learn(place, { status: 'queued', attemptNo: 1, processId: null }), false)
  t.match(place, { status: 'running', attemptNo: 2, processId: 'there', attempt: 2, seq: 4 })
  t.equal(learn(place, { status: 'running', attemptNo: 2, processId: 'there' }), false, 'nothing new')
  t.equal(learn(place, { status: 'queued', attemptNo: 2, processId: null }), true)
  t.match(place, { attempt: 2, seq: 4 })
  t.equal(learn(place, { status: 'running', attemptNo: 3, processId: 'here' }), true)
  t.match(asked(place), { attempt: 3, seq: -1, isRowEnd: true })
})

t.test('its last events have numbers after all that it has, and none is told twice', async t => {
  const rows = [chunks(1, 'a', 'b'), row(3, 'result'), row(4, 'end')]
  /** Having come back with `seq`, and read the rows. */
  const back = (seq: number, of = done(), given: readonly EventRow[] = rows): Place => {
    const place = placeAt(seq, of)
    takeRows(place, given, true)
    return place
  }
  const further = startPlace(job(), null)
  takeChunks(further, at, ['a', 'b', 'c', 'd', 'e'])
  takeRows(further, rows.slice(1), true)
  // Has just been told 2-4, which is also the number of the end.
  const levelWithEnd = placeAt(3, job())
  takeChunks(levelWithEnd, at, ['x'])
  takeRows(levelWithEnd, rows.slice(1), true)
  const unstreamed = done({ stream: false })
  const cases: readonly (readonly [string, Place, JobRecord, readonly string[]])[] = [
    ['all was read', back(1), done(), ['result 2-3', 'end 2-4']],
    ['it had the result', back(3), done(), ['end 2-4']],
    ['it had the end', back(4), done(), []],
    ['its rows are gone', back(7, done(), []), done(), ['result 2-8', 'end 2-9']],
    ['its rows are gone, and it had nothing', startPlace(done(), null), done(), ['attempt 2-0', 'result 2-1', 'end 2-2']],
    ['it had chunks that were never written', further, done(), ['result 2-6', 'end 2-7']],
    ['its last chunk has the number of the end', levelWithEnd, done(), ['result 2-5', 'end 2-6']],
    ['no stream', startPlace(unstreamed, null), unstreamed, ['result 2-1', 'end 2-2']],
    ['no stream, and it had the result', placeAt(1, unstreamed), unstreamed, ['end 2-2']],
    ['no stream, and it had the end', placeAt(2, unstreamed), unstreamed, []],
    ['no stream, and a number that never was', placeAt(9, unstreamed), unstreamed, ['result 2-1', 'end 2-2']]
  ]
  for (const [name, place, of, expected] of cases) t.same(short(lastEvents(place, of)), expected, name)
})

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createJournal, type JournalOwner } from '../../ledger/journal.ts'
import { stateOf, thisOwner } from '../../ledger/owner.ts'
import { type RecoverPorts, recoverJournals } from '../../ledger/recover.ts'
import { type CostRow, insertCosts } from '../../store/costs.ts'
import { createDatabase } from '../support/cluster.ts'
import { until } from '../support/wait.ts'

const uuid = (number: number) => `01a1fd37-5d11-7d28-9be4-${String(number).padStart(12, '0')}`

const row = (number: number, changes: Partial<CostRow> = {}): CostRow => ({
  attemptId: uuid(number),
  requestId: uuid(0),
  source: 'me',
  subSource: null,
  keyId: null,
  provider: 'up',
  model: 'm',
  deviceId: null,
  outcome: 'lost',
  errorCode: 'process_lost',
  promptTokens: 9,
  completionTokens: 0,
  cachedTokens: 0,
  reasoningTokens: 0,
  costNanoUsd: 100,
  priceSource: 'config',
  estimated: true,
  ttftMs: null,
  durationMs: 0,
  startedAt: 1,
  finishedAt: 1,
  ...changes
})
const settled = (number: number) => row(number, { outcome: 'ok', errorCode: null, costNanoUsd: 5, estimated: false })

/** A process of this machine that has ended. */
async function deadOwner(processId: string): Promise<JournalOwner> {
  const child = spawn(process.execPath, ['--eval', ''], { stdio: 'ignore' })
  const { pid } = child
  await once(child, 'exit')
  return { ...thisOwner(processId), pid: pid as number, startTicks: thisOwner('').startTicks === null ? null : '1' }
}

const elsewhere = (processId: string): JournalOwner => ({ ...thisOwner(processId), realm: 'another machine' })

interface Books {
  readonly ports: RecoverPorts
  readonly stored: Map<string, CostRow>
  readonly asked: (readonly string[])[]
  readonly handed: number[]
}

/** A database that keeps the first row of each attempt, as ours does. */
function booksFor(folder: string, changes: Partial<RecoverPorts> & { readonly silentIds?: readonly string[] } = {}): Books {
  const stored = new Map<string, CostRow>()
  const asked: (readonly string[])[] = []
  const handed: number[] = []
  const { silentIds = [], ...others } = changes
  return {
    stored,
    asked,
    handed,
    ports: {
      folder,
      ownProcessId: 'me',
      async insert(rows) {
        handed.push(rows.length)
        await new Promise(resolve => setImmediate(resolve))
        for (const one of rows) if (!stored.has(one.attemptId)) stored.set(one.attemptId, one)
      },
      silent: async ids => {
        asked.push(ids)
        return ids.filter(id => silentIds.includes(id))
      },
      log: () => {},
      ...others
    }
  }
}

t.test('what a dead process had begun is booked as lost, what it had settled as that, and its files go', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, await deadOwner('dead'))
  journal.intent(row(1))
  journal.intent(row(2))
  journal.settle(settled(1))
  const { ports, stored } = booksFor(folder)
  t.equal(await recoverJournals(ports), 2)
  t.same([...stored.values()], [settled(1), row(2)])
  t.same(readdirSync(folder), [])
  t.equal(await recoverJournals(ports), 0)
})

t.test('all segments of a process are read as one, however many', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, await deadOwner('dead'))
  const large = { model: 'x'.repeat(1024 * 1024) }
  for (let number = 1; number <= 60; number++) journal.intent(row(number, large))
  for (let number = 1; number <= 30; number++) journal.settle(settled(number))
  t.ok(readdirSync(folder).length > 10, 'also when 10 sorts before 2')
  const { ports, stored } = booksFor(folder)
  t.equal(await recoverJournals(ports), 60)
  t.equal([...stored.values()].filter(({ outcome }) => outcome === 'ok').length, 30)
  t.equal([...stored.values()].filter(({ outcome }) => outcome === 'lost').length, 30)
  t.same(readdirSync(folder), [])
})

t.test('rows go to the database in batches', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, await deadOwner('dead'))
  for (let number = 0; number < 1_100; number++) journal.intent(row(number))
  const { ports, handed } = booksFor(folder)
  t.equal(await recoverJournals(ports), 1_100)
  t.same(handed, [500, 500, 100])
})

t.test('a living process keeps its journal, and ours is nobody’s business', async t => {
  const folder = t.testdir({})
  const alive = createJournal(folder, thisOwner('alive'))
  alive.intent(row(1))
  const own = createJournal(folder, { ...(await deadOwner('me')) })
  own.intent(row(2))
  const { ports, stored, asked } = booksFor(folder)
  t.equal(await recoverJournals(ports), 0)
  t.equal(stored.size, 0)
  t.equal(readdirSync(folder).length, 2)
  if (thisOwner('').startTicks !== null) t.same(asked, [], 'the kernel knows')
})

t.test('a process that only the database can know is dead when it is silent there', async t => {
  const folder = t.testdir({})
  for (const id of ['far-alive', 'far-dead']) {
    const journal = createJournal(folder, elsewhere(id))
    journal.intent(row(id === 'far-dead' ? 1 : 2, { model: 'x'.repeat(5_000_000) }))
    journal.intent(row(id === 'far-dead' ? 3 : 4))
  }
  const seconds: number[] = []
  const books = booksFor(folder)
  const ports: RecoverPorts = {
    ...books.ports,
    silent: async (ids, silentSeconds) => {
      seconds.push(silentSeconds)
      t.same([...ids].sort(), ['far-alive', 'far-dead'], 'each once, though they have two files')
      return ['far-dead']
    }
  }
  t.equal(await recoverJournals(ports), 2)
  t.same([...books.stored.keys()], [uuid(1), uuid(3)])
  t.same(seconds, [10])
  t.same(readdirSync(folder), ['far-alive-0.ndjson', 'far-alive-1.ndjson'])
})

t.test('with the database away nothing is lost and nothing removed', async t => {
  const folder = t.testdir({})
  createJournal(folder, await deadOwner('dead')).intent(row(1))
  createJournal(folder, elsewhere('far')).intent(row(2))
  const away = () => Promise.reject(new Error('connection refused'))
  await t.rejects(recoverJournals(booksFor(folder, { silent: away }).ports), /refused/)
  await t.rejects(recoverJournals(booksFor(folder, { insert: away, silentIds: ['far'] }).ports), /refused/)
  t.equal(readdirSync(folder).length, 2)
  const later = booksFor(folder, { silentIds: ['far'] })
  t.equal(await recoverJournals(later.ports), 2)
  t.equal(later.stored.size, 2)
})

t.test('an insert whose answer was lost is written again, and books nothing twice', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, await deadOwner('dead'))
  journal.intent(row(1))
  const books = booksFor(folder)
  const lossy: RecoverPorts = {
    ...books.ports,
    async insert(rows) {
      await books.ports.insert(rows)
      throw new Error('connection reset')
    }
  }
  await t.rejects(recoverJournals(lossy), /reset/)
  t.equal(await recoverJournals(books.ports), 1)
  t.same([...books.stored.values()], [row(1)])
})

t.test('a file without an owner, and one cut short, hold up nobody', async t => {
  const folder = t.testdir({})
  writeFileSync(join(folder, 'empty.ndjson'), '')
  writeFileSync(join(folder, 'foreign.ndjson'), '{"hello":1}\n')
  const journal = createJournal(folder, await deadOwner('dead'))
  journal.intent(row(1))
  writeFileSync(join(folder, 'dead-0.ndjson'), '{"t":"settled","row":{"attem', { flag: 'a' })
  const { ports, stored } = booksFor(folder)
  t.equal(await recoverJournals(ports), 1)
  t.same([...stored.values()], [row(1)])
  t.equal(await recoverJournals({ ...ports, folder: join(folder, 'not-there') }), 0)
})

t.test('a row the database refuses does not come back again and again', async t => {
  const folder = t.testdir({})
  const journal = createJournal(folder, await deadOwner('dead'))
  for (let number = 1; number <= 3; number++) journal.intent(row(number))
  const books = booksFor(folder)
  const logged: string[] = []
  const ports: RecoverPorts = {
    ...books.ports,
    log: message => logged.push(message),
    async insert(rows) {
      if (rows.some(({ attemptId }) => attemptId === uuid(2))) throw Object.assign(new Error('bad value'), { code: '22P05' })
      await books.ports.insert(rows)
    }
  }
  await recoverJournals(ports)
  t.same([...books.stored.keys()].sort(), [uuid(1), uuid(3)])
  t.equal(logged.length, 1)
  t.same(readdirSync(folder), [])
})

t.test('two recoveries at once book every attempt once, in a real database', async t => {
  const { pool } = await createDatabase(t)
  const folder = t.testdir({})
  const processes = 4
  for (let which = 0; which < processes; which++) {
    const journal = createJournal(folder, await deadOwner(`dead-${which}`))
    for (let number = 0; number < 300; number++) {
      journal.intent(row(which * 1_000 + number))
      if (number % 2 === 0) journal.settle(settled(which * 1_000 + number))
    }
  }
  const ports: RecoverPorts = { ...booksFor(folder).ports, insert: rows => insertCosts(pool, rows) }
  const booked = await Promise.all([recoverJournals(ports), recoverJournals(ports), recoverJournals(ports)])
  t.ok(booked.some(rows => rows === processes * 300))
  const { rows } = await pool.query(`
    select count(*) as rows, sum(cost_nano_usd) as cost, count(*) filter (where outcome = 'lost') as lost
      from llm_costs`)
  t.same(rows, [{ rows: '1200', cost: String(600 * 5 + 600 * 100), lost: '600' }])
  t.same(readdirSync(folder), [])
  t.equal(await recoverJournals(ports), 0)
})

t.test('whether a process lives is known by its pid and its start, within one boot and namespace', async t => {
  const us = thisOwner('x')
  const dead = await deadOwner('dead')
  t.equal(stateOf({ ...us, realm: 'another' }), 'unknown')
  t.equal(stateOf({ ...dead, realm: 'another' }), 'unknown')
  if (us.startTicks !== null) {
    t.equal(stateOf(us), 'alive')
    t.equal(stateOf({ ...us, startTicks: '1' }), 'dead', 'the pid belongs to somebody else now')
  }
  t.equal(stateOf(dead), 'dead')
  // Where the kernel does not tell when a process began, a pid that is taken says nothing.
  t.equal(stateOf({ ...us, startTicks: null }), 'unknown')
  t.equal(stateOf({ ...dead, startTicks: null }), 'dead')
})

t.test('a process that has ended counts as dead, also while its parent has not looked at it', async t => {
  if (thisOwner('').startTicks === null) return t.pass('the kernel does not tell')
  // Becomes a program that never looks at the children it has got.
  const parent = spawn('sh', ['-c', 'sleep 0.5 & echo $!; exec sleep 60'], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.teardown(() => parent.kill('SIGKILL'))
  const [printed] = await once(parent.stdout, 'data')
  const pid = Number(printed)
  const fields = () => readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? []
  await until('it is a zombie', () => fields()[0] === 'Z')
  t.equal(stateOf({ ...thisOwner('x'), pid, startTicks: fields()[19] as string }), 'dead')
})

t.test('a process that may not be signalled is there all the same', async t => {
  const { kill } = process
  t.teardown(() => {
    process.kill = kill
  })
  for (const [code, state] of [
    ['EPERM', 'unknown'],
    ['ESRCH', 'dead']
  ] as const) {
    process.kill = () => {
      throw Object.assign(new Error(code), { code })
    }
    t.equal(stateOf({ ...thisOwner('x'), startTicks: null }), state, code)
  }
})

// Of several records with one address, which may be sent prompts.

import t from 'tap'
import { machinesInUse } from '../../planner/discovery/owners.ts'
import type { DeviceRecord } from '../../store/fleet.ts'

const at = (minute: number): Date => new Date(Date.UTC(2026, 10, 20, 10, minute))

function record(id: string, changes: Partial<DeviceRecord> = {}): DeviceRecord {
  return {
    id,
    url: 'http://100.101.1.1:11434',
    origin: 'tailscale',
    state: 'approved',
    marks: [],
    onlyHost: null,
    foundAt: at(0),
    goneAt: null,
    ...changes
  } as DeviceRecord
}

const used = (records: readonly DeviceRecord[], configuredUrls: readonly string[] = []): string[] =>
  machinesInUse(records, { host: 'here', configuredUrls }).map(({ id }) => id)

const gone = record('gpu', { goneAt: at(1) })

t.test('only what was approved is used, from where it can be reached, and never what is hostile', async t => {
  t.same(used([record('gpu')]), ['gpu'])
  for (const state of ['proposed', 'blocked'] as const) t.same(used([record('gpu', { state })]), [])
  t.same(used([record('gpu', { marks: ['hostile'] })]), [])
  t.same(used([record('gpu', { onlyHost: 'here' })]), ['gpu'])
  t.same(used([record('gpu', { onlyHost: 'there' })]), [])
  t.same(used([record('gpu', { origin: 'config' })]), [], 'those come from the configuration')
})

t.test('an address that was given to another node inherits nothing', async t => {
  for (const state of ['proposed', 'blocked'] as const) {
    t.same(used([gone, record('stranger', { state, foundAt: at(1) })]), [], state)
    t.same(used([record('stranger', { state, foundAt: at(1) }), gone]), [], state)
  }
  t.same(used([gone, record('stranger', { foundAt: at(1) })]), ['stranger'], 'both approved: it is one server')
  t.same(used([gone, record('stranger', { state: 'proposed', foundAt: at(1), goneAt: at(2) })]), [], 'it was there last')
  t.same(used([gone, record('stranger', { onlyHost: 'there', foundAt: at(1) })]), ['gpu'], 'of another host it says nothing')
})

t.test('one that is gone is used while nobody else holds its address', async t => {
  t.same(used([gone]), ['gpu'])
  t.same(used([gone, record('other', { url: 'http://100.101.1.2:11434' })]), ['gpu', 'other'])
  t.same(used([gone, record('vllm', { url: 'http://100.101.1.1:8000/v1' })]), ['gpu', 'vllm'], 'another port is another server')
})

t.test('the configuration comes first', async t => {
  t.same(used([record('gpu')], ['http://100.101.1.1:11434/']), [])
  t.same(used([record('gpu', { url: 'http://100.101.1.1:8000/v1' })], ['http://100.101.1.1:8000']), [])
})

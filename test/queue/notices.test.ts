import t from 'tap'
import { commandOf, createNotices } from '../../queue/notices.ts'
import type { Notice } from '../../store/channels.ts'
import { until } from '../support/wait.ts'

const me = '00000000-0000-7000-8000-000000000001'
const other = '00000000-0000-7000-8000-000000000002'

function gather(send?: (notices: readonly Notice[]) => Promise<void>) {
  const sent: (readonly Notice[])[] = []
  const logged: string[] = []
  const notices = createNotices({
    processId: me,
    send: async list => {
      sent.push(list)
      await send?.(list)
    },
    log: message => void logged.push(message)
  })
  return { notices, sent, logged }
}

t.test('what is said within some milliseconds goes in one statement, everything once', async t => {
  const { notices, sent } = gather()
  notices.ready('2/chat/any/a')
  notices.ready('2/chat/any/b')
  notices.ready('2/chat/any/a')
  notices.changed('x')
  notices.changed('x')
  notices.wrote()
  notices.wrote()
  t.same(sent, [], 'not at once')
  await until('it is sent', () => sent.length > 0)
  t.same(sent, [
    [
      { channel: 'llm_mcp_jobs', payload: '2/chat/any/a,2/chat/any/b' },
      { channel: 'llm_mcp_changed', payload: 'x' },
      { channel: `llm_mcp_from_${me}`, payload: '' }
    ]
  ])
  await notices.close()
  t.equal(sent.length, 1, 'nothing is said twice')
})

t.test('what somebody waits for is sent at once', async t => {
  const { notices, sent } = gather()
  notices.stop(other, 'job')
  notices.claimed(other, 'another')
  t.same(sent.flat(), [
    { channel: `llm_mcp_to_${other}`, payload: '{"type":"stop","jobs":["job"]}' },
    { channel: `llm_mcp_to_${other}`, payload: '{"type":"claimed","jobs":["another"]}' }
  ])
})

t.test('no payload is longer than the server takes, and names that cannot be told apart say "look everywhere"', async t => {
  const lanes: readonly (readonly [string, readonly string[]])[] = [
    ['too many', Array.from({ length: 500 }, (_, number) => `2/chat/any/model-${number}`)],
    ['too long in bytes', Array.from({ length: 2 }, (_, number) => `2/chat/any/${'\u{1f600}'.repeat(900)}${number}`)],
    ['with a comma', ['2/chat/any/a,b']]
  ]
  for (const [name, of] of lanes) {
    const { notices, sent } = gather()
    for (const lane of of) notices.ready(lane)
    await notices.close()
    t.same(sent, [[{ channel: 'llm_mcp_jobs', payload: '' }]], name)
  }
  const { notices, sent } = gather()
  const ids = Array.from({ length: 450 }, (_, number) => `00000000-0000-7000-8000-${String(number).padStart(12, '0')}`)
  for (const id of ids) notices.changed(id)
  await notices.close()
  t.ok(sent.flat().every(({ payload }) => Buffer.byteLength(payload) < 8_000))
  t.same(
    sent.flat().flatMap(({ payload }) => payload.split(',')),
    ids
  )
})

t.test('the end waits for nothing, and what could not be sent is logged and forgotten', async t => {
  const { notices, sent, logged } = gather(() => Promise.reject(new Error('away')))
  await notices.close()
  t.same(sent, [])
  notices.ready('2/echo')
  await notices.close()
  t.equal(sent.length, 1)
  t.same(logged, ['other processes could not be notified'])
})

t.test('only what is a command is taken for one', async t => {
  t.same(commandOf('{"type":"stop","jobs":["a"]}'), { type: 'stop', jobs: ['a'] })
  t.same(commandOf('{"type":"claimed","jobs":["a","b"]}'), { type: 'claimed', jobs: ['a', 'b'] })
  for (const payload of ['', '{', 'null', '1', '{"type":"stop"}', '{"type":"stop","jobs":[1]}', '{"type":"drop","jobs":["a"]}'])
    t.equal(commandOf(payload), null, payload)
})

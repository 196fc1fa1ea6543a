import t from 'tap'
import { carriesOutput, countEvents, failureInAnswer, isPlain } from '../../adapters/shared/chunks.ts'
import { fc } from '../support/properties.ts'

const event = (json: string) => Buffer.from(`data: ${json}\n\n`)

t.test('a block is plain when none of its events says more than a piece of text', async t => {
  const plain = [
    '{"choices":[{"delta":{"content":"x"},"finish_reason":null}],"usage":null}',
    '{"choices":[{"delta":{"content":"x"},"finish_reason" : null}],"usage" : null}',
    '{"choices":[{"text":"usage","finish_reason":null}]}',
    '{"choices":[{"text":"\\"usage\\":{\\"finish_reason\\":\\"stop\\"","finish_reason":null}]}'
  ]
  for (const json of plain) t.equal(isPlain(event(json)), true, json)
  t.equal(isPlain(Buffer.concat([...plain.map(event), Buffer.from(': comment\n\n')])), true)
})

t.test('usage, a finish, an error and the end are seen, however they are spaced', async t => {
  const space = fc.constantFrom('', ' ', '\t', '  ')
  const special = fc.constantFrom<readonly [key: string, value: string]>(
    ['usage', '{"prompt_tokens":1}'],
    ['finish_reason', '"stop"'],
    ['error', '{"message":"no"}']
  )
  fc.assert(
    fc.property(special, space, space, fc.nat(3), ([key, value], before, after, nulls) => {
      const json = `{"choices":[],${'"usage":null,"finish_reason":null,'.repeat(nulls)}"${key}"${before}:${after}${value}}`
      t.equal(isPlain(Buffer.concat([event('{"choices":[]}'), event(json)])), false, json)
    })
  )
  t.equal(isPlain(event('[DONE]')), false)
  t.equal(isPlain(event('5')), false)
  t.equal(isPlain(Buffer.from('event: ping\n\n')), false)
})

t.test('events are counted without the comments', async t => {
  t.equal(countEvents(Buffer.concat([event('{}'), Buffer.from(': keep-alive\n\n'), event('{}')])), 2)
})

t.test('output is text for a completion, and anything but a role for a chat', async t => {
  t.equal(carriesOutput({ text: 'x' }, 'complete'), true)
  for (const choice of [{}, { text: '' }, { text: null }, { delta: { content: 'x' } }]) {
    t.equal(carriesOutput(choice, 'complete'), false, JSON.stringify(choice))
  }
  t.equal(carriesOutput({ delta: { role: 'assistant', content: 'x' } }, 'chat'), true)
  for (const choice of [{}, { text: 'x' }, { delta: { role: 'assistant', content: '', tool_calls: [], refusal: null } }]) {
    t.equal(carriesOutput(choice, 'chat'), false, JSON.stringify(choice))
  }
})

t.test('a failure stands at the top, or in a choice', async t => {
  t.match(failureInAnswer({ error: 'top', choices: [{ error: { message: 'own' } }] }), { message: 'top' })
  t.match(failureInAnswer({ choices: [{}, { error: { message: 'own' } }] }), { message: 'own' })
  for (const json of [null, {}, { error: null, choices: [{ error: null }] }, { choices: 'error' }]) t.equal(failureInAnswer(json), null)
})

// Responses bodies as chat requests: what becomes what, what is refused, and under which name.

import t from 'tap'
import { isResponsesShaped, readResponsesRequest } from '../../gateway/dialects/responses/request.ts'
import { GatewayError } from '../../routing/errors.ts'

type Json = Record<string, unknown>

const hello = { model: 'm', input: 'hello' }
const user = { role: 'user', content: 'hello' }

function messagesOf(input: unknown, more: Json = {}): unknown {
  return readResponsesRequest({ model: 'm', input, ...more }).chat.messages
}

function refusal(body: Json): GatewayError {
  try {
    readResponsesRequest(body)
  } catch (error) {
    if (error instanceof GatewayError) return error
    throw error
  }
  throw new Error(`taken: ${JSON.stringify(body)}`)
}

function call(id: string, name = 'f', text = '{}'): Json {
  return { type: 'function_call', id: `fc_${id}`, call_id: id, name, arguments: text, status: 'completed' }
}

function chatCall(id: string, name = 'f', text = '{}'): Json {
  return { id, type: 'function', function: { name, arguments: text } }
}

t.test('a string becomes a user message, and nothing is added', async t => {
  t.strictSame(readResponsesRequest(hello).chat, { model: 'm', messages: [user] })
  t.strictSame(readResponsesRequest(hello).dropped, [])
})

t.test('input items become messages', async t => {
  const data = 'data:image/png;base64,AAAA'
  const cases: readonly [title: string, input: unknown, messages: unknown][] = [
    ['a message without a type', [{ role: 'user', content: 'hello' }], [user]],
    ['one text part stays a string', [{ type: 'message', role: 'user', content: [{ type: 'input_text', text: 'hello' }] }], [user]],
    [
      'several parts stay parts',
      [
        {
          role: 'user',
          content: [
            { type: 'input_text', text: 'a' },
            { type: 'input_image', image_url: data, detail: 'low' },
            { type: 'input_image', image_url: data, detail: null },
            { type: 'input_file', filename: 'a.pdf', file_data: 'data:application/pdf;base64,AAAA' },
            { type: 'input_audio', input_audio: { data: 'AAAA', format: 'wav' } }
          ]
        }
      ],
      [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'a' },
            { type: 'image_url', image_url: { url: data, detail: 'low' } },
            { type: 'image_url', image_url: { url: data } },
            { type: 'file', file: { filename: 'a.pdf', file_data: 'data:application/pdf;base64,AAAA' } },
            { type: 'input_audio', input_audio: { data: 'AAAA', format: 'wav' } }
          ]
        }
      ]
    ],
    [
      'system and developer keep their roles',
      [
        { role: 'system', content: 's' },
        { role: 'developer', content: [{ type: 'input_text', text: 'd' }] }
      ],
      [
        { role: 'system', content: 's' },
        { role: 'developer', content: 'd' }
      ]
    ],
    [
      'an output item given back',
      [
        {
          id: 'msg_1',
          type: 'message',
          role: 'assistant',
          status: 'completed',
          content: [
            { type: 'output_text', text: 'a', annotations: [], logprobs: [] },
            { type: 'output_text', text: 'b', annotations: [] }
          ]
        }
      ],
      [{ role: 'assistant', content: 'ab' }]
    ],
    [
      'a refusal given back',
      [{ role: 'assistant', content: [{ type: 'refusal', refusal: 'no' }] }],
      [{ role: 'assistant', content: null, refusal: 'no' }]
    ],
    ['an assistant message as a string', [{ role: 'assistant', content: 'a' }], [{ role: 'assistant', content: 'a' }]],
    [
      'thoughts are left out, calls are one turn',
      [
        { role: 'user', content: 'hello' },
        { type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'x' },
        call('1'),
        { type: 'reasoning', id: 'rs_2', summary: [] },
        call('2', 'g', '{"a":1}'),
        { type: 'function_call_output', call_id: '1', output: 'one' },
        {
          type: 'function_call_output',
          call_id: '2',
          output: [
            { type: 'input_text', text: 't' },
            { type: 'input_text', text: 'wo' }
          ]
        }
      ],
      [
        user,
        { role: 'assistant', content: null, tool_calls: [chatCall('1'), chatCall('2', 'g', '{"a":1}')] },
        { role: 'tool', tool_call_id: '1', content: 'one' },
        { role: 'tool', tool_call_id: '2', content: 'two' }
      ]
    ],
    [
      'words before and between calls belong to the same turn',
      [
        { role: 'assistant', content: 'let me see' },
        call('1'),
        { role: 'assistant', content: [{ type: 'output_text', text: ', and more' }] },
        call('2'),
        { type: 'function_call_output', call_id: '1', output: '' }
      ],
      [
        { role: 'assistant', content: 'let me see, and more', tool_calls: [chatCall('1'), chatCall('2')] },
        { role: 'tool', tool_call_id: '1', content: '' }
      ]
    ],
    [
      'calls after an answer are another turn',
      [call('1'), { type: 'function_call_output', call_id: '1', output: 'x' }, call('2')],
      [
        { role: 'assistant', content: null, tool_calls: [chatCall('1')] },
        { role: 'tool', tool_call_id: '1', content: 'x' },
        { role: 'assistant', content: null, tool_calls: [chatCall('2')] }
      ]
    ],
    [
      'two assistant messages without calls stay two',
      [
        { role: 'assistant', content: 'a' },
        { role: 'assistant', content: 'b' }
      ],
      [
        { role: 'assistant', content: 'a' },
        { role: 'assistant', content: 'b' }
      ]
    ],
    [
      'custom calls',
      [
        { type: 'custom_tool_call', call_id: '1', name: 'patch', input: 'free text' },
        { type: 'custom_tool_call_output', call_id: '1', output: 'done' }
      ],
      [
        { role: 'assistant', content: null, tool_calls: [{ id: '1', type: 'custom', custom: { name: 'patch', input: 'free text' } }] },
        { role: 'tool', tool_call_id: '1', content: 'done' }
      ]
    ]
  ]
  for (const [title, input, messages] of cases) t.strictSame(messagesOf(input), messages, title)
})

t.test('instructions are a system message in front', async t => {
  t.strictSame(messagesOf('hello', { instructions: 'be brief' }), [{ role: 'system', content: 'be brief' }, user])
  t.strictSame(messagesOf('hello', { instructions: null }), [user])
})

t.test('parameters become those of chat', async t => {
  const schema = { type: 'object', properties: {} }
  const cases: readonly [given: Json, chat: Json][] = [
    [{ max_output_tokens: 20 }, { max_completion_tokens: 20 }],
    [{ stream: false }, { stream: false }],
    [{ stream: true }, { stream: true, stream_options: { include_usage: true } }],
    [
      { stream: true, stream_options: { include_obfuscation: false } },
      { stream: true, stream_options: { include_obfuscation: false, include_usage: true } }
    ],
    [{ stream: null, temperature: null, tools: null, text: null, reasoning: null, tool_choice: null, include: null }, {}],
    [{ store: true, background: false, previous_response_id: null, conversation: null, prompt: null }, {}],
    [{ metadata: { a: 'b' } }, {}],
    [{ reasoning: { effort: 'low' } }, { reasoning_effort: 'low' }],
    [{ text: { verbosity: 'high', format: { type: 'text' } } }, { verbosity: 'high' }],
    [{ text: { format: { type: 'json_object' } } }, { response_format: { type: 'json_object' } }],
    [
      { text: { format: { type: 'json_schema', name: 'n', schema, strict: null, description: 'd' } } },
      { response_format: { type: 'json_schema', json_schema: { name: 'n', schema, description: 'd' } } }
    ],
    [
      { text: { format: { type: 'json_schema', name: 'n', schema, strict: true } } },
      { response_format: { type: 'json_schema', json_schema: { name: 'n', schema, strict: true } } }
    ],
    [{ top_logprobs: 3 }, { logprobs: true, top_logprobs: 3 }],
    [{ top_logprobs: 0 }, {}],
    [{ include: ['message.output_text.logprobs'] }, { logprobs: true }],
    [
      { tools: [{ type: 'function', name: 'f', description: 'd', parameters: schema, strict: true }] },
      { tools: [{ type: 'function', function: { name: 'f', description: 'd', parameters: schema, strict: true } }] }
    ],
    [
      { tools: [{ type: 'function', name: 'f', description: null, parameters: null, strict: null }] },
      { tools: [{ type: 'function', function: { name: 'f' } }] }
    ],
    [
      { tools: [{ type: 'custom', name: 'c', description: 'd', format: { type: 'grammar', syntax: 'lark', definition: 'x' } }] },
      {
        tools: [
          {
            type: 'custom',
            custom: { name: 'c', description: 'd', format: { type: 'grammar', grammar: { syntax: 'lark', definition: 'x' } } }
          }
        ]
      }
    ],
    [
      { tools: [{ type: 'custom', name: 'c', format: { type: 'text' } }] },
      { tools: [{ type: 'custom', custom: { name: 'c', format: { type: 'text' } } }] }
    ],
    [{ tools: [{ type: 'function', function: { name: 'f' } }] }, { tools: [{ type: 'function', function: { name: 'f' } }] }],
    [{ tool_choice: 'required' }, { tool_choice: 'required' }],
    [{ tool_choice: { type: 'function', name: 'f' } }, { tool_choice: { type: 'function', function: { name: 'f' } } }],
    [{ tool_choice: { type: 'custom', name: 'c' } }, { tool_choice: { type: 'custom', custom: { name: 'c' } } }],
    [
      { tool_choice: { type: 'allowed_tools', mode: 'auto', tools: [{ type: 'function', name: 'f' }] } },
      { tool_choice: { type: 'allowed_tools', allowed_tools: { mode: 'auto', tools: [{ type: 'function', function: { name: 'f' } }] } } }
    ]
  ]
  for (const [given, chat] of cases)
    t.strictSame(readResponsesRequest({ ...hello, ...given }).chat, { model: 'm', messages: [user], ...chat }, JSON.stringify(given))
})

t.test('what both have alike, and what we do not know, travels on untouched', async t => {
  const fields = {
    temperature: 0.5,
    top_p: 0.9,
    parallel_tool_calls: false,
    user: 'u',
    service_tier: 'flex',
    safety_identifier: 's',
    prompt_cache_key: 'k',
    prompt_cache_retention: '24h',
    provider: { order: ['x'] },
    models: ['a', 'b'],
    seed: 7
  }
  t.strictSame(readResponsesRequest({ ...hello, ...fields, nothing: null }).chat, { model: 'm', messages: [user], ...fields })
})

t.test('hints without a place in chat are named', async t => {
  const cases: readonly [given: Json, dropped: readonly string[]][] = [
    [{ truncation: 'auto' }, ['truncation']],
    [{ truncation: 'disabled' }, []],
    [{ include: ['reasoning.encrypted_content', 'message.output_text.logprobs'] }, ['include']],
    [{ include: ['message.output_text.logprobs'] }, []],
    [{ reasoning: { effort: 'low', summary: 'auto', context: null } }, []],
    [{ reasoning: { generate_summary: 'auto' } }, ['reasoning.generate_summary']],
    [{ max_tool_calls: 3, context_management: [] }, ['context_management', 'max_tool_calls']],
    [
      {
        tools: [
          { type: 'function', name: 'f', defer_loading: true, async: false },
          { type: 'function', name: 'g', defer_loading: true }
        ]
      },
      ['tools.defer_loading']
    ]
  ]
  for (const [given, dropped] of cases) t.strictSame(readResponsesRequest({ ...hello, ...given }).dropped, dropped, JSON.stringify(given))
})

t.test('what is wrong is named', async t => {
  const tool = (more: Json): Json => ({ tools: [{ type: 'function', name: 'f' }, more] })
  const part = (more: Json): Json => ({ input: [{ role: 'user', content: [{ type: 'input_text', text: 'a' }, more] }] })
  const cases: readonly [given: Json, param: string, code: string][] = [
    [{ input: undefined }, 'input', 'missing_required_parameter'],
    [{ input: null }, 'input', 'missing_required_parameter'],
    [{ input: [] }, 'input', 'invalid_value'],
    [{ input: {} }, 'input', 'invalid_value'],
    [{ input: 7 }, 'input', 'invalid_value'],
    [{ input: [{ type: 'reasoning', id: 'rs_1', summary: [] }] }, 'input', 'invalid_value'],
    [{ input: new Array(10_001).fill({ role: 'user', content: 'a' }) }, 'input', 'invalid_value'],
    [{ input: ['hello'] }, 'input[0]', 'invalid_value'],
    [{ input: [{ content: 'x' }] }, 'input[0].type', 'missing_required_parameter'],
    [{ input: [{ role: 'tool', content: 'x' }] }, 'input[0].role', 'invalid_value'],
    [{ input: [{ role: 'user' }] }, 'input[0].content', 'missing_required_parameter'],
    [{ input: [{ role: 'user', content: 5 }] }, 'input[0].content', 'invalid_value'],
    [{ input: [{ role: 'user', content: ['x'] }] }, 'input[0].content[0]', 'invalid_value'],
    [part({ type: 'input_text' }), 'input[0].content[1].text', 'missing_required_parameter'],
    [part({ type: 'input_image' }), 'input[0].content[1].image_url', 'missing_required_parameter'],
    [part({ type: 'input_image', image_url: '' }), 'input[0].content[1].image_url', 'invalid_value'],
    [part({ type: 'input_file' }), 'input[0].content[1].file_data', 'missing_required_parameter'],
    [part({ type: 'input_audio', input_audio: 'x' }), 'input[0].content[1].input_audio', 'invalid_value'],
    [part({ type: 'input_video' }), 'input[0].content[1].type', 'invalid_value'],
    [{ input: [{ role: 'assistant', content: [{ type: 'input_image' }] }] }, 'input[0].content[0].type', 'invalid_value'],
    [{ input: [{ ...call('1'), call_id: '' }] }, 'input[0].call_id', 'invalid_value'],
    [{ input: [{ ...call('1'), arguments: {} }] }, 'input[0].arguments', 'invalid_value'],
    [{ input: [{ type: 'function_call_output', output: 'x' }] }, 'input[0].call_id', 'missing_required_parameter'],
    [{ input: [{ type: 'function_call_output', call_id: '1' }] }, 'input[0].output', 'missing_required_parameter'],
    [{ stream: 'true' }, 'stream', 'invalid_value'],
    [{ store: 'no' }, 'store', 'invalid_value'],
    [{ background: 'no' }, 'background', 'invalid_value'],
    [{ metadata: 'a' }, 'metadata', 'invalid_value'],
    [{ instructions: ['x'] }, 'instructions', 'invalid_value'],
    [{ max_output_tokens: 0 }, 'max_output_tokens', 'invalid_value'],
    [{ top_logprobs: 21 }, 'top_logprobs', 'invalid_value'],
    [{ include: 'all' }, 'include', 'invalid_value'],
    [{ text: 'x' }, 'text', 'invalid_value'],
    [{ text: { format: { type: 'yaml' } } }, 'text.format.type', 'invalid_value'],
    [{ text: { format: { type: 'json_schema', schema: {} } } }, 'text.format.name', 'missing_required_parameter'],
    [{ reasoning: 'low' }, 'reasoning', 'invalid_value'],
    [{ reasoning: { effort: 1 } }, 'reasoning.effort', 'invalid_value'],
    [{ tools: {} }, 'tools', 'invalid_value'],
    [{ tools: new Array(1_025).fill({ type: 'function', name: 'f' }) }, 'tools', 'invalid_value'],
    [tool({ type: 'function' }), 'tools[1].name', 'missing_required_parameter'],
    [tool({ name: 'f' }), 'tools[1].type', 'invalid_value'],
    [tool({ type: 'function', name: 'f', parameters: 'x' }), 'tools[1].parameters', 'invalid_value'],
    [{ tool_choice: 'any' }, 'tool_choice', 'invalid_value'],
    [{ tool_choice: { type: 'function' } }, 'tool_choice.name', 'missing_required_parameter'],
    [{ tool_choice: { type: 'allowed_tools', mode: 'all', tools: [] } }, 'tool_choice.mode', 'invalid_value'],
    [{ tool_choice: { type: 'allowed_tools', mode: 'auto' } }, 'tool_choice.tools', 'invalid_value']
  ]
  for (const [given, param, code] of cases) {
    const error = refusal({ ...hello, ...given })
    t.strictSame([error.code, error.param, error.publicCode], ['invalid_request', param, code], `${param}: ${error.message}`)
  }
})

t.test('what needs memory, files or tools of OpenAI is refused by name', async t => {
  const part = (more: Json): Json => ({ input: [{ role: 'user', content: [more] }] })
  const cases: readonly [given: Json, param: string][] = [
    [{ background: true }, 'background'],
    [{ previous_response_id: 'resp_1' }, 'previous_response_id'],
    [{ conversation: 'conv_1' }, 'conversation'],
    [{ conversation: { id: 'conv_1' } }, 'conversation'],
    [{ prompt: { id: 'pmpt_1' } }, 'prompt'],
    [{ input: [{ type: 'item_reference', id: 'msg_1' }] }, 'input[0]'],
    [{ input: [{ type: 'web_search_call', id: 'ws_1', status: 'completed' }] }, 'input[0]'],
    [part({ type: 'input_file', file_id: 'file-1' }), 'input[0].content[0].file_id'],
    [part({ type: 'input_file', file_url: 'https://x' }), 'input[0].content[0].file_url'],
    [part({ type: 'input_image', file_id: 'file-1' }), 'input[0].content[0].file_id'],
    [
      { input: [{ type: 'function_call_output', call_id: '1', output: [{ type: 'input_image', image_url: 'data:x' }] }] },
      'input[0].output[0].type'
    ],
    ...[
      'web_search',
      'web_search_preview',
      'file_search',
      'code_interpreter',
      'computer',
      'computer_use_preview',
      'image_generation',
      'mcp',
      'local_shell',
      'shell',
      'apply_patch'
    ].map((type): [Json, string] => [{ tools: [{ type }] }, 'tools[0].type']),
    [{ tool_choice: { type: 'file_search' } }, 'tool_choice.type']
  ]
  for (const [given, param] of cases) {
    const error = refusal({ ...hello, ...given })
    t.strictSame(
      [error.code, error.status, error.param, error.publicCode],
      ['unsupported_parameter', 400, param, 'unsupported_parameter'],
      param
    )
  }
})

t.test('the echo repeats what was asked, in the form it was asked', async t => {
  const tools = [{ type: 'function', name: 'f', parameters: {}, strict: null }]
  const tool_choice = { type: 'function', name: 'f' }
  const { echo } = readResponsesRequest({
    ...hello,
    instructions: 'be brief',
    tools,
    tool_choice,
    temperature: 0.5,
    store: true,
    truncation: 'auto',
    metadata: { a: 'b' },
    reasoning: { effort: 'low', summary: 'auto' },
    text: { format: { type: 'json_object' } }
  })
  t.match(echo, {
    model: 'm',
    instructions: 'be brief',
    tools,
    tool_choice,
    temperature: 0.5,
    store: false,
    background: false,
    truncation: 'disabled',
    previous_response_id: null,
    metadata: { a: 'b' },
    reasoning: { effort: 'low', summary: 'auto' },
    text: { format: { type: 'json_object' }, verbosity: 'medium' },
    parallel_tool_calls: true
  })
})

t.test('the body is left as it came', async t => {
  const body = deepFreeze({
    ...hello,
    input: [{ role: 'assistant', content: 'a' }, call('1'), call('2'), { role: 'assistant', content: 'b' }],
    tools: [{ type: 'function', function: { name: 'f' } }],
    text: { format: { type: 'json_schema', name: 'n', schema: {} } },
    stream: true,
    stream_options: {}
  })
  t.doesNotThrow(() => readResponsesRequest(body))
})

t.test('a chat body with input is told apart', async t => {
  t.equal(isResponsesShaped({ model: 'm', input: 'x' }), true)
  t.equal(isResponsesShaped({ model: 'm', input: [], messages: null }), true)
  t.equal(isResponsesShaped({ model: 'm', input: 'x', messages: [] }), false)
  t.equal(isResponsesShaped({ model: 'm', input: null }), false)
  t.equal(isResponsesShaped({ model: 'm' }), false)
})

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null) {
    Object.values(value).forEach(deepFreeze)
    Object.freeze(value)
  }
  return value
}

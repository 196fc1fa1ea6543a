// One question, one answer, and where it came from.
//
//   npm exec -- node examples/chat.ts "Why is the sky blue?"

import OpenAI from 'openai'

// Reads OPENAI_BASE_URL and OPENAI_API_KEY: nothing here knows that a gateway answers.
const client = new OpenAI()

const { data, response } = await client.chat.completions
  .create({
    model: process.env.MODEL ?? 'auto',
    messages: [{ role: 'user', content: process.argv[2] ?? 'Say hello in one sentence.' }]
  })
  .withResponse()

console.log(data.choices[0]?.message.content)

// What the gateway says beside the answer: on any other server these are missing.
const said = (name: string): string => response.headers.get(`x-llm-mcp-${name}`) ?? '-'
console.log(`\n${said('provider')} · ${said('model')} · ${said('device')} · ${said('reason')} · ${said('cost-usd')} $`)

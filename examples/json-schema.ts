// An answer in a form that a program can use. Only models and servers that honour a schema are asked.
//
//   npm exec -- node examples/json-schema.ts "Ada, 36, lives in London."

import OpenAI from 'openai'

interface Person {
  readonly name: string
  readonly age: number
  readonly city: string | null
}

const client = new OpenAI()

const answer = await client.chat.completions.create({
  model: process.env.MODEL ?? 'auto',
  messages: [
    { role: 'system', content: 'Extract the person from the text.' },
    { role: 'user', content: process.argv[2] ?? 'Ada, 36, lives in London.' }
  ],
  response_format: {
    type: 'json_schema',
    json_schema: {
      name: 'person',
      strict: true,
      schema: {
        type: 'object',
        properties: { name: { type: 'string' }, age: { type: 'integer' }, city: { type: ['string', 'null'] } },
        required: ['name', 'age', 'city'],
        additionalProperties: false
      }
    }
  }
})

// The demo model keeps to no schema; this needs a real one.
const person = JSON.parse(answer.choices[0]?.message.content ?? '') as Person
console.log(person)

// A model that calls a function of ours, and answers with what it returned.
//
//   npm exec -- node examples/tools.ts "What is the weather in Lisbon?"

import OpenAI from 'openai'

const client = new OpenAI()

const tools: OpenAI.Chat.ChatCompletionTool[] = [
  {
    type: 'function',
    function: {
      name: 'get_weather',
      description: 'The weather in a city, now.',
      parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false }
    }
  }
]

/** Stands for whatever your program can do. */
function getWeather(city: string): object {
  return { city, celsius: 21, sky: 'clear' }
}

const messages: OpenAI.Chat.ChatCompletionMessageParam[] = [{ role: 'user', content: process.argv[2] ?? 'What is the weather in Lisbon?' }]

// A model may ask more than once; five rounds are enough for one question.
for (let round = 0; round < 5; round++) {
  const answer = await client.chat.completions.create({ model: process.env.MODEL ?? 'auto', messages, tools })
  const message = answer.choices[0]?.message
  if (message?.tool_calls === undefined || message.tool_calls.length === 0) {
    console.log(message?.content)
    break
  }
  messages.push(message)
  for (const call of message.tool_calls) {
    if (call.type !== 'function') continue
    const { city } = JSON.parse(call.function.arguments) as { city: string }
    console.log(`[${call.function.name}: ${city}]`)
    messages.push({ role: 'tool', tool_call_id: call.id, content: JSON.stringify(getWeather(city)) })
  }
}

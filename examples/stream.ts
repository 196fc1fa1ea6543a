// The answer word by word, and at its end what it took.
//
//   npm exec -- node examples/stream.ts "Tell me a story."

import OpenAI from 'openai'

const client = new OpenAI()

const stream = await client.chat.completions.create({
  model: process.env.MODEL ?? 'auto',
  messages: [{ role: 'user', content: process.argv[2] ?? 'Count from one to five in words.' }],
  stream: true,
  // Without this there is no last chunk with figures.
  stream_options: { include_usage: true }
})

for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta.content ?? '')
  if (chunk.usage) {
    console.log(`\n\n${chunk.usage.prompt_tokens} tokens in, ${chunk.usage.completion_tokens} out`)
    // The gateway's own addition: provider, model, device, reason, attempts, cost_usd.
    if ('x_llm_mcp' in chunk) console.log(JSON.stringify(chunk.x_llm_mcp))
  }
}

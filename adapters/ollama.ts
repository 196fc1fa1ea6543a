// Speaks Ollama's native API: OpenAI's chat, completions and embeddings in and out, its own in between.

import type { Adapter, Feature } from '../routing/types.ts'
import { type OllamaPorts, ollamaCall, type Speech } from './ollama/call.ts'
import { bringsText, createCompletionAssembly, createCompletionWriter, toNativeCompletion } from './ollama/completion.ts'
import { ollamaEmbed } from './ollama/embeddings.ts'
import { droppedHints } from './ollama/hints.ts'
import { ollamaHold } from './ollama/hold.ts'
import { createInventory } from './ollama/inventory.ts'
import { carriesOutput, parseGeneratedLine, parseLine } from './ollama/lines.ts'
import { createAssembly, createEventWriter } from './ollama/reply.ts'
import { toNativeChat } from './ollama/request.ts'

const features: ReadonlySet<Feature> = new Set(['json_object', 'json_schema', 'logprobs', 'reasoning', 'suffix', 'tools', 'vision'])

const chat: Speech = {
  path: '/api/chat',
  native: ({ request, target }) => toNativeChat(request.body.json(), target),
  readLine: parseLine,
  isShown: carriesOutput,
  createWriter: createEventWriter,
  createAssembly
}

const completion: Speech = {
  path: '/api/generate',
  native: ({ request, target }) => toNativeCompletion(request, target),
  readLine: parseGeneratedLine,
  isShown: bringsText,
  createWriter: createCompletionWriter,
  createAssembly: createCompletionAssembly
}

export function createAdapter(ports: OllamaPorts): Adapter {
  return {
    name: 'ollama',
    features,
    chat: (attempt, observer) => ollamaCall(ports, chat, attempt, observer),
    complete: (attempt, observer) => ollamaCall(ports, completion, attempt, observer),
    embed: (attempt, observer) => ollamaEmbed(ports.outbound, attempt, observer),
    dropped: droppedHints,
    listModels: createInventory(ports.outbound),
    hold: (target, keepAlive, signal) => ollamaHold(ports.outbound, target, keepAlive, signal)
  }
}

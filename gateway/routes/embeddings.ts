// POST /v1/embeddings

import type { FastifyInstance } from 'fastify'
import { type AnswerPorts, answer, bodyOf, knobsOf } from '../answer.ts'
import { readEmbeddingRequest } from '../dialects/openai-embeddings.ts'

export function registerEmbeddings(app: FastifyInstance, ports: AnswerPorts & { readonly prefixes: readonly string[] }): void {
  for (const prefix of ports.prefixes) {
    app.post(`${prefix}/embeddings`, { config: { requires: ['source', 'admin'] } }, async (request, reply) => {
      const embedding = await readEmbeddingRequest(bodyOf(request, '"model" and "input"'), knobsOf(request))
      return answer(ports, request, reply, { request: embedding, presenter: null, dropped: [] })
    })
  }
}

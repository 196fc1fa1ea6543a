// POST /v1/completions

import type { FastifyInstance } from 'fastify'
import { type AnswerPorts, answer, bodyOf, knobsOf } from '../answer.ts'
import { readCompletionRequest } from '../dialects/openai-completions.ts'

export function registerCompletions(app: FastifyInstance, ports: AnswerPorts & { readonly prefixes: readonly string[] }): void {
  for (const prefix of ports.prefixes) {
    app.post(`${prefix}/completions`, { config: { requires: ['source', 'admin'] } }, async (request, reply) => {
      const completion = await readCompletionRequest(bodyOf(request, '"model" and "prompt"'), knobsOf(request))
      return answer(ports, request, reply, { request: completion, presenter: null, dropped: [] })
    })
  }
}

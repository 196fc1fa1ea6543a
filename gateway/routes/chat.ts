// POST /v1/chat/completions, also with Responses' `input` in the place of `messages`.

import type { FastifyInstance } from 'fastify'
import { type AnswerPorts, answer, bodyOf, knobsOf } from '../answer.ts'
import { readChatRequest } from '../dialects/openai-chat.ts'

export function registerChat(app: FastifyInstance, ports: AnswerPorts & { readonly prefixes: readonly string[] }): void {
  for (const prefix of ports.prefixes) {
    app.post(`${prefix}/chat/completions`, { config: { requires: ['source', 'admin'] } }, (request, reply) => {
      const { request: chat, dropped } = readChatRequest(bodyOf(request, '"model" and "messages"'), knobsOf(request))
      return answer(ports, request, reply, { request: chat, presenter: null, dropped })
    })
  }
}

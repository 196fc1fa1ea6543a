// POST /v1/responses, stateless: nothing is kept.

import type { FastifyInstance } from 'fastify'
import { toGatewayError } from '../../routing/errors.ts'
import type { ModelRequest } from '../../routing/types.ts'
import { type AnswerPorts, answer, bodyOf, knobsOf } from '../answer.ts'
import { readBody } from '../body.ts'
import { callerOf, limitsName } from '../caller.ts'
import { readChatBody } from '../dialects/openai-chat.ts'
import { createResponsesPresenter, inResponses } from '../dialects/responses/presenter.ts'
import { createRecentItems } from '../dialects/responses/recent.ts'
import { readResponsesRequest } from '../dialects/responses/request.ts'

export function registerResponses(
  app: FastifyInstance,
  ports: AnswerPorts & { readonly prefixes: readonly string[]; readonly newId: () => string }
): void {
  const recent = createRecentItems()
  const newId = (): string => ports.newId().replaceAll('-', '')
  for (const prefix of ports.prefixes) {
    app.post(`${prefix}/responses`, { config: { requires: ['source', 'admin'] } }, (request, reply) => {
      const asked = readBody(bodyOf(request, '"model" and "input"')).json()
      const owner = limitsName(callerOf(request, () => asked.user))
      const { chat, dropped, echo } = readResponsesRequest({ ...asked, input: recent.resolve(owner, asked.input) })
      const body = readBody(Buffer.from(JSON.stringify(chat)))
      const presenter = createResponsesPresenter(
        { id: `resp_${newId()}`, createdAt: Math.floor(Date.now() / 1_000), echo, newId },
        // Whoever says that nothing is to be stored means this too.
        output => asked.store !== false && recent.remember(owner, output)
      )
      return answer(ports, request, reply, { request: read(), presenter, dropped })

      function read(): ModelRequest {
        try {
          return readChatBody(body, knobsOf(request))
        } catch (error) {
          throw inResponses(toGatewayError(error))
        }
      }
    })
  }
}

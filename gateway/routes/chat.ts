// POST /v1/chat/completions

import type { FastifyInstance } from 'fastify'
import type { Dispatch } from '../../routing/dispatch.ts'
import { GatewayError, toGatewayError } from '../../routing/errors.ts'
import type { Caller, ChatRequest } from '../../routing/types.ts'
import { readChatRequest } from '../dialects/openai-chat.ts'
import { createReply } from '../reply.ts'
import type { Streams } from '../streams.ts'

export function registerChat(
  app: FastifyInstance,
  { dispatch, streams }: { readonly dispatch: Dispatch; readonly streams: Streams }
): void {
  app.post('/v1/chat/completions', { config: { requires: ['source', 'admin'] } }, (request, reply) => {
    const { context } = request
    const chat = readChatRequest(bodyOf(request.body), {
      requestId: context.id,
      localOnly: isTrue(request.headers['x-llm-mcp-local-only'])
    })
    note(chat)
    // From here on the response is ours alone: no serialisation, no hooks, one write per piece.
    reply.hijack()
    const client = createReply({ response: reply.raw, context, stream: chat.stream, streams })
    try {
      client.attach(dispatch(chat, context.caller as Caller, client))
    } catch (error) {
      client.fail(toGatewayError(error))
    }

    function note(read: ChatRequest): void {
      context.model = read.model
      context.stream = read.stream
    }
  })
}

function bodyOf(body: unknown): Buffer {
  if (body instanceof Buffer && body.length > 0) return body
  throw new GatewayError('invalid_request', 'The request has no body; send JSON with "model" and "messages".')
}

function isTrue(header: string | string[] | undefined): boolean {
  if (header === undefined) return false
  const value = String(header).trim().toLowerCase()
  if (value === 'true' || value === '1') return true
  if (value === 'false' || value === '0' || value === '') return false
  // A wish for privacy that we cannot read is not one to guess at.
  throw new GatewayError('invalid_request', 'x-llm-mcp-local-only must be "true" or "false".', { param: 'x-llm-mcp-local-only' })
}

// What is passed on to one provider without being interpreted, described.

import { modelRefusals, type OperationDocs } from './parts.ts'

const known: Readonly<Record<string, string>> = {
  audio: 'Speech, transcription, translation',
  images: 'Make and change pictures',
  moderations: 'Judge a text'
}

/** `segment`: the first part of the path after /v1. */
export function passthroughDocs(segment: string, hasRest: boolean): OperationDocs {
  return {
    operationId: `passThrough-${segment}${hasRest ? '-rest' : ''}`,
    tags: ['Passed through'],
    summary: known[segment] ?? `Passed on: ${segment}`,
    description:
      'Goes to the one provider that `passthrough.provider` in llm-mcp.yaml names (OpenAI where there is a key for it), as it is; see its documentation. What it costs is known afterwards only: with `x-llm-mcp-max-cost-usd` it is a 400.',
    ...(hasRest
      ? {
          parameters: [
            { name: 'rest', in: 'path', required: true, description: 'The rest of the path, with its slashes.', schema: { type: 'string' } }
          ]
        }
      : {}),
    requestBody: { content: { 'application/json': {}, 'multipart/form-data': {} } },
    responses: { 200: { description: "The provider's answer.", content: { '*/*': {} } }, ...modelRefusals }
  }
}

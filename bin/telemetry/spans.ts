// One request as spans: ours, and one below it for each call of an upstream. Names by OpenTelemetry's GenAI conventions 1.45.

import { type Attributes, type Context, ROOT_CONTEXT, SpanKind, SpanStatusCode, type Tracer, trace } from '@opentelemetry/api'
import type { RequestLine } from '../../gateway/app.ts'
import type { RequestContext } from '../../gateway/context.ts'
import type { CallRecord } from '../../routing/ports.ts'
import { providerOf } from '../../routing/targets.ts'
import type { Upstream } from '../../routing/types.ts'
import { readTraceparent } from './traceparent.ts'

const nameCharactersAtMost = 256

/** Neither prompts nor answers, neither keys nor texts of errors: only what is listed here. */
export function recordRequest(tracer: Tracer, context: RequestContext, line: RequestLine): void {
  const { summary, error } = context
  if (summary === null && context.model === null) return
  // Both clocks are read now: since the start of a long-lived process they have drifted apart.
  const epochMs = Date.now() - performance.now()
  const operation = operationOf(line.route)
  const failed = line.status >= 500 || (line.status < 400 && summary?.outcome === 'failed')
  const span = tracer.startSpan(
    `${line.method} ${line.route}`,
    {
      kind: SpanKind.SERVER,
      startTime: timeOf(epochMs + context.startedAt),
      attributes: {
        'http.request.method': line.method,
        'http.route': line.route,
        'http.response.status_code': line.status,
        'url.scheme': 'http',
        ...genAi(operation, context.model, context.stream),
        ...(summary?.target == null ? {} : { 'gen_ai.response.model': shortened(summary.target.model) }),
        ...(error === null ? {} : { 'error.type': error.code }),
        'llm_mcp.request_id': context.id,
        ...(context.caller === null ? {} : { 'llm_mcp.source': context.caller.source }),
        ...(line.retryCount > 0 ? { 'llm_mcp.sdk_retry_count': line.retryCount } : {}),
        ...(summary === null ? {} : { 'llm_mcp.attempts': summary.attempts }),
        ...(summary === null ? {} : costOf(summary.nanoUsd))
      }
    },
    parentOf(context.traceparent)
  )
  // An inbound trace that is not sampled.
  if (!span.isRecording()) return
  if (failed) span.setStatus({ code: SpanStatusCode.ERROR })
  const ours = trace.setSpan(ROOT_CONTEXT, span)
  for (const call of summary?.calls ?? []) recordCall(tracer, ours, { call, operation, stream: context.stream, epochMs })
  span.end(timeOf(epochMs + performance.now()))
}

function recordCall(
  tracer: Tracer,
  parent: Context,
  { call, operation, stream, epochMs }: { call: CallRecord; operation: string; stream: boolean; epochMs: number }
): void {
  const { target, usage, error, ttftMs } = call
  const { upstream } = target
  const model = shortened(target.model)
  const span = tracer.startSpan(
    `${operation} ${model}`,
    {
      kind: SpanKind.CLIENT,
      startTime: timeOf(epochMs + call.startedAt),
      attributes: {
        'gen_ai.provider.name': providerOf(upstream),
        ...genAi(operation, model, stream),
        ...serverOf(upstream),
        ...(stream && ttftMs !== null ? { 'gen_ai.response.time_to_first_chunk': ttftMs / 1_000 } : {}),
        ...(usage === null
          ? {}
          : {
              'gen_ai.usage.input_tokens': usage.promptTokens,
              'gen_ai.usage.output_tokens': usage.completionTokens,
              'gen_ai.usage.cache_read.input_tokens': usage.cachedTokens,
              'gen_ai.usage.reasoning.output_tokens': usage.reasoningTokens
            }),
        // As its list calls it; what the answer itself says is passed on unread.
        ...(call.outcome === 'ok' ? { 'gen_ai.response.model': model } : {}),
        ...(error === null ? {} : { 'error.type': error.code }),
        ...(upstream.device === null ? {} : { 'llm_mcp.device': upstream.device.id }),
        'llm_mcp.upstream': upstream.id,
        ...costOf(call.settled.nanoUsd),
        ...(call.settled.estimated ? { 'llm_mcp.estimated': true } : {})
      }
    },
    parent
  )
  if (call.outcome === 'failed') span.setStatus({ code: SpanStatusCode.ERROR })
  span.end(timeOf(epochMs + call.startedAt + call.durationMs))
}

function genAi(operation: string, model: string | null, stream: boolean): Attributes {
  return {
    'gen_ai.operation.name': operation,
    ...(model === null ? {} : { 'gen_ai.request.model': shortened(model) }),
    'gen_ai.request.stream': stream
  }
}

/** The conventions' own values where there is one; a route has at most one of them. */
function operationOf(route: string): string {
  if (route.endsWith('/embeddings')) return 'embeddings'
  if (route.endsWith('/chat/completions') || route.endsWith('/responses')) return 'chat'
  if (route.endsWith('/completions')) return 'text_completion'
  return route.endsWith('/moderations') ? 'moderation' : 'generate_content'
}

/** Unknown is left out: zero would be a price. */
function costOf(nanoUsd: number | null): Attributes {
  return nanoUsd === null ? {} : { 'llm_mcp.cost_usd': nanoUsd / 1e9 }
}

const servers = new WeakMap<Upstream, Attributes>()

function serverOf(upstream: Upstream): Attributes {
  let found = servers.get(upstream)
  if (found === undefined) {
    found = addressOf(upstream.baseUrl)
    servers.set(upstream, found)
  }
  return found
}

function addressOf(baseUrl: string): Attributes {
  const url = URL.canParse(baseUrl) ? new URL(baseUrl) : null
  // The demo model is nowhere.
  if (url === null || url.hostname === '') return {}
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port)
  return { 'server.address': url.hostname.replace(/^\[|\]$/g, ''), 'server.port': port }
}

function parentOf(traceparent: string | null): Context {
  const parent = readTraceparent(traceparent)
  return parent === null ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, { ...parent, isRemote: true })
}

/** Seconds and nanoseconds: a plain number of milliseconds would be taken for one of two clocks by its size. */
function timeOf(epochMs: number): [number, number] {
  const seconds = Math.floor(epochMs / 1_000)
  return [seconds, Math.floor((epochMs - seconds * 1_000) * 1e6)]
}

function shortened(name: string): string {
  return name.slice(0, nameCharactersAtMost)
}

// Traces over OTLP/HTTP, for those who set OTEL_EXPORTER_OTLP_ENDPOINT. Imported only then: OpenTelemetry takes 100 ms to load.

import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { BatchSpanProcessor, type SpanExporter, TracerProvider } from '@opentelemetry/sdk-trace'
import type { RequestLine } from '../gateway/app.ts'
import type { RequestContext } from '../gateway/context.ts'
import { recordRequest } from './telemetry/spans.ts'

export interface TelemetryOptions {
  /** The base, as in OTEL_EXPORTER_OTLP_ENDPOINT; /v1/traces is added to it. */
  readonly endpoint: string
  readonly version: string
  readonly serviceName: string
  readonly log: (message: string, error?: unknown) => void
  /** Between two batches. */
  readonly everyMs?: number
}

export interface Telemetry {
  /** Of a request that is over. Those that asked for no model leave no trace. */
  request(context: RequestContext, line: RequestLine): void
  /** Sends what is left, for 3 s at most. */
  close(): Promise<void>
}

// What a collector cannot take in time is dropped: 2,048 spans are about 2 MB.
const spansHeldAtMost = 2_048
const closeWithinMs = 3_000

/** Headers, time-out and compression are the exporter's to read from OTEL_EXPORTER_OTLP_*. Throws when the endpoint is no http(s) URL. */
export async function startTelemetry(options: TelemetryOptions): Promise<Telemetry> {
  const url = tracesUrl(options.endpoint)
  const processor = new BatchSpanProcessor({
    exporter: toldOnce(new OTLPTraceExporter({ url: url.href }), url, options.log),
    maxQueueSize: spansHeldAtMost,
    scheduledDelayMillis: options.everyMs ?? 5_000
  })
  // Not registered globally: nothing else in this process is traced.
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ 'service.name': options.serviceName, 'service.version': options.version }),
    spanProcessors: [processor]
  })
  const tracer = provider.getTracer('llm-mcp', options.version)
  return {
    request: (context, line) => recordRequest(tracer, context, line),
    async close() {
      let timer: NodeJS.Timeout | undefined
      const limit = new Promise<void>(resolve => {
        timer = setTimeout(resolve, closeWithinMs)
      })
      await Promise.race([provider.shutdown().catch(() => {}), limit])
      clearTimeout(timer)
    }
  }
}

/** By the OTLP specification the signal's path is added to that of the base. Throws when it is no http(s) URL. */
export function tracesUrl(endpoint: string): URL {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : null
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new Error('OTEL_EXPORTER_OTLP_ENDPOINT must be an http or https URL, such as http://127.0.0.1:4318.')
  }
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/v1/traces`
  return url
}

/** A collector that is away is said once, and again only after it was back. The batch is lost, the request is not touched. */
function toldOnce(exporter: SpanExporter, url: URL, log: TelemetryOptions['log']): SpanExporter {
  let isTold = false
  return {
    export(spans, done) {
      exporter.export(spans, result => {
        const failed = result.code !== 0
        // Not the whole URL: it may hold a password.
        if (failed && !isTold) log(`traces cannot be sent to ${url.host}; requests are not affected`, result.error)
        isTold = failed
        done({ code: 0 })
      })
    },
    shutdown: () => exporter.shutdown(),
    forceFlush: () => exporter.forceFlush?.() ?? Promise.resolve()
  }
}

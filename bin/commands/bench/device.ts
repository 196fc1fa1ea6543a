// llm-mcp bench device: has a machine's models measured one after the other, and shows how far that is.

import type { ClientOptions } from '../../config/client.ts'
import { type GatewayClient, withClient } from '../client.ts'
import { fieldsOf, numberOf, seconds, textOf } from '../jobs/job.ts'
import { createScreen, ownScreen, type Screen } from '../jobs/screen.ts'
import { plain, printJson, table } from '../print.ts'

export interface BenchOptions extends ClientOptions {
  readonly model?: readonly string[]
  readonly runs?: number
  readonly yesPay?: boolean
  readonly json?: boolean
}

type Fields = Readonly<Record<string, unknown>>

const pollMs = 500

/** Prints what became of it: one that was over before stays as it was. */
export async function cancelBenchmarkCommand(id: string, options: ClientOptions & { readonly json?: boolean }): Promise<void> {
  await withClient(options, async client => {
    const { body } = await client.ask({ method: 'POST', path: `/v1/benchmarks/${encodeURIComponent(id)}/cancel` })
    if (options.json === true) printJson(body)
    else console.log(plain(`${String(body.id)}  ${String(body.model)}  ${String(body.state)}`))
  })
}

/** Ctrl-C leaves a benchmark to the gateway, which goes on with it. */
export async function benchDeviceCommand(id: string, options: BenchOptions): Promise<void> {
  await withClient(options, async client => {
    const place = await placeOf(client, id, options.model)
    const screen = createScreen(ownScreen())
    const over: Fields[] = []
    try {
      for (const model of place.models) over.push(await measured(client, screen, bodyOf(place, model, options)))
    } finally {
      screen.close()
    }
    if (over.some(({ state }) => state !== 'done')) process.exitCode = 1
    if (options.json === true) return printJson({ object: 'list', data: over })
    console.log(benchTable(over))
    for (const { model, error } of over) if (typeof error === 'string') console.error(plain(`${String(model)}: ${error}`))
  })
}

interface Place {
  readonly field: 'device_id' | 'provider'
  readonly id: string
  readonly models: readonly string[]
}

/** A machine, with its models where none are named; what is no machine may be a provider. Throws where there is nothing to measure. */
async function placeOf(client: GatewayClient, id: string, named: readonly string[] | undefined): Promise<Place> {
  const { body } = await client.ask({ method: 'GET', path: '/v1/devices' })
  const device = listOf(body.data)
    .map(entry => fieldsOf(entry) ?? {})
    .find(entry => entry.id === id)
  if (device === undefined) {
    if (named === undefined) throw new Error(`There is no machine ${JSON.stringify(id)}. Of a rented provider, name a --model.`)
    return { field: 'provider', id, models: named }
  }
  const models = named ?? listOf(device.models).map(entry => String(fieldsOf(entry)?.id))
  if (models.length === 0) throw new Error(`The machine ${JSON.stringify(id)} has no models.`)
  return { field: 'device_id', id, models }
}

function bodyOf({ field, id }: Place, model: string, { runs, yesPay }: BenchOptions): Fields {
  return { [field]: id, model, ...(runs !== undefined && { runs }), ...(yesPay === true && { pay: true }) }
}

/** The benchmark when it is over; one that is refused, as one that failed. */
async function measured(client: GatewayClient, screen: Screen, asked: Fields): Promise<Fields> {
  let body: Fields
  try {
    body = (await client.ask({ method: 'POST', path: '/v1/benchmarks', body: asked })).body
  } catch (error) {
    return { ...asked, state: 'error', error: error instanceof Error ? error.message : String(error) }
  }
  const sinceMs = performance.now()
  while (body.finished_at === null) {
    const text = progressText(body)
    screen.progress(() => `${text} · ${seconds(performance.now() - sinceMs)}`, { key: text, text })
    await new Promise(resolve => setTimeout(resolve, pollMs))
    body = (await client.ask({ method: 'GET', path: `/v1/benchmarks/${encodeURIComponent(String(body.id))}` })).body
  }
  return body
}

const phases: Readonly<Record<string, string>> = { load: 'loading', prompt: 'prompts', alone: 'alone', two: '2 at once', four: '4 at once' }

/** `qwen3:32b: 2 at once, 7 of 11`. */
export function progressText({ model, state, progress }: Fields): string {
  const { phase, done, of } = fieldsOf(progress) ?? {}
  const where = textOf(phase)
  const what = where === null ? String(state) : `${phases[where] ?? where}, ${String(done)} of ${String(of)}`
  return `${String(model)}: ${what}`
}

/** One line a model. */
export function benchTable(benchmarks: readonly Fields[]): string {
  return table(
    ['model', 'load', 'prompt/s', 'tokens/s', 'at 2', 'at 4', 'ttft', 'variation', 'failures'],
    benchmarks.map(({ model, result }) => {
      const figures = fieldsOf(result) ?? {}
      const ms = (name: string): string => shown(figures[name], value => seconds(value))
      const speed = (name: string): string => shown(figures[name], value => value.toFixed(1))
      return [
        String(model),
        ms('load_ms'),
        speed('prompt_tokens_per_s'),
        speed('tokens_per_s'),
        speed('tokens_per_s_at_two'),
        speed('tokens_per_s_at_four'),
        ms('ttft_ms'),
        shown(figures.variation, value => `${(value * 100).toFixed(1)} %`),
        shown(figures.failures, String)
      ]
    }),
    [1, 2, 3, 4, 5, 6, 7, 8]
  )
}

function shown(figure: unknown, text: (value: number) => string): string {
  const value = numberOf(figure)
  return value === null ? '-' : text(value)
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}

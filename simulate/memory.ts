// The memory of an own node: which models it holds, which it makes room for, and which conversations it still knows.

import type { Request } from './traffic.ts'
import type { OwnNode, Scenario } from './types.ts'

export interface Memory {
  /** In memory, and of no running load. */
  readonly models: ReadonlySet<string>
  /** Whether this one would fit if these were gone. */
  hasRoom(model: string, without?: readonly string[]): boolean
  evict(model: string): void
  /** Its room is taken from now on. */
  reserve(model: string): void
  /** What room was reserved for is there. */
  fill(model: string): void
  clear(): void
  /** A turn was answered here: what was said is known until its model goes, or another node answers the next. */
  ran(request: Request): void
  /** Tokens of the prompt that need no reading. */
  known(request: Request): number
}

export function createMemory(config: Pick<OwnNode, 'vram' | 'maxLoaded'>, catalog: Scenario['models']): Memory {
  const models = new Set<string>()
  const turns = new Map<string, { readonly model: string; readonly lastHash: string | undefined; readonly tokens: number }>()
  let reserved: string | null = null
  const gb = (model: string): number => catalog[model]?.gb ?? 0

  function hasRoom(model: string, without: readonly string[] = []): boolean {
    const stays = [...models, ...(reserved === null ? [] : [reserved])].filter(each => !without.includes(each))
    return stays.reduce((sum, each) => sum + gb(each), gb(model)) <= config.vram && stays.length < config.maxLoaded
  }

  function evict(model: string): void {
    models.delete(model)
    for (const [conversation, turn] of turns) if (turn.model === model) turns.delete(conversation)
  }

  function known({ conversation, job }: Request): number {
    const turn = conversation === null ? undefined : turns.get(conversation)
    // The last turn ran here when its question is the last but one before this: question, answer, question.
    return turn !== undefined && turn.model === job.model && turn.lastHash === job.prefix.at(-3) ? turn.tokens : 0
  }

  return {
    models,
    hasRoom,
    evict,
    reserve: model => {
      reserved = model
    },
    fill: model => {
      reserved = null
      models.add(model)
    },
    clear: () => {
      models.clear()
      turns.clear()
      reserved = null
    },
    ran: ({ conversation, job, outputTokens }) => {
      if (conversation === null) return
      turns.set(conversation, { model: job.model, lastHash: job.prefix.at(-1), tokens: job.promptTokens + outputTokens })
    },
    known
  }
}

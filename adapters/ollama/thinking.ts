// Whether and how hard a model is to think: the words of OpenAI, OpenRouter and Ollama for it.

import type { Target } from '../../routing/types.ts'
import { flag, isGiven, isObject, wrong } from './values.ts'

export const thinkFields = ['reasoning', 'reasoning_effort', 'think'] as const
export type ThinkFields = Readonly<Partial<Record<(typeof thinkFields)[number], unknown>>>

const thinkByEffort = new Map<unknown, boolean | string>([
  ['none', false],
  ['minimal', 'low'],
  ['low', 'low'],
  ['medium', 'medium'],
  ['high', 'high'],
  ['max', 'max'],
  ['xhigh', 'max'],
  ['ultra', 'max']
])

/** Checked always, but sent only to models that may be able to think: to the others an effort is no more than a hint. */
export function thinkOf(body: ThinkFields, target: Target): boolean | string | undefined {
  const think = wishedThinking(body)
  return mayThink(target) ? think : undefined
}

/** In this order: an explicit off, OpenAI's effort, OpenRouter's, Ollama's own field. */
export function wishedThinking(body: ThinkFields): boolean | string | undefined {
  const reasoning = body.reasoning ?? {}
  if (!isObject(reasoning)) throw wrong('reasoning', 'an object')
  const off = flag(reasoning.enabled, 'reasoning.enabled') === false
  const own = body.think
  const wishes = [
    effort(body.reasoning_effort, 'reasoning_effort'),
    effort(reasoning.effort, 'reasoning.effort'),
    typeof own === 'boolean' ? own : effort(own, 'think')
  ]
  return off ? false : wishes.find(wish => wish !== undefined)
}

function effort(value: unknown, param: string): boolean | string | undefined {
  if (!isGiven(value)) return undefined
  const think = thinkByEffort.get(value)
  if (think === undefined) throw wrong(param, `one of ${[...thinkByEffort.keys()].join(', ')}`)
  return think
}

/** False only for a model of which it is known that it cannot. */
export function mayThink(target: Target): boolean {
  return target.features === null || target.features.has('reasoning')
}

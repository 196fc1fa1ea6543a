// Messages and thoughts: output items made of parts that are written one after the other.

import type { Json } from './fields.ts'
import type { Emit, Item, ItemStatus } from './items.ts'

export type PartType = 'output_text' | 'refusal' | 'reasoning_text' | 'summary_text'

interface PartForm {
  readonly item: 'message' | 'reasoning'
  /** Where its text stands. */
  readonly field: string
  /** The list of the item that holds it, and how its place in there is called. */
  readonly list: 'content' | 'summary'
  /** As its events begin: `response.<part>.added`, `response.<text>.delta`. */
  readonly part: string
  readonly text: string
}

const partForms: Readonly<Record<PartType, PartForm>> = {
  output_text: { item: 'message', field: 'text', list: 'content', part: 'content_part', text: 'output_text' },
  refusal: { item: 'message', field: 'refusal', list: 'content', part: 'content_part', text: 'refusal' },
  reasoning_text: { item: 'reasoning', field: 'text', list: 'content', part: 'content_part', text: 'reasoning_text' },
  summary_text: { item: 'reasoning', field: 'text', list: 'summary', part: 'reasoning_summary_part', text: 'reasoning_summary_text' }
}

export interface Writing extends Item {
  readonly kind: 'message' | 'reasoning'
  write(type: PartType, text: string, logprobs: readonly unknown[]): void
}

export function itemKindOf(type: PartType): Writing['kind'] {
  return partForms[type].item
}

/** A message, or a train of thought; announces itself. */
export function createWriting({
  kind,
  id,
  index,
  emit
}: {
  readonly kind: 'message' | 'reasoning'
  readonly id: string
  readonly index: number
  readonly emit: Emit
}): Writing {
  const done: Json[] = []
  let status: ItemStatus = 'in_progress'
  let part: { readonly type: PartType; readonly pieces: string[]; readonly logprobs: unknown[] } | null = null
  emit('response.output_item.added', { output_index: index, item: itemOf([], 'in_progress') })

  function itemOf(content: readonly Json[], as: ItemStatus): Json {
    if (kind === 'reasoning') {
      const of = (list: PartForm['list']): Json[] => content.filter(({ type }) => partForms[type as PartType].list === list)
      return { id, type: 'reasoning', summary: of('summary'), content: of('content') }
    }
    return { id, type: 'message', status: as, role: 'assistant', content }
  }

  /** All parts of an item stand in one list. */
  function place(type: PartType): Json {
    return { item_id: id, output_index: index, [`${partForms[type].list}_index`]: done.length }
  }

  function closePart(): void {
    if (part === null) return
    const { type } = part
    const { field, part: partName, text: textName } = partForms[type]
    const value = partOf(type, part.pieces.join(''), part.logprobs)
    const logprobs = type === 'output_text' ? { logprobs: part.logprobs } : {}
    emit(`response.${textName}.done`, { ...place(type), [field]: value[field], ...logprobs })
    emit(`response.${partName}.done`, { ...place(type), part: value })
    done.push(value)
    part = null
  }

  return {
    kind,
    write(type, text, logprobs) {
      if (part?.type !== type) {
        closePart()
        part = { type, pieces: [], logprobs: [] }
        emit(`response.${partForms[type].part}.added`, { ...place(type), part: partOf(type, '', []) })
      }
      if (text === '' && logprobs.length === 0) return
      part.pieces.push(text)
      for (const logprob of logprobs) part.logprobs.push(logprob)
      emit(`response.${partForms[type].text}.delta`, { ...place(type), delta: text, ...(type === 'output_text' ? { logprobs } : {}) })
    },
    close(as) {
      if (status !== 'in_progress') return
      closePart()
      status = as
      emit('response.output_item.done', { output_index: index, item: itemOf(done, status) })
    },
    value() {
      const open = part === null ? [] : [partOf(part.type, part.pieces.join(''), part.logprobs)]
      return itemOf([...done, ...open], status === 'in_progress' ? 'incomplete' : status)
    }
  }
}

function partOf(type: PartType, text: string, logprobs: readonly unknown[]): Json {
  return type === 'output_text' ? { type, text, annotations: [], logprobs } : { type, [partForms[type].field]: text }
}

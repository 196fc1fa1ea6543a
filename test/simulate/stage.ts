// A node on its own, with an agenda, requests of known lengths, and a record of what it reported.

import { createAgenda } from '../../simulate/agenda.ts'
import type { End, NodePorts } from '../../simulate/ports.ts'
import type { Request } from '../../simulate/traffic.ts'
import type { Job, OwnNode, RentedNode, Scenario } from '../../simulate/types.ts'

export const scenario: Scenario = {
  schema: 'llm-mcp/routing-scenario@1',
  id: 'stage',
  title: 'a stage',
  models: {
    a: { gb: 4, ref: { dec: 100, pre: 1000 } },
    b: { gb: 4, ref: { dec: 100, pre: 1000 } },
    c: { gb: 4, ref: { dec: 100, pre: 1000 } }
  },
  nodes: [],
  sources: [],
  duration: 3_600
}

const alone = { dec: 100, pre: 1000 }

export const own: OwnNode = {
  id: 'own',
  vram: 8,
  watts: 100,
  slots: 2,
  maxLoaded: 3,
  s: 0.5,
  loadBase: 1,
  loadGBs: 4,
  models: { a: alone, b: alone, c: alone }
}

export const rented: RentedNode = {
  id: 'rented',
  kind: 'cloud',
  rpm: 60,
  fail: 0,
  models: { a: { pin: 1, pout: 2, ttft: 0.5, tps: 100 } }
}

/** 2,000 tokens in, 800 out, which together slow the answer down by 1.1: alone 2 s and 8.8 s on the node above. */
export function request(id: number, changes: Partial<Request> = {}, job: Partial<Job> = {}): Request {
  return {
    job: {
      id,
      source: 'test',
      weight: 1,
      model: 'a',
      promptTokens: 2000,
      maxTokens: null,
      deadlineS: 20,
      prio: 1,
      arrivedS: 0,
      prefix: [],
      ...job
    },
    arrivedS: 0,
    outputTokens: 800,
    isCut: false,
    noise: 1,
    leavesS: null,
    stall: null,
    conversation: null,
    key: `test/${id}/0`,
    ...changes
  }
}

/** Events as they come: `ends` with their moments, `loads` as `begin model` and `end model`. */
export function stage(hidden: NodePorts['hidden'] = {}) {
  const agenda = createAgenda()
  const ends: (End & { readonly atS: number })[] = []
  const loads: { readonly what: string; readonly atS: number; readonly ok?: boolean }[] = []
  const ports: NodePorts = {
    agenda,
    seed: 1,
    hidden,
    shown: atS => atS,
    ended: end => ends.push({ ...end, atS: agenda.nowS }),
    loads: ({ model }) => loads.push({ what: `begin ${model}`, atS: agenda.nowS }),
    loaded: ({ model, ok }) => loads.push({ what: `end ${model}`, atS: agenda.nowS, ok })
  }
  const run = (untilS = 1e6): void => {
    while (agenda.step(untilS));
  }
  const at = (atS: number, act: () => void): void => agenda.at(atS, act)
  const endOf = (id: number): number => ends.find(end => end.request.job.id === id)?.atS ?? Number.NaN
  return { agenda, ports, ends, loads, run, at, endOf }
}

import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { parseScenario, readScenario } from '../../simulate/scenario.ts'
import { own, rented, scenario } from './stage.ts'

const folder = new URL('../scenarios/', import.meta.url)
const source = { id: 's', kind: 'poisson', len: 'conv', rate: 1, model: 'a', deadline: 20, prio: 1 }
const whole = { ...scenario, nodes: [own, rented], sources: [source] }

t.test('every scenario of the project is one', async t => {
  const files = readdirSync(folder).filter(name => name.endsWith('.json'))
  t.ok(files.length >= 3)
  for (const file of files) t.doesNotThrow(() => readScenario(fileURLToPath(new URL(file, folder))), file)
})

t.test('all that a scenario may hold is let through as it is, and what is not known, too', async t => {
  const full = {
    ...whole,
    nodes: [
      { ...own, drift: [{ from: 1, to: 2, factor: 3 }] },
      { ...rented, drift: [{ from: 1, factor: 3 }], outages: [{ from: 1, to: 2 }] }
    ],
    events: [{ t: 1, node: 'own', up: false }],
    drain: 100,
    blankProfiles: true,
    benchmarkError: { own: 0.1 },
    cancelFraction: 0.2,
    stuckLoad: { node: 'own', from: 5 },
    priceChange: [{ t: 1, node: 'rented', factor: 2 }],
    restart: [{ t: 1 }],
    clockSkew: [{ t: 1, by: -5 }],
    maxCost: 0.01,
    hidden: { prefillHaltsDecode: true, prefixCache: true, contextFactor: 2, stalls: 0.1, stallSeconds: 5 },
    remark: 'for people'
  }
  t.same(parseScenario(full), full)
})

t.test('what is wrong is named by its path', async t => {
  const node = (changes: object, index = 0) => ({ nodes: whole.nodes.map((each, at) => (at === index ? { ...each, ...changes } : each)) })
  const from = (changes: object) => ({ sources: [{ ...source, ...changes }] })
  const table: readonly (readonly [object, string])[] = [
    [{ schema: 'x' }, 'schema: must be "llm-mcp/routing-scenario@1", not "x"'],
    [{ id: 5 }, 'id: must be a text, not 5'],
    [{ duration: 0 }, 'duration: must be above 0, not 0'],
    [{ models: {} }, 'models: must not be empty'],
    [{ models: { a: { gb: '4' } } }, 'models.a.gb: must be a number, not "4"'],
    [{ nodes: {} }, 'nodes: must be a list, not {}'],
    [node({ vram: undefined }), 'nodes[0].vram: must be a number, not nothing'],
    [node({ slots: 1.5 }), 'nodes[0].slots: must be a whole number above 0, not 1.5'],
    [node({ kind: 'own' }), 'nodes[0].kind: must be "cloud" or absent, not "own"'],
    [node({ models: { x: { dec: 1, pre: 1 } } }), 'nodes[0].models.x: is not among the models'],
    [node({ models: { a: { dec: 1, pre: -1 } } }), 'nodes[0].models.a.pre: must be above 0, not -1'],
    [node({ drift: [{ from: 5, to: 5, factor: 1 }] }), 'nodes[0].drift[0].to: must be above 5, not 5'],
    [node({ id: 'own' }, 1), 'nodes[1].id: there is another "own"'],
    [node({ fail: 1.5 }, 1), 'nodes[1].fail: must be between 0 and 1, not 1.5'],
    [node({ outages: [{ from: 1 }] }, 1), 'nodes[1].outages[0].to: must be a number, not nothing'],
    [from({ len: 'poem' }), 'sources[0].len: must be one of code, conv, not "poem"'],
    [from({ prio: 3 }), 'sources[0].prio: must be one of 0, 1, 2, not 3'],
    [from({ rate: undefined }), 'sources[0].rate: must be a number, not nothing'],
    [from({ kind: 'dump', size: 5 }), 'sources[0].at: must be a list, not nothing'],
    [from({ mix: { a: 1 } }), 'sources[0]: must have either a model or a mix of models'],
    [from({ model: undefined }), 'sources[0]: must have either a model or a mix of models'],
    [from({ model: 'x' }), 'sources[0].model: no node has the model "x"'],
    [from({ model: undefined, mix: { x: 1 } }), 'sources[0].mix.x: no node has the model "x"'],
    [from({ maxTokens: 0 }), 'sources[0].maxTokens: must be a whole number above 0, not 0'],
    [{ events: [{ t: 1, node: 'x', up: true }] }, 'events[0].node: there is no node "x"'],
    [{ events: [{ t: 1, node: 'own', up: 'no' }] }, 'events[0].up: must be true or false, not "no"'],
    [{ stuckLoad: { node: 'rented', from: 1 } }, 'stuckLoad.node: there is no own node "rented"'],
    [{ priceChange: [{ t: 1, node: 'own', factor: 1 }] }, 'priceChange[0].node: there is no cloud node "own"'],
    [{ benchmarkError: { x: 1 } }, 'benchmarkError.x: there is no node "x"'],
    [{ cancelFraction: 2 }, 'cancelFraction: must be between 0 and 1, not 2'],
    [{ restart: [{}] }, 'restart[0].t: must be a number, not nothing'],
    [{ clockSkew: [{ t: 1, by: null }] }, 'clockSkew[0].by: must be a number, not null'],
    [{ hidden: { stalls: 7 } }, 'hidden.stalls: must be between 0 and 1, not 7'],
    [{ generator: { nodes: 0 } }, 'generator.nodes: must be a whole number above 0, not 0']
  ]
  for (const [changes, message] of table) t.throws(() => parseScenario({ ...whole, ...changes }), { name: 'ScenarioError', message })
  t.throws(() => parseScenario([]), { message: 'the scenario: must be an object, not []' })
})

t.test('a file that is missing or no JSON is said to be so', async t => {
  t.throws(() => readScenario('/nowhere.json'), { name: 'ScenarioError', message: '/nowhere.json: cannot be read (ENOENT)' })
  t.throws(() => readScenario(fileURLToPath(import.meta.url)), { name: 'ScenarioError', message: /is no JSON/ })
})

t.test('a generator makes the same fleet from the same numbers, and sources without a model ask for all of it', async t => {
  const wish = { schema: whole.schema, id: 'many', title: 'many', duration: 60, sources: [{ ...source, model: undefined }] }
  const made = (seed: number) => parseScenario({ ...wish, generator: { nodes: 100, models: 500, modelsPerNode: 5, seed } })
  const one = made(1)
  t.equal(one.nodes.length, 100)
  t.equal(Object.keys(one.models).length, 500)
  t.equal(Object.keys(one.sources[0]?.mix ?? {}).length, 500)
  t.ok(one.nodes.every(({ models }) => Object.keys(models).length === 5))
  t.ok(one.nodes.some(({ kind }) => kind === 'cloud') && one.nodes.some(({ kind }) => kind === undefined))
  t.same(made(1), one)
  t.notSame(made(2), one)
})

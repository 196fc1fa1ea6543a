// Tools and the choice among them: flat in Responses, nested in chat.

import {
  givenOf,
  isGiven,
  isRecord,
  type Json,
  optionalList,
  optionalRecord,
  requiredName,
  requiredRecord,
  unsupported,
  wrong
} from './fields.ts'

// OpenAI takes 128; other providers take more, and each says so itself.
const toolsAtMost = 1_024

const inside = ['name', 'description', 'parameters', 'strict']

/** The tools in chat's form; what a chat tool has no place for is named in `dropped`. Null when none are given. */
export function readTools(tools: unknown, dropped: Set<string>): Json[] | null {
  const list = optionalList(tools, 'tools', toolsAtMost)
  return list?.map((tool, index) => readTool(requiredRecord(tool, `tools[${index}]`), `tools[${index}]`, dropped)) ?? null
}

function readTool(tool: Json, param: string, dropped: Set<string>): Json {
  // Chat's own form, met where the two are mixed up.
  if (isRecord(tool.function) || isRecord(tool.custom)) return tool
  if (tool.type === 'function') return { type: 'function', function: readFunction(tool, param, dropped) }
  if (tool.type === 'custom') return { type: 'custom', custom: readCustom(tool, param) }
  if (typeof tool.type !== 'string') throw wrong(`${param}.type`, 'function or custom', tool.type)
  throw unsupported(`${param}.type`, `tools of type "${tool.type.slice(0, 64)}" would run at OpenAI; offer a function instead`)
}

function readFunction(tool: Json, param: string, dropped: Set<string>): Json {
  requiredName(tool.name, `${param}.name`)
  optionalRecord(tool.parameters, `${param}.parameters`)
  for (const [name, value] of Object.entries(tool)) {
    if (name !== 'type' && !inside.includes(name) && isGiven(value) && value !== false) dropped.add(`tools.${name.slice(0, 64)}`)
  }
  return givenOf(Object.fromEntries(inside.map(name => [name, tool[name]])))
}

function readCustom(tool: Json, param: string): Json {
  const name = requiredName(tool.name, `${param}.name`)
  const format = optionalRecord(tool.format, `${param}.format`)
  const { type, ...grammar } = format ?? {}
  return givenOf({ name, description: tool.description, format: type === 'grammar' ? { type, grammar } : format })
}

/** The choice in chat's form, or null when none is given. */
export function readToolChoice(choice: unknown): string | Json | null {
  if (!isGiven(choice)) return null
  if (typeof choice === 'string') {
    if (choice !== 'none' && choice !== 'auto' && choice !== 'required')
      throw wrong('tool_choice', 'none, auto, required or an object', choice)
    return choice
  }
  if (!isRecord(choice)) throw wrong('tool_choice', 'a string or an object', choice)
  if (choice.type === 'allowed_tools') return readAllowed(choice)
  return readNamed(choice, 'tool_choice')
}

function readAllowed(choice: Json): Json {
  if (isRecord(choice.allowed_tools)) return choice
  const { mode } = choice
  if (mode !== 'auto' && mode !== 'required') throw wrong('tool_choice.mode', 'auto or required', mode)
  const tools = optionalList(choice.tools, 'tool_choice.tools', toolsAtMost)
  if (tools === null) throw wrong('tool_choice.tools', 'a list', null)
  const named = tools.map((tool, index) => {
    const param = `tool_choice.tools[${index}]`
    return readNamed(requiredRecord(tool, param), param)
  })
  return { type: 'allowed_tools', allowed_tools: { mode, tools: named } }
}

function readNamed(choice: Json, param: string): Json {
  if (isRecord(choice.function) || isRecord(choice.custom)) return choice
  const { type } = choice
  if (type === 'function' || type === 'custom') return { type, [type]: { name: requiredName(choice.name, `${param}.name`) } }
  if (typeof type !== 'string') throw wrong(`${param}.type`, 'function, custom or allowed_tools', type)
  throw unsupported(`${param}.type`, `"${type.slice(0, 64)}" would run at OpenAI; offer a function instead`)
}

// Where model servers listen by habit on the machine they are started on.

export const ollamaPort = 11_434

export interface Habit {
  readonly name: string
  readonly port: number
}

export const habits: readonly Habit[] = [
  { name: 'Ollama', port: ollamaPort },
  { name: 'LM Studio', port: 1234 },
  { name: 'vLLM', port: 8000 },
  { name: 'llama.cpp', port: 8080 }
]

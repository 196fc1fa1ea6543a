// What is handed out with the program holds: the schema, llm-mcp.example.yaml and .env.example.

import { readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import t from 'tap'
import { configJsonSchema, loadSettings } from '../../bin/config.ts'
import { ids } from './support.ts'

const root = resolve(import.meta.dirname, '../..')

t.test('the published schema is the one in use', async t => {
  const published: unknown = JSON.parse(await readFile(join(root, 'llm-mcp.schema.json'), 'utf8'))
  t.same(published, configJsonSchema(), 'npm run schema writes it')
})

t.test('the example loads, without a key and with all of them', async t => {
  const cwd = t.testdir({})
  const LLM_MCP_CONFIG = join(root, 'llm-mcp.example.yaml')
  t.same(ids(await loadSettings({ cwd, env: { LLM_MCP_CONFIG } })), ['rtx', 'studio', 'mini'])
  const keys = { OPENAI_API_KEY: 'a', OPENROUTER_API_KEY: 'b', GROQ_API_KEY: 'c' }
  t.same(ids(await loadSettings({ cwd, env: { LLM_MCP_CONFIG, ...keys } })), ['rtx', 'studio', 'openrouter', 'openai', 'mini', 'groq'])
})

t.test('.env.example holds every setting, each with a value that is accepted', async t => {
  const text = await readFile(join(root, '.env.example'), 'utf8')
  const settings = new Map([...text.matchAll(/^#([A-Z0-9_]+)=(.*)$/gm)].map(([, name = '', value = '']) => [name, value]))
  t.same([...settings.keys()].sort(), [
    'ALERT_FAIL_THRESHOLD',
    'BENCHMARK_MAX_PRICE_PER_1M',
    'DATABASE_URL',
    'DEVICE_LIMITS_FILE',
    'DEVICE_LIMITS_JSON',
    'DEVICE_MAX_CONCURRENCY',
    'DISCOVERY_INTERVAL',
    'ELECTRICITY_USD_PER_KWH',
    'HOST',
    'JOB_RETENTION_DAYS',
    'LLM_MCP_ADMIN_KEY',
    'LLM_MCP_ALLOWED_HOSTS',
    'LLM_MCP_AUTH',
    'LLM_MCP_CONFIG',
    'LLM_MCP_CORS_ORIGINS',
    'LLM_MCP_DATA_DIR',
    'LLM_MCP_ROLE',
    'LLM_MCP_WEBHOOK_ALLOW',
    'LLM_MCP_WEBHOOK_SECRET',
    'LOG_LEVEL',
    'OLLAMA_HOST',
    'OLLAMA_PORTS',
    'OPENAI_API_KEY',
    'OPENAI_UPSTREAM_URL',
    'OPENROUTER_API_KEY',
    'OPENROUTER_MAX_PRICE_PER_1M',
    'OPENROUTER_SYNC_INTERVAL',
    'OPENROUTER_SYNC_ON_STARTUP',
    'OPENROUTER_SYNC_TOP',
    'OPENROUTER_UPSTREAM_URL',
    'OTEL_EXPORTER_OTLP_ENDPOINT',
    'PORT',
    'ROUTE_RETENTION_DAYS',
    'TAILSCALE_BIN',
    'TELEGRAM_BOT_TOKEN',
    'TELEGRAM_CHAT_ID',
    'TELEGRAM_MCP_BASE_URL',
    'TELEGRAM_MCP_BOT_ID',
    'TELEGRAM_MCP_CHAT_ID',
    'TELEGRAM_MCP_FALLBACK_DIRECT',
    'TELEGRAM_USE_MCP',
    'TELEMETRY_CHECK_INTERVAL'
  ])
  // Empty on purpose, and refused when it is; the files need to be there.
  settings.delete('LLM_MCP_ADMIN_KEY')
  t.match(settings.get('LLM_MCP_WEBHOOK_SECRET'), '', 'a secret that everybody knows would be none')
  const cwd = t.testdir({ 'device-limits.json': '{}', 'llm-mcp.yaml': '' })
  t.match(await loadSettings({ env: Object.fromEntries(settings), cwd }), {
    port: 4000,
    host: '127.0.0.1',
    auth: true,
    logLevel: 'info',
    electricityUsdPerKwh: 0.25,
    role: 'all',
    jobRetentionDays: 30
  })
})

# The gateway alone, for a PostgreSQL of your own (DATABASE_URL; see compose.yml). The image has its Node, so the packaged Node and the
# embedded PostgreSQL, which are the project's optional packages, stay out.

FROM node:26-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:26-slim
WORKDIR /app
COPY --from=packages /app/node_modules ./node_modules
COPY package.json LICENSE llm-mcp.schema.json ./
COPY bin ./bin
COPY gateway ./gateway
COPY planner ./planner
COPY queue ./queue
COPY ledger ./ledger
COPY store ./store
COPY migrations ./migrations
COPY adapters ./adapters
COPY outbound ./outbound
COPY routing ./routing
# The journal: what was spent and is not yet in the database.
RUN mkdir /data && chown node:node /data
VOLUME /data
ENV NODE_ENV=production HOST=0.0.0.0 PORT=4000 LLM_MCP_DATA_DIR=/data
USER node
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --start-interval=1s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT}/ready`).then(answer => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "bin/llm-mcp.js", "serve"]

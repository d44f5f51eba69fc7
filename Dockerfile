# The operator's image: compiled JavaScript and its production modules, nothing else. Runs as any user, writes nothing.
FROM node:22-bookworm-slim AS build
WORKDIR /isthmus
COPY package.json package-lock.json ./
COPY drivers/libvirt/package.json drivers/libvirt/
RUN npm install --no-save --no-audit --no-fund
COPY . .
RUN npm run build && npm prune --omit=dev

FROM node:22-bookworm-slim
WORKDIR /isthmus
ENV NODE_ENV=production
COPY --from=build /isthmus/package.json ./
COPY --from=build /isthmus/node_modules node_modules
COPY --from=build /isthmus/dist dist
USER 65532:65532
ENTRYPOINT ["node", "dist/controllers/main.js"]

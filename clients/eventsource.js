// The npm package eventsource. It comes back by itself, with the Last-Event-ID.
import { EventSource } from 'eventsource'
import { fromSSE, headers, names, print, url } from './frames.js'

const source = new EventSource(`${url}/v2/realtime/stream?cursor=earliest`, {
  fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers } }),
})
for (const name of names) {
  source.addEventListener(name, (event) => print(fromSSE(name, event.lastEventId, event.data)))
}
source.addEventListener('error', (error) => {
  console.error(error.code ?? '', error.message ?? '')
  if (source.readyState === EventSource.CLOSED) process.exit(1)
})

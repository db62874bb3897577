// The npm package eventsource-parser behind Node's fetch.
import { EventSourceParserStream } from 'eventsource-parser/stream'
import { forever, fromSSE, headers, print, url } from './frames.js'

let last
await forever(async () => {
  const from = last === undefined ? {} : { 'Last-Event-ID': last }
  const response = await fetch(`${url}/v2/realtime/stream?cursor=earliest`, {
    headers: { ...headers, ...from, Accept: 'text/event-stream' },
  })
  if (!response.ok) throw new Error(`status ${response.status}`)
  const events = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream())
  for await (const { event, id, data } of events) {
    last = id ?? last
    print(fromSSE(event, id, data))
  }
})

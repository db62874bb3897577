// Node's own fetch, reading NDJSON.
import { forever, headers, print, url } from './frames.js'

let cursor = 'earliest'
await forever(async () => {
  const response = await fetch(`${url}/v2/realtime/stream?cursor=${cursor}`, {
    headers: { ...headers, Accept: 'application/x-ndjson' },
  })
  if (!response.ok) throw new Error(`status ${response.status}`)
  let rest = ''
  for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split('\n')
    rest = lines.pop()
    for (const frame of lines.map((line) => JSON.parse(line))) {
      cursor = frame.cursor ?? cursor
      print(frame)
    }
  }
})

// The npm package ws.
import { once } from 'node:events'
import WebSocket from 'ws'
import { forever, headers, print, url } from './frames.js'

let cursor = 'earliest'
await forever(async () => {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v2/realtime/stream?cursor=${cursor}`, { headers })
  socket.on('message', (text) => {
    const frame = JSON.parse(text)
    cursor = frame.cursor ?? cursor
    print(frame)
  })
  await once(socket, 'close') // throws what 'error' brings
})

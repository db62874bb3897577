// Node's own fetch, polling.
import { forever, headers, print, url } from './frames.js'

let cursor = 'earliest'
await forever(async () => {
  for (;;) {
    const response = await fetch(`${url}/v2/realtime/poll?wait=5&cursor=${cursor}`, { headers })
    if (!response.ok) throw new Error(`status ${response.status}`)
    const answer = await response.json()
    cursor = answer.cursor
    print(answer)
  }
})
